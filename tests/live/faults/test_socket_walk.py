# SPDX-License-Identifier: GPL-2.0-or-later

"""A random walk at the socket: clients go, and all else is killed.

``LPSERVE_SOCKET_CONNECTIONS`` says how many connections are made (100), and
``LPSERVE_SOCKET_SEED`` repeats a walk, as far as that can be.
"""

import collections
import contextlib
import os
import random
import signal

from ...harness import HELLO, wait_until
from ..spawning.socketcase import SocketTestCase
from . import victims

COUNT = int(os.environ.get("LPSERVE_SOCKET_CONNECTIONS", "100"))
SEED = int(os.environ.get("LPSERVE_SOCKET_SEED", random.randrange(1 << 32)))


class TestWalk(SocketTestCase):
    """Whoever was not hit is served."""

    def test_walk(self):
        self.rng = random.Random(SEED)
        self.counts = collections.Counter()
        self.open = []
        self.start_service()
        before = self.rest()
        for number in range(COUNT):
            self.begin(f"c{number}")
            while len(self.open) > self.rng.randrange(12):
                self.rng.choice(self.moves())()
            if number % 40 == 20:
                self.kill_zygote()
            if number % 80 == 60:
                self.restart()
        while self.open:
            self.rng.choice((self.finish, self.leave))()
        report = f"seed {SEED}: {dict(self.counts)}"
        self.assertServed()
        self.rest(descriptors=before)
        self.assertEqual(0, self.status()["totals"]["faults"], report)
        wait_until(lambda: not victims.zombies_of(self.service.pid), report)
        self.assertEqual(["control", "socket"], sorted(self.paths_left()), report)
        # The service, the zygote, two spare workers.
        wait_until(lambda: len(self.processes()) == 4, report)
        if "LPSERVE_SOCKET_CONNECTIONS" in os.environ:
            os.write(2, f"\n{report}\n".encode())

    def moves(self):
        usual = [self.talk, self.finish, self.leave] * 4
        return [*usual, self.kill_worker, self.kill_worker, self.kill_spare]

    def begin(self, user):
        link = self.link()
        link.orphaned = False
        early = self.rng.random() < 0.2
        link.request(user, self.rng.randrange(1, 15) if early else None)
        if early:
            link.close()  # in the middle of the line, or before the answer
            self.counts["left early"] += 1
        else:
            self.open.append(link)

    def wait_answer(self, link):
        """See that it has got its worker."""
        if link.pid < 0:
            answer = link.answer()
            self.assertEqual("ok", answer[0], f"seed {SEED}: {answer}")
            link.pid = int(answer[1])

    def take(self):
        link = self.rng.choice(self.open)
        self.open.remove(link)
        return link

    def talk(self):
        if self.open:
            link = self.rng.choice(self.open)
            self.wait_answer(link)
            self.assertEqual(HELLO, link.hello(), f"seed {SEED}")
            self.counts["talked"] += 1

    def finish(self):
        if self.open:
            link = self.take()
            self.wait_answer(link)
            self.assertEqual([["exit", "0"]], link.end(), f"seed {SEED}")
            self.counts["finished"] += 1

    def leave(self):
        if self.open:
            self.take().close()
            self.counts["left"] += 1

    def kill_worker(self):
        if self.open:
            link = self.take()
            self.wait_answer(link)
            os.kill(link.pid, signal.SIGKILL)
            # Of the children of a dead service nobody tells.
            expected = [] if link.orphaned else [["signal", "9"]]
            self.assertEqual(expected, link.end(), f"seed {SEED}")
            self.counts["worker killed"] += 1

    def kill_spare(self):
        for link in self.open:
            self.wait_answer(link)
        # A worker is still called a spare one when it says "ok".
        ours = [link.pid for link in self.open]
        for pid in self.processes():
            if victims.kind_of(pid) == ("spare", "") and pid not in ours:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                # Until then it might still be given a connection.
                wait_until(lambda: not victims.is_running(pid), "its end")  # noqa: B023
                self.counts["spare killed"] += 1
                return

    def kill_zygote(self):
        """Whoever waits for a worker gets it from the next one."""
        zygote = self.status()["zygote"]
        if zygote is not None:
            os.kill(zygote, signal.SIGKILL)
            self.counts["zygote killed"] += 1

    def restart(self):
        """The service is killed: who had a worker goes on, the others hear of it."""
        for link in self.open:
            self.wait_answer(link)
            link.orphaned = True
        unheard = self.link()
        self.kill_service()
        self.assertEqual([], unheard.answer())
        self.wait_until_refused()
        self.start_service()
        self.counts["service killed"] += 1
