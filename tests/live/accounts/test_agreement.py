# SPDX-License-Identifier: GPL-2.0-or-later

"""After many connections, with kills among them, all that is told of them agrees.

LPSERVE_CHAOS_CONNECTIONS says how many there are, and LPSERVE_CHAOS_SEED which die is
cast.
"""

import json
import os
import random
import signal
import sys
from collections import Counter

from ...harness import BY_DOOR
from .test_connections import AccountsTestCase

COUNT = int(os.environ.get("LPSERVE_CHAOS_CONNECTIONS", 300))
SEED = int(os.environ.get("LPSERVE_CHAOS_SEED", random.randrange(1 << 32)))
#: Connections that are open at once.
AT_ONCE = 8
#: How connections end, and how that is told.
ENDS = {
    "closed": ("ended", "exit 0"),
    "killed": ("failed", "signal 9"),
    "terminated": ("failed", "signal 15"),
    "evicted": ("evicted", "exit 0"),
    "evicted now": ("evicted", "signal 15"),
}


class TestAgreement(AccountsTestCase):
    def setUp(self):
        super().setUp()
        self.path = os.path.join(self.test_dir, "access.log")
        self.random = random.Random(SEED)
        # By user: the door, how it ends, and how often it said hello.
        self.expected = {}
        self.open = []

    def test_agreement(self):
        self.configure(access_log=self.path, history=COUNT + 1)
        self.start_service()
        sys.stderr.write(f"\nagreement: seed {SEED}, {COUNT} connections\n")
        for number in range(COUNT):
            self.begin(f"u{number}")
            if number % 50 == 49:
                os.kill(self.status()["zygote"], signal.SIGKILL)
            while len(self.open) >= AT_ONCE:
                self.end_one()
        self.check_running()
        while self.open:
            self.end_one()
        history = self.told(COUNT)
        self.check_history(history)
        with open(self.path, encoding="utf-8") as file:
            self.assertEqual(history, [json.loads(line) for line in file])
        self.check_metrics(history)
        self.assertEqual([], self.tell("connections"))

    def begin(self, user):
        door = self.random.choice(BY_DOOR)[0]
        connection = self.connect(user, door).open()
        hellos = self.random.randrange(1, 4)
        for _ in range(hellos):
            self.assertEqual(b"ok\x012\n", connection.hello())
        self.open.append((user, connection))
        self.expected[user] = (door, self.random.choice(list(ENDS)), hellos)

    def end_one(self):
        user, connection = self.open.pop(self.random.randrange(len(self.open)))
        how = self.expected[user][1]
        if how == "closed":
            connection.close()
        elif how == "killed":
            os.kill(connection.pid, signal.SIGKILL)
        elif how == "terminated":
            os.kill(connection.pid, signal.SIGTERM)
        elif how == "evicted":
            self.assertEqual(["ok", "1"], self.ask("end", user))
        else:
            self.assertEqual(["ok", "1"], self.ask("end", str(connection.pid), "now"))
        self.assertEqual(ENDS[how][1].split(), connection.end())
        connection.close()

    def check_running(self):
        """``connections`` has those that are open."""
        wanted = [(user, each.pid, self.expected[user][2]) for user, each in self.open]
        found = [
            (each["user"], each["pid"], each["requests"])
            for each in self.tell("connections")
        ]
        self.assertEqual(sorted(wanted), sorted(found))

    def check_history(self, history):
        """Each connection is there, once, and as it was."""
        self.assertEqual(set(self.expected), {each["user"] for each in history})
        for each in history:
            door, how, hellos = self.expected[each["user"]]
            wanted = (door, *ENDS[how], hellos, {"hello": hellos}, 6 * hellos)
            names = ("door", "how", "exit", "requests", "verbs", "bytes_in")
            self.assertEqual(wanted, tuple(each[name] for name in names), each)
            # One that was killed may have been about to count its last answer.
            least = hellos - each["exit"].startswith("signal")
            self.assertIn(each["bytes_out"], (5 * least, 5 * hellos), each)

    def check_metrics(self, history):
        metrics, status = self.tell("metrics"), self.status()
        wanted = Counter((each["how"], each["door"]) for each in history)
        found = {
            (each["result"], each["door"]): each["count"]
            for each in metrics["connections"]
        }
        self.assertEqual(dict(wanted), {key: n for key, n in found.items() if n})
        first = sum(each["first_byte"] is not None for each in history)
        for name, number in (
            ("hand_over", COUNT),
            ("first_byte", first),
            ("duration", COUNT),
        ):
            self.assertEqual(number, metrics["histograms"][name]["count"], name)
        seconds = sum(each["seconds"] for each in history)
        total = metrics["histograms"]["duration"]["sum"]
        self.assertLess(abs(seconds - total), 0.001 * COUNT)
        self.assertEqual(COUNT // 50, metrics["zygote_deaths"])
        self.assertGreaterEqual(metrics["forks"], COUNT)
        totals = status["totals"]
        self.assertEqual(COUNT, totals["spawned"])
        for result in ("ended", "gone", "failed", "evicted"):
            number = sum(n for (how, _), n in wanted.items() if how == result)
            self.assertEqual(number, totals[result], result)
        self.assertEqual((0, {}), (totals["faults"], metrics["refused"]))
