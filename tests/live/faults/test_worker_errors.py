# SPDX-License-Identifier: GPL-2.0-or-later

"""Errors at every step of a worker."""

import os
import re
import subprocess
import time

from breezy.tests.scenarios import load_tests_apply_scenarios

from ....lpserve.client.conversation import Conversation
from ....lpserve.zygote.reset import SETTLED
from ...harness import BY_DOOR, DEADLINE, DOORS, HELLO, LiveTestCase, wait_until

load_tests = load_tests_apply_scenarios


#: Watches every worker from its fork on. Each function of lpserve that it calls,
#: and each system call that such a function makes, is a step. It writes the steps
#: down while there is a file "record", and raises in a step that is "armed", once.
FAULTY = """
import errno, os, socket, sys
from breezy.plugins.lpserve.lpserve.zygote import zygote

HOME = os.environ["FAULTY_HOME"]
INSIDE = os.path.dirname(os.path.dirname(zygote.__file__)) + os.sep
SYSTEM = ("posix", "fcntl", "resource", "_io", "_signal")
seen = set()

class Injected(BaseException):
    pass

def step_of(frame, event, arg):
    code = frame.f_code
    if not code.co_filename.startswith(INSIDE):
        return None
    module = os.path.basename(code.co_filename)
    if event == "call":
        return f"call {module} {code.co_firstlineno} {code.co_name}"
    if event == "c_call" and arg.__name__ != "_exit":
        of_socket = isinstance(getattr(arg, "__self__", None), socket.socket)
        if of_socket or arg.__module__ in SYSTEM:
            return f"system {module} {frame.f_lineno} {arg.__name__}"
    return None

def append(name, text):
    path = os.path.join(HOME, name)
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(file, text.encode() + b"\\n")
    os.close(file)

def says_good_bye(frame):
    # The connection is over, and was served.
    while frame is not None and frame.f_code.co_name not in ("_leave", "report"):
        frame = frame.f_back
    return frame is not None

def profile(frame, event, arg):
    step = step_of(frame, event, arg)
    if step is None or step in seen:
        return
    seen.add(step)
    if os.path.exists(os.path.join(HOME, "record")):
        append("steps", step)
    armed = os.path.join(HOME, "armed", step)
    try:
        with open(armed) as file:
            kind = file.read()
        os.unlink(armed)
    except OSError:
        return
    if not says_good_bye(frame):
        append("raised", str(os.getpid()))
    if kind == "error":
        raise RuntimeError("injected in " + step)
    if kind == "base":
        raise Injected("injected in " + step)
    raise OSError(errno.EMFILE, "injected in " + step)

real = zygote.Zygote._be_worker

def be_worker(*args):
    sys.setprofile(profile)
    return real(*args)

zygote.Zygote._be_worker = be_worker
"""


class TestWorkerErrors(LiveTestCase):
    """FAULTS 1 and 22: an error in the child fell back into the master's code."""

    scenarios = BY_DOOR

    def setUp(self):
        super().setUp()
        self.faults = os.path.join(self.test_dir, "faults")
        os.makedirs(os.path.join(self.faults, "armed"))
        self.add_plugin("faulty", FAULTY)
        # The pids of workers that failed before they had served.
        self.raised: set[str] = set()
        with open(os.path.join(self.faults, "raised"), "w"):
            pass

    def begin(self, spares: int) -> None:
        """Start the service; without spare workers faults come one at a time."""
        self.spares = spares
        self.configure(spare_workers=spares)
        # Workers read a configuration that is new, and make other steps for that.
        wait_until(self.is_configuration_old, "the configuration is not new")
        self.start_service(FAULTY_HOME=self.faults)
        self.descriptors = self.rest(spares)
        self.stay = {self.service.pid, self.status()["zygote"]}
        self.check_processes()

    def is_configuration_old(self) -> bool:
        return time.time() - os.stat(self.config).st_ctime > SETTLED

    def check_processes(self) -> None:
        """The same service and zygote, the spare workers, and nobody else."""

        def as_before() -> bool:
            found = set(self.processes())
            return self.stay <= found and len(found) == 2 + self.spares

        wait_until(as_before, f"{self.stay} and {self.spares} others are left")

    def steps(self, kind: str) -> list[str]:
        """Every step of a worker whose connection goes well."""
        record = os.path.join(self.faults, "record")
        with open(record, "w"):
            pass
        self.assertEqual((0, HELLO, b""), self.run_client())
        self.rest(self.spares)
        self.check_processes()
        os.unlink(record)
        with open(os.path.join(self.faults, "steps")) as file:
            # In the order in which they were made, each once.
            return [
                step
                for step in dict.fromkeys(file.read().splitlines())
                if step.startswith(kind)
            ]

    def run_client(self) -> tuple[int, bytes, bytes]:
        """A connection of a real client; its exit status and what it said."""
        started = self.start_client("alice", "--no-fallback", "--door", self.door)
        try:
            out, err = started.communicate(b"hello\n", DEADLINE)
        except subprocess.TimeoutExpired:
            started.kill()
            raise AssertionError("the client hangs") from None
        return started.returncode, out, err

    def inject(self, step: str, kind: str) -> None:
        """Have one worker fail in *step*, and look at what becomes of it."""
        start = len(self.log_text())
        armed = os.path.join(self.faults, "armed", step)
        with open(armed, "w") as file:
            file.write(kind)
        deadline = time.monotonic() + DEADLINE
        code, out, err = self.run_client()
        # Where the worker was a spare one it may be its successor that fails.
        self.rest(self.spares)
        # A worker that finds all its input there has no step of waiting for it.
        self.check_processes()  # of two at once both would fail
        while os.path.exists(armed):
            self.assertTrue(time.monotonic() < deadline, "the step was not made")
            code, out, err = self.run_client()
            self.rest(self.spares)
            self.check_processes()
        with open(os.path.join(self.faults, "raised")) as file:
            raised = set(file.read().split())
        text = f"client: {code} {out!r} {err!r}\nlog: {self.log_text(start)}"
        # The client had its answer either way: from that worker or, where that
        # was dead before it was given the connection, from another.
        # What fails while a request is answered is the answer to it.
        answered = out == f"error\x01injected in {step}\n".encode()
        if code == 0:
            self.assertEqual((out if answered else HELLO, b""), (out, err), text)
        else:
            self.assertIn(out, (b"", HELLO), text)
            lines = err.count(b"\n")
            self.assertEqual((1, True), (lines, err.endswith(b"\n")), text)
        ends = re.findall(r"worker (\d+) for alice: (.*) after", self.log_text(start))
        failed = {pid: end for pid, end in ends if pid in raised}
        if kind != "system" and not self.spares:
            if not answered:
                self.assertNotIn("exit 0", failed.values(), text)
            if raised - self.raised:
                self.assertTrue(step in self.traces(start), "no traceback; " + text)
        self.raised = raised
        self.check_processes()
        self.check_one_service()

    def traces(self, start: int) -> str:
        """What was logged, by the service and by workers."""
        text = self.log_text(start)
        for base, _, names in os.walk(self.home):
            for name in names:
                if name == "brz.log":
                    with open(os.path.join(base, name), errors="replace") as file:
                        text += file.read()
        return text

    def check_one_service(self) -> None:
        """Exactly one process answers ``hello``, and it is the service."""
        deadline = time.monotonic() + DEADLINE
        conversation = Conversation(self.runtime)
        try:
            conversation.send(["hello"], deadline)
            expected = f"pid={self.service.pid}"
            self.assertEqual(expected, conversation.wait_answer(deadline)[-1])
            # The service reads in order: another answer would be there by now.
            self.assertEqual(expected, self.ask("hello")[-1])
            self.assertIs(None, conversation.read_answer())
        finally:
            conversation.close()

    def check_all(self, steps: list[str], kind: str) -> None:
        failures = []
        for step in steps:
            try:
                self.inject(step, kind)
            except AssertionError as error:
                failures.append(f"{kind} in {step}: {error}")
        if failures:
            self.fail("\n\n".join(failures))
        self.assertEqual((0, HELLO, b""), self.run_client())
        self.rest(self.spares, self.descriptors)
        self.assertEqual(0, self.status()["totals"]["faults"])
        self.assertEqual(DOORS, self.paths_left())

    def test_error_in_every_step(self):
        self.begin(0)
        self.check_all(self.steps("call"), "error")

    def test_base_exception_in_every_step(self):
        self.begin(0)
        self.check_all(self.steps("call"), "base")

    def test_base_exception_with_spare_workers(self):
        """Also where a worker gets ready before it has a connection."""
        self.begin(1)
        self.check_all(self.steps("call"), "base")

    def test_every_system_call_fails(self):
        self.begin(0)
        self.check_all(self.steps("system"), "system")
