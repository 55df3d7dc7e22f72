# SPDX-License-Identifier: GPL-2.0-or-later

"""sd_notify(3) and sd_listen_fds(3), with sockets of the tests."""

import os
import socket

from breezy.tests import TestCase, TestCaseInTempDir

from ..lpserve import system, systemd
from ..lpserve.errors import ConfigurationError
from .test_system import in_child
from .waiting import DEADLINE


class TestTakeDescriptors(TestCase):
    """`systemd.take_descriptors`."""

    def take(self, opened=2, **environ):
        """What is taken in a process that was passed some, and what it would pass on.

        :param opened: how many descriptors are open.
        """

        def run():
            ends = [number for _ in range(opened) for number in os.pipe()]
            for number in range(3, 3 + opened):
                os.dup2(ends[number - 3], 100 + number)
            for number in range(3, 20):
                if number < 3 + opened:
                    os.dup2(100 + number, number, inheritable=True)
                elif number in ends:
                    os.close(number)
            # As Python opens what it opens.
            os.dup2(3, 3 + opened, inheritable=False)
            names = {k: v.replace("OURS", str(os.getpid())) for k, v in environ.items()}
            try:
                found = systemd.take_descriptors(names)
            except ConfigurationError as error:
                return str(error)
            return [
                [list(each) for each in found],
                [n for n in range(3, 3 + opened) if os.get_inheritable(n)],
                sorted(names),
            ]

        return in_child(run)

    def test_taken(self):
        """No child inherits them, and no other takes them again."""
        found = self.take(
            LISTEN_PID="OURS", LISTEN_FDS="2", LISTEN_FDNAMES="a:b", OTHER="x"
        )
        self.assertEqual([[["a", 3], ["b", 4]], [], ["OTHER"]], found)

    def test_names_missing(self):
        """One that is not named is "unknown", as sd_listen_fds_with_names(3) has it."""
        found = self.take(LISTEN_PID="OURS", LISTEN_FDS="2", LISTEN_FDNAMES="a")
        self.assertEqual([["a", 3], ["unknown", 4]], found[0])

    def test_for_another(self):
        for environ in (
            {},
            {"LISTEN_FDS": "2"},
            {"LISTEN_FDS": "2", "LISTEN_PID": "1"},
            {"LISTEN_PID": "OURS"},
        ):
            self.assertEqual([[], [3, 4], []], self.take(**environ))

    def test_rubbish(self):
        for text in ("x", "-1", "99999", "\u0663"):
            self.assertEqual(
                f"LISTEN_FDS={text} is not a number of descriptors",
                self.take(LISTEN_PID="OURS", LISTEN_FDS=text),
            )
        for count in ("3", "999"):
            self.assertEqual(
                f"LISTEN_FDS={count}, but descriptor 5 was not passed",
                self.take(LISTEN_PID="OURS", LISTEN_FDS=count),
            )


class TestWatchdogInterval(TestCase):
    """`systemd.watchdog_interval`."""

    def test_interval(self):
        ours = str(os.getpid())
        for environ, expected in (
            ({"WATCHDOG_USEC": "30000000"}, 15.0),
            ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": ours}, 15.0),
            ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
            ({"WATCHDOG_USEC": "0"}, None),
            ({"WATCHDOG_USEC": "-5"}, None),
            ({"WATCHDOG_USEC": "soon"}, None),
            ({}, None),
        ):
            self.assertEqual(expected, systemd.watchdog_interval(environ))


class TestNotifier(TestCaseInTempDir):
    """`systemd.Notifier`."""

    def setUp(self):
        super().setUp()
        self.due = []

    def listen(self, address):
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.addCleanup(listener.close)
        listener.bind(address)
        listener.settimeout(DEADLINE)
        return listener

    def make(self, address):
        self.overrideEnv("NOTIFY_SOCKET", address)
        return systemd.Notifier(lambda seconds, call: self.due.append(call))

    def listening(self):
        """A listener and who tells it."""
        path = os.path.relpath(os.path.join(self.test_dir, "notify"))
        return self.listen(path), self.make(path)

    def run_due(self):
        due, self.due = self.due, []
        for call in due:
            call()

    def test_life(self):
        listener, notifier = self.listening()
        notifier.ready("serving\nthem")
        self.assertEqual(
            f"READY=1\nMAINPID={os.getpid()}\nSTATUS=serving them".encode(),
            listener.recv(1000),
        )
        notifier.tell("serving\nthem")  # which is known
        notifier.tell("serving us")
        notifier.tell("serving us")
        self.assertEqual(b"STATUS=serving us", listener.recv(1000))
        notifier.reloading()
        found = dict(
            each.split("=") for each in listener.recv(1000).decode().splitlines()
        )
        self.assertEqual("1", found["RELOADING"])
        self.assertTrue(int(found["MONOTONIC_USEC"]) > 0)
        notifier.stopping("stopping")
        self.assertEqual(b"STOPPING=1\nSTATUS=stopping", listener.recv(1000))

    def test_abstract(self):
        name = f"lpserve-test-{os.getpid()}"
        listener = self.listen("\0" + name)
        self.make("@" + name).stopping("x")
        self.assertEqual(b"STOPPING=1\nSTATUS=x", listener.recv(100))

    def test_nobody_listens(self):
        """That is systemd's affair; no descriptor is left open."""
        before = system.open_descriptors()
        for address in (None, "missing", "x" * 300):
            notifier = self.make(address)
            notifier.ready("x")
            notifier.store("name", 0)
        self.assertEqual((before, []), (system.open_descriptors(), self.due))

    def test_full(self):
        """Nobody waits, the order stays, and what is only for people is left out."""
        listener, notifier = self.listening()
        before = system.open_descriptors()
        while not self.due:
            notifier.remove("filler")
        reader, writer = os.pipe()
        notifier.store("pipe", writer)
        os.close(writer)
        notifier.tell("left out")
        notifier.stopping("x")
        found = []
        for _ in range(10000):
            data, descriptors, _, _ = socket.recv_fds(listener, 1000, 5)
            if b"pipe" in data:
                os.write(descriptors[0], b"it")
                os.close(descriptors[0])
            if b"filler" not in data:
                found.append(data)
            if b"STOPPING" in data:
                break
            self.run_due()
        self.assertEqual(
            [b"FDSTORE=1\nFDNAME=pipe", b"STOPPING=1\nSTATUS=x"],
            found,
        )
        self.assertEqual(b"it", os.read(reader, 10))
        os.close(reader)
        self.assertEqual(before, system.open_descriptors())

    def test_close(self):
        """What cannot be sent at the end is given up."""
        _, notifier = self.listening()
        while not self.due:
            notifier.remove("filler")
        before = system.open_descriptors()
        notifier.store("name", 0)
        notifier.close()
        self.assertEqual(before, system.open_descriptors())

    def test_watchdog(self):
        """As long as somebody calls back."""
        listener, notifier = self.listening()
        self.overrideEnv("WATCHDOG_USEC", "1000000")
        notifier.watch_us()
        for _ in range(3):
            self.assertEqual(b"WATCHDOG=1", listener.recv(100))
            self.assertEqual(1, len(self.due))
            self.run_due()

    def test_no_watchdog(self):
        _, notifier = self.listening()
        self.overrideEnv("WATCHDOG_USEC", None)
        notifier.watch_us()
        self.assertEqual([], self.due)
