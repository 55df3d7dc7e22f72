# SPDX-License-Identifier: GPL-2.0-or-later

"""What the tests of asking share: a service that is in the hands of the test."""

import contextlib
import os
from types import SimpleNamespace

from ...lpserve import wire
from ...lpserve.conch.asking import ServiceStart, WorkerRequest
from ...lpserve.paths import RuntimeDirectory
from .reactorcase import ReactorTestCase

#: Seconds that no test waits for.
LONG = 3600.0


class AskingTestCase(ReactorTestCase):
    """With a runtime directory, and a service that never answers by itself.

    :ivar answers: what was passed on.
    :ivar faults: the texts of why not.
    """

    def setUp(self):
        super().setUp()
        self.runtime = RuntimeDirectory(os.path.join(self.test_dir, "run"))
        self.runtime.prepare()
        self.service = SimpleNamespace(
            reactor=self.reactor,
            directory=self.runtime.path,
            connect_timeout=LONG,
            brz=("brz",),
        )
        self.control = self.reply = -1
        self.addCleanup(self.end_service)
        self.answers = []
        self.faults = []

    def start_service(self):
        os.mkfifo(self.runtime.control, 0o600)
        self.control = os.open(self.runtime.control, os.O_RDWR | os.O_NONBLOCK)

    def end_service(self):
        """As if it got a SIGKILL."""
        for name in ("control", "reply"):
            if getattr(self, name) >= 0:
                os.close(getattr(self, name))
                setattr(self, name, -1)

    def ask(self, *words):
        """Ask for a worker; what comes of it goes to `answers` or `faults`."""
        return WorkerRequest(
            self.service,
            lambda: list(words or ("spawn", "alice")),
            self.answers.append,
            lambda fault: self.faults.append(str(fault)),
        )

    def ask_again(self):
        """As if nothing had been before."""
        if self.reply >= 0:
            os.close(self.reply)
            self.reply = -1
        self.answers.clear()
        self.faults.clear()
        return self.ask()

    def request(self):
        """The next request; its answers can be written then."""
        data = b""

        def complete():
            nonlocal data
            with contextlib.suppress(BlockingIOError):
                data += os.read(self.control, 4096)
            return data.endswith(b"\n") and data.strip()

        request = wire.parse_request(self.run_until(complete, "a request"))
        path = os.path.join(self.runtime.replies, request.reply)
        self.reply = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
        return request

    def answer(self, *words):
        os.write(self.reply, wire.encode_answer(*words))

    def wait_answers(self, *answers):
        self.run_until(lambda: len(self.answers) >= len(answers), f"{answers}")
        self.turn()
        self.assertEqual((list(answers), []), (self.answers, self.faults))

    def wait_fault(self, text):
        """Until it has failed, with *text*; nothing is left then."""
        self.run_until(lambda: self.faults, f"a fault: {text}")
        self.turn()
        self.assertEqual(1, len(self.faults))
        self.assertContainsString(self.faults[0], text)
        self.assertNothingLeft()

    def assertNothingLeft(self):
        self.turn()
        self.assertEqual([], os.listdir(self.runtime.replies))
        self.assertEqual([], self.reactor.removeAll())
        self.assertEqual([], self.reactor.getDelayedCalls())


class StartingTestCase(AskingTestCase):
    """With a command in place of ``brz`` that the test has written.

    :ivar gate: where a FIFO may be made for the command to wait at.
    :ivar readies: how many were told that the service is ready.
    """

    def setUp(self):
        super().setUp()
        self.path = os.path.join(self.test_dir, "brz")
        self.ran = os.path.join(self.test_dir, "ran")
        self.gate = os.path.join(self.test_dir, "gate")
        self.readies = 0

    def command(self, *lines):
        """Have these lines of shell run; what it was called with is in `ran`."""
        with open(self.path, "w") as file:
            file.write("\n".join(["#!/bin/sh", f'echo "$@" >> {self.ran}', *lines]))
        os.chmod(self.path, 0o700)
        self.service.brz = (self.path, "-Oa=b")

    def start(self):
        def ready():
            self.readies += 1

        return ServiceStart(
            self.service, ready, lambda fault: self.faults.append(str(fault))
        )

    def wait_ready(self, count=1):
        self.run_until(lambda: self.readies >= count or self.faults, "it is ready")
        self.turn()
        self.assertEqual((count, []), (self.readies, self.faults))
        self.assertNothingLeft()

    def runs(self):
        """With what it was run, each time."""
        with contextlib.suppress(FileNotFoundError), open(self.ran) as file:
            return file.read().splitlines()
        return []

    def open_gate(self):
        with open(self.gate, "w") as gate:
            gate.write("\n")
