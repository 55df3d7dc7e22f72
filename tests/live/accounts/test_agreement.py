# SPDX-License-Identifier: GPL-2.0-or-later

"""After many connections, with kills among them, all that is told of them agrees.

LPSERVE_AGREEMENT_CONNECTIONS says how many there are, and LPSERVE_CHAOS_SEED which die
is cast.
"""

import json
import os
import random
import signal
import sys
from collections import Counter

from ...harness import BY_DOOR, read_line, wait_until
from .test_connections import AccountsTestCase

COUNT = int(os.environ.get("LPSERVE_AGREEMENT_CONNECTIONS", 300))
SEED = int(os.environ.get("LPSERVE_CHAOS_SEED", random.randrange(1 << 32)))
#: Connections that are open at once.
AT_ONCE = 8
#: Requests, and their answers.
HELLO, HAS = (b"hello\n", b"ok\x012\n"), (b"has\x01place/.bzr/README\n", b"no\n")
#: How connections end, and how that is told.
ENDS = {
    "closed": ("ended", "exit 0"),
    "gone": ("gone", "exit 3"),
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
        # By user: the door, how it ends, and its requests.
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
        asked = self.random.choices((HELLO, HAS), k=self.random.randrange(1, 4))
        for request, answer in asked:
            os.write(connection.stdin, request)
            self.assertEqual(answer, read_line(connection.stdout))
        self.open.append((user, connection))
        self.expected[user] = (door, self.random.choice(list(ENDS)), asked)

    def end_one(self):
        user, connection = self.open.pop(self.random.randrange(len(self.open)))
        how = self.expected[user][1]
        if how == "closed":
            connection.close()
        elif how == "gone":
            os.close(connection.stdout)
            connection.stdout = -1
            os.write(connection.stdin, HELLO[0])
            self.expected[user][2].append((HELLO[0], b""))
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
        wanted = [
            (user, each.pid, len(self.expected[user][2])) for user, each in self.open
        ]

        def found():
            told = self.tell("connections")
            return [(each["user"], each["pid"], each["requests"]) for each in told]

        # A worker tells its client that it leaves before it tells the service.
        wait_until(lambda: sorted(found()) == sorted(wanted), f"open are {wanted}")

    def check_history(self, history):
        """Each connection is there, once, and as it was."""
        self.assertEqual(set(self.expected), {each["user"] for each in history})
        for each in history:
            door, how, asked = self.expected[each["user"]]
            verbs = Counter(request.split(b"\1")[0].strip() for request, _ in asked)
            wanted = {
                "door": door,
                "how": ENDS[how][0],
                "exit": ENDS[how][1],
                "requests": len(asked),
                "verbs": {verb.decode(): count for verb, count in verbs.items()},
                "repositories": ["/place"] if b"has" in verbs else [],
                "bytes_in": sum(len(request) for request, _ in asked),
            }
            self.assertEqual(wanted, {name: each[name] for name in wanted})
            sizes = [len(answer) for _, answer in asked]
            written = {sum(sizes)}
            if each["exit"].startswith("signal"):
                # It may have been killed before it counted its last answer.
                written.add(sum(sizes[:-1]))
            self.assertIn(each["bytes_out"], written, each)

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
