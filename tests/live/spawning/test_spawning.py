# SPDX-License-Identifier: GPL-2.0-or-later

"""Spawning and stdio: what goes wrong between a request and a worker's end."""

import os
import random
import re
import resource
import select
import signal
import statistics
import threading
import time

from ...harness import (
    DEADLINE,
    DOORS,
    HELLO,
    Connection,
    LiveTestCase,
    SocketConnection,
    descriptors_of,
    limit_descriptors,
    read_line,
    wait_until,
)
from ...processes import title_of
from ..faults.victims import state_of

#: Makes a worker wait before each thing that it does with its stdio: the pauses put its
#: steps and the client's into every order, which is FAULT 5.
SLOW = """
import os, random, time
from breezy.plugins.lpserve.lpserve.zygote import worker

class SlowOs:
    def __init__(self):
        self.random = random.Random(f"{os.environ['SLOW_SEED']} {os.getpid()}")

    def pause(self):
        # Nothing is waited for: each step takes as long as it happens to.
        time.sleep(self.random.random() / 100)

    def __getattr__(self, name):
        if name in ("open", "write", "dup2"):
            self.pause()
        return getattr(os, name)

def slowly(real):
    def connect(self, *args):
        worker.os = SlowOs()
        worker.os.pause()
        real(self, *args)
    return connect

def remove_connection(path, real=worker.remove_connection):
    worker.os.pause()
    real(path)

for kind in (worker._FifoAnswers, worker._LinkAnswers):
    kind.connect = slowly(kind.connect)
worker.remove_connection = remove_connection
"""


class TestSpawning(LiveTestCase):
    def pid_for(self, user: str) -> int:
        """The pid of the worker that serves *user*."""

        def found() -> list[int]:
            return [pid for pid in self.processes() if title_of(pid) == f"lp:{user}"]

        return wait_until(found, f"a worker for {user}")[0]

    def fifos_gone(self, connection: Connection) -> bool:
        return not os.path.exists(os.path.dirname(connection.paths[0]))

    def test_nobody_opens_the_fifos(self):
        """FAULT 2: the client opens none of the FIFOs, or only some of them."""
        self.configure(connect_timeout=1)
        self.start_service()
        before = self.rest()
        connections = [self.connect() for _ in range(3)]
        connections[1].stdin = os.open(connections[1].paths[0], os.O_WRONLY)
        connections[2].stdin = os.open(connections[2].paths[0], os.O_WRONLY)
        connections[2].stdout = os.open(connections[2].paths[1], os.O_RDONLY)
        for connection in connections:
            self.assertEqual(["exit", "75"], connection.end())
            self.assertTrue(self.fifos_gone(connection))
            connection.close()
        self.rest(descriptors=before)

    def test_service_has_no_descriptors_left(self):
        """FAULT 3: EMFILE at each thing that the service opens for a connection."""
        self.configure(spare_workers=1)
        self.start_service()
        before = self.rest(1)
        self.spawn_with_fewer_and_fewer(1, before)
        self.configure(spare_workers=0)
        self.assertEqual(["ok"], self.ask("reload"))
        # Without the spare worker's channel and pidfd.
        self.spawn_with_fewer_and_fewer(0, before - 2)
        self.assertEqual(DOORS, self.paths_left())

    def spawn_with_fewer_and_fewer(self, spares: int, before: int) -> None:
        for door in ("fifo", "socket"):
            answers = [
                self.spawn_with_descriptors(door, n, spares, before) for n in range(8)
            ]
            self.assertEqual("ok", answers[-1])
            if spares:
                self.assertEqual({"ok", "error"}, set(answers))

    def spawn_with_descriptors(
        self, door: str, count: int, spares: int, before: int
    ) -> str:
        """A spawn while the service can open only *count*; the answer's first word.

        The limit is as before once the service has met it or has answered.
        """
        self.rest(spares, before)
        pid, start = self.service.pid, len(self.log_text())
        limits = limit_descriptors(pid, count)
        asked = self.ask_worker("alice", door)

        def answer_or_log() -> object:
            answered = select.select([asked.conversation.reply], [], [], 0)[0]
            return answered or "cannot " in self.log_text(start)

        wait_until(answer_or_log, "the service has got the request")
        resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
        # If it could not even answer, it does as soon as it can.
        answer = asked.wait()
        if answer[0] == "ok":
            os.kill(asked.pid, signal.SIGKILL)
            self.assertEqual(["signal", "9"], asked.end())
        else:
            self.assertEqual(["error", "failed"], answer[:2])
            self.assertContainsRe(
                answer[2], "Too many open files|service has no descriptors left"
            )
        asked.close()
        asked.conversation.close()
        self.check_serves(doors=(door,))
        self.rest(spares, before)
        return answer[0]

    def test_worker_has_no_descriptors_left(self):
        """FAULT 3: a worker receives fewer than were sent, or cannot open stderr."""
        self.configure(spare_workers=1)
        self.start_service()
        before = self.rest(1)
        rest = {self.service.pid, self.status()["zygote"]}
        for door, count in (
            ("fifo", 0),
            ("fifo", 1),
            *(("socket", n) for n in range(4)),
        ):
            (spare,) = set(self.processes()) - rest
            wait_until(
                lambda spare=spare: title_of(spare) == "lp-spare",
                "the spare worker is ready",
            )
            limit_descriptors(spare, count)
            if door == "socket":
                self.check_served_by_nobody(door)
            else:
                connection = self.connect()
                self.assertEqual(spare, connection.pid)
                end = connection.end()
                self.assertEqual("exit", end[0])
                self.assertNotEqual("0", end[1])
                self.assertTrue(self.fifos_gone(connection))
            self.rest(1, before)
        connection = self.connect()
        connection.stdin = os.open(connection.paths[0], os.O_WRONLY)

        def waits_for_stdout() -> bool:
            stdin = connection.paths[0]
            opened = descriptors_of(connection.pid)
            found = [number for number, name in opened.items() if name == stdin]
            return found == [0] and state_of(connection.pid) == b"S"

        wait_until(waits_for_stdout, "the worker has its stdin")
        resource.prlimit(connection.pid, resource.RLIMIT_NOFILE, (3, 3))
        connection.stdout = os.open(connection.paths[1], os.O_RDONLY)
        self.assertEqual(["exit", "75"], connection.end())
        self.assertTrue(self.fifos_gone(connection))
        connection.close()
        self.rest(1, before)

    def check_served_by_nobody(self, door: str) -> None:
        """A worker without its descriptors ends, and touches none of the client's."""
        connection = self.ask_worker(door=door)
        end = connection.conversation.wait_answer(time.monotonic() + DEADLINE)
        self.assertEqual("exit", end[0])
        self.assertNotEqual("0", end[1])
        # The worker never had them.
        self.assertEqual(b"", read_line(connection.stdout))
        self.assertEqual(b"", read_line(connection.stderr))
        connection.close()
        connection.conversation.close()

    def test_descriptors_of_a_worker(self):
        """FAULTS 4 and 10: they are blocking, and none is another worker's."""
        self.start_service()
        for door in ("fifo", "socket"):
            self.check_descriptors(
                door, *(self.connect(user, door).open() for user in ("one", "other"))
            )

    def check_descriptors(self, door: str, one: Connection, other: Connection) -> None:
        for connection in (one, other):
            self.assertEqual(HELLO, connection.hello())
            if door == "fifo":
                self.assertTrue(self.fifos_gone(connection))
            opened = descriptors_of(connection.pid)
            stdio = [opened.pop(number) for number in range(3)]
            if door == "fifo":
                paths = [n.partition(" ")[0] for n in stdio]
                self.assertEqual(connection.paths, paths)
            else:
                ours = descriptors_of(os.getpid())
                near = (connection.stdin, connection.stdout, connection.stderr)
                self.assertEqual([ours[number] for number in near], stdio)
            for number in range(3):
                with open(f"/proc/{connection.pid}/fdinfo/{number}") as file:
                    flags = int(re.search(r"flags:\s*(\d+)", file.read())[1], 8)
                self.assertEqual(0, flags & os.O_NONBLOCK, f"of descriptor {number}")
            # Beside stdio it has its channel to the service and, at the socket, the
            # client's connection. What the zygote had open is the null device now.
            names = [os.path.basename(n).split(":")[0] for n in opened.values()]
            expected = ["socket"] if door == "fifo" else ["socket", "socket"]
            self.assertEqual(expected, [n for n in names if n != "null"])
        os.kill(one.pid, signal.SIGKILL)
        self.assertEqual(b"", read_line(one.stdout))
        self.assertEqual(b"", read_line(one.stderr))
        self.assertEqual(["signal", "9"], one.end())
        self.finish(other)

    def test_directory_is_gone_before_the_end_is_told(self):
        """FAULT 8: the directory is gone when the end is told, whatever the end."""
        self.start_service()
        for _ in range(10):
            served, killed, early = (self.connect() for _ in range(3))
            os.kill(early.pid, signal.SIGKILL)
            self.assertEqual(["signal", "9"], early.end())
            self.assertTrue(self.fifos_gone(early))
            served.open()
            served.close()
            self.assertEqual(["exit", "0"], served.end())
            self.assertTrue(self.fifos_gone(served))
            killed.open()
            os.kill(killed.pid, signal.SIGKILL)
            self.assertEqual(["signal", "9"], killed.end())
            self.assertTrue(self.fifos_gone(killed))
            killed.close()

    def test_killed_worker(self):
        """FAULT 7: the client ends within 0.1 s."""
        self.start_service()
        for door in ("fifo", "socket"):
            self.check_killed(door)

    def check_killed(self, door: str) -> None:
        for _ in range(10):  # others may have the processors
            times = []
            for number in range(9):
                words = ("--no-fallback", "--door", door, f"user{number}")
                started = self.start_client(*words)
                started.stdin.write(b"hello\n")
                started.stdin.flush()
                self.assertEqual(HELLO, read_line(started.stdout.fileno()))
                pid = self.pid_for(f"user{number}")
                begin = time.monotonic()
                os.kill(pid, signal.SIGKILL)
                self.assertEqual(137, started.wait(DEADLINE))
                times.append(time.monotonic() - begin)
            if statistics.median(times) < 0.1:
                break
        else:
            self.fail(f"a client takes longer than 0.1 s: {times}")

    def test_many_with_delays(self):
        """FAULT 5: of a thousand, with pauses on both sides, none is lost.

        Every fourth one comes through the socket.
        """
        seed = str(random.randrange(1 << 32))
        count, failures = 1000, []
        self.add_plugin("slow", SLOW)
        self.start_service(SLOW_SEED=seed)
        before = self.rest()
        numbers = iter(range(count))

        def connect_some() -> None:
            for number in numbers:
                try:
                    pauses = random.Random(f"{seed} {number}")
                    self.connect_slowly("fifo" if number % 4 else "socket", pauses)
                except BaseException as error:
                    failures.append(f"{number}: {error!r}")

        threads = [threading.Thread(target=connect_some) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual([], failures, f"seed {seed}")
        self.rest(descriptors=before)
        totals = self.status()["totals"]
        self.assertEqual((count, count), (totals["spawned"], totals["ended"]))
        self.assertEqual(DOORS, self.paths_left())

    def connect_slowly(self, door: str, pauses: random.Random) -> None:
        """Make a whole connection, with random pauses between its steps."""

        def pause() -> None:
            # Nothing is waited for: clients come at any time.
            time.sleep(pauses.random() / 100)

        kind = SocketConnection if door == "socket" else Connection
        connection = kind(self.runtime, "alice", {})
        try:
            pause()
            self.assertEqual("ok", connection.wait()[0], connection.answer)
            flags = (os.O_WRONLY, os.O_RDONLY, os.O_RDONLY)
            names = ("stdin", "stdout", "stderr")
            for name, path, flag in zip(names, connection.paths, flags):
                pause()
                setattr(connection, name, os.open(path, flag))
            self.assertEqual(HELLO, connection.hello())
            pause()
            connection.close()
            pause()
            self.assertEqual(["exit", "0"], connection.end())
        finally:
            connection.close()
            connection.conversation.close()
