# SPDX-License-Identifier: GPL-2.0-or-later

"""Where the long-running processes log."""

import contextlib
import fcntl
import logging
import os
import re
import stat

from breezy.tests import TestCase, TestCaseInTempDir

from ..lpserve import logs
from .forked import in_child

log = logging.getLogger("lpserve")

LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} (INFO|WARNING|ERROR) (.*)")


def texts(output):
    """What was said in the lines of a log."""
    return [LINE.fullmatch(line)[2] for line in output.splitlines()]


def read_all(reader):
    """What can be read now."""
    os.set_blocking(reader, False)
    data = b""
    with contextlib.suppress(BlockingIOError):
        while chunk := os.read(reader, 1 << 16):
            data += chunk
    return data.decode()


def record(text, level=logging.INFO, second=1000):
    """A record from a moment of one's choice."""
    made = logging.LogRecord("lpserve", level, "", 0, text, None, None)
    made.created = second + 0.5
    return made


def with_pipe(run):
    """Call *run* in a process of its own that logs to a pipe, with the pipe."""

    def child():
        reader, writer = os.pipe()
        os.dup2(writer, 2)
        os.close(writer)
        logs.log_to_stderr()
        return run(reader)

    return in_child(child)


class TestLogging(TestCase):
    def test_lines(self):
        """Time, level, text; but for what programs wait for."""

        def run(reader):
            log.debug("chatter")
            log.info("served %d", 3)
            log.warning("odd")
            log.info("Listening on %s:%d", "127.0.0.1", 5022)
            log.error("broken: %s", "K\xf6nig \ud800")
            return read_all(reader)

        lines = with_pipe(run).splitlines()
        self.assertEqual("Listening on 127.0.0.1:5022", lines.pop(2))
        self.assertEqual(
            [
                ("INFO", "served 3"),
                ("WARNING", "odd"),
                ("ERROR", "broken: K\xf6nig \\ud800"),
            ],
            [LINE.fullmatch(line).groups() for line in lines],
        )

    def test_forged(self):
        """FAULT 62: no text of others can be taken for a record of ours."""
        forged = "x\n2026-01-01 00:00:00,000 INFO y\r\x1b[2K\x85\u2028z"

        def run(reader):
            log.warning("%s", forged)
            try:
                raise ValueError(forged)
            except ValueError:
                log.exception("failed")
            return read_all(reader)

        lines = with_pipe(run).split("\n")
        self.assertIn("  Traceback (most recent call last):", lines)
        records = [line for line in lines if line and not line.startswith("  ")]
        self.assertEqual(["x", "failed"], texts("\n".join(records)))
        shown = "  2026-01-01 00:00:00,000 INFO y\\r\\x1b[2K\\x85\\u2028z"
        self.assertEqual([shown, shown], [line for line in lines if "INFO" in line])


class TestPatience(TestCase):
    """`PatientHandler` waits for nobody; if it did, `in_child` would end it."""

    def test_full_pipe(self):
        """Lines that nobody reads are left out, whole, and counted."""

        def run(reader):
            for number in range(10_000):
                log.error("line %d", number)
            before = read_all(reader)
            log.error("after")
            log.error("more")
            return before, read_all(reader)

        before, after = with_pipe(run)
        said = texts(before)
        self.assertEqual([f"line {n}" for n in range(len(said))], said)
        self.assertTrue(100 < len(said) < 10_000)
        told, rest = after.split("\n", 1)
        self.assertEqual(f"({10_000 - len(said)} lines were left out)", told)
        self.assertEqual(["after", "more"], texts(rest))

    def test_descriptor_stays_as_it_is(self):
        """It may be shared with others, who expect to wait."""

        def run(reader):
            before = fcntl.fcntl(2, fcntl.F_GETFL)
            log.info("text")
            return before, fcntl.fcntl(2, fcntl.F_GETFL)

        before, after = with_pipe(run)
        self.assertEqual(before, after)

    def test_too_many_warnings(self):
        """Only so many a second are written; information and errors always are."""

        def run(reader):
            handler = log.handlers[0]
            most = handler.MOST
            for number in range(most + 50):
                handler.handle(record(f"warning {number}", logging.WARNING))
            said = [read_all(reader)]
            handler.handle(record("information"))
            handler.handle(record("error", logging.ERROR))
            handler.handle(record("one more", logging.WARNING))
            said.append(read_all(reader))
            handler.handle(record("later", logging.WARNING, second=1001))
            said.append(read_all(reader))
            return most, said

        most, (first, second, third) = with_pipe(run)
        self.assertEqual([f"warning {n}" for n in range(most)], texts(first))
        told, rest = second.split("\n", 1)
        self.assertEqual("(50 lines were left out)", told)
        self.assertEqual(["information", "error"], texts(rest))
        told, rest = third.split("\n", 1)
        self.assertEqual("(1 lines were left out)", told)
        self.assertEqual(["later"], texts(rest))

    def test_long_line(self):
        """It is cut to what a pipe takes at once, and ends as a line does."""

        def run(reader):
            log.info("x" * 100_000)
            log.info("next")
            return read_all(reader)

        said = texts(with_pipe(run))
        self.assertEqual(2, len(said))
        self.assertEqual("next", said[1])
        self.assertTrue(3000 < len(said[0]) < 4096)
        self.assertEqual("", said[0].strip("x"))

    def test_nobody_there(self):
        """A reader that has gone, a descriptor that is closed, a disk that is full."""

        def run(reader):
            os.close(reader)
            log.info("nobody reads")
            full = os.open("/dev/full", os.O_WRONLY)
            os.dup2(full, 2)
            log.info("no room")
            reader, writer = os.pipe()
            os.close(2)
            log.info("nowhere")
            os.dup2(writer, 2)
            log.info("here")
            return read_all(reader)

        told, rest = with_pipe(run).split("\n", 1)
        self.assertEqual("(3 lines were left out)", told)
        self.assertEqual(["here"], texts(rest))


class TestRollOver(TestCaseInTempDir):
    """`LogFile.roll_over`: the log of a daemon does not grow without bound."""

    def roll(self, name, size, before=None, known=False):
        """Log to a file of *size* bytes, roll over and log again."""

        def run():
            path = os.path.abspath(name)
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            os.truncate(path, size)
            os.dup2(descriptor, 2)
            os.close(descriptor)
            logs.log_to_stderr()
            file = logs.LogFile(path if known else None)
            if before is not None:
                before(path)
            opened = len(os.listdir("/proc/self/fd"))
            file.roll_over()
            log.info("after")
            return len(os.listdir("/proc/self/fd")) - opened

        self.assertEqual(0, in_child(run))

    def sizes(self):
        return {name: os.path.getsize(name) for name in os.listdir(".")}

    def assertHasAfter(self, path):
        with open(path) as file:
            self.assertEqual(["after"], texts(file.read().lstrip("\0")))

    def test_long(self):
        for known in (False, True):
            self.roll("a.log", 5 << 20, known=known)
            self.assertEqual({"a.log", "a.log.old"}, set(self.sizes()))
            self.assertEqual(5 << 20, self.sizes()["a.log.old"])
            self.assertHasAfter("a.log")
            self.assertEqual(0o600, stat.S_IMODE(os.stat("a.log").st_mode))

    def test_long_line(self):
        """A file takes all of it."""
        self.roll("a.log", 0, lambda path: log.info("x" * 100_000))
        with open("a.log") as file:
            self.assertEqual(["x" * 100_000, "after"], texts(file.read()))

    def test_not_rolled_over(self):
        """A log that is short, and another file, whose owner looks after it."""
        for name, size in (("a.log", 1 << 20), ("output", 5 << 20)):
            self.roll(name, size)
            self.assertHasAfter(name)
        self.assertEqual({"a.log", "output"}, set(self.sizes()))

    def test_cannot_be_renamed(self):
        self.roll("a.log", 5 << 20, lambda path: os.mkdir(path + ".old"))
        self.assertHasAfter("a.log")


class TestReopen(TestCaseInTempDir):
    """`LogFile.reopen`: FAULT 66, a log can be moved away."""

    def reopen(self, *happens, known=True):
        """Log, have *happens*, reopen and log again; once for each."""

        def run():
            path = os.path.abspath("output")
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
            logs.log_to_stderr()
            file = logs.LogFile(path if known else None)
            opened = len(os.listdir("/proc/self/fd"))
            for number, happen in enumerate(happens):
                log.info("before %d", number)
                happen(path)
                file.reopen()
                log.info("after %d", number)
            return len(os.listdir("/proc/self/fd")) - opened

        self.assertEqual(0, in_child(run))

    def assertHas(self, path, *lines):
        with open(path) as file:
            self.assertEqual(list(lines), texts(file.read()))

    def test_moved(self):
        for known in (True, False):
            self.reopen(lambda path: os.rename(path, path + ".1"), known=known)
            self.assertHas("output.1", "before 0")
            self.assertHas("output", "log reopened", "after 0")
            self.assertEqual(0o600, stat.S_IMODE(os.stat("output").st_mode))
            os.unlink("output")

    def test_again_and_again(self):
        def replace(path):
            os.unlink(path)
            with open(path, "w"):
                pass

        self.reopen(os.unlink, lambda path: None, replace)
        self.assertHas("output", "log reopened", "after 2")

    def test_cannot_be_opened(self):
        """What there was goes on, and says why."""

        def replace(path):
            os.rename(path, path + ".1")
            os.mkdir(path)

        self.reopen(replace)
        expected = f"cannot open {os.path.abspath('output')} anew: Is a directory"
        self.assertHas("output.1", "before 0", expected, "after 0")

    def test_no_file(self):
        """A pipe or a terminal is nothing that can be opened anew."""

        def run(reader):
            logs.LogFile(None).reopen()
            log.info("text")
            return read_all(reader)

        self.assertEqual(["text"], texts(with_pipe(run)))
