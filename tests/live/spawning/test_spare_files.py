# SPDX-License-Identifier: GPL-2.0-or-later

"""Spare workers and what was edited, moved or broken after they were forked."""

import json
import os
import shutil
import signal
import time

from breezy import config as _mod_config
from breezy import debug, trace
from breezy.tests import TestCaseInTempDir

from ....lpserve import system
from ....lpserve.zygote import reset, worker
from ...harness import DEADLINE, wait_until
from ...test_system import in_child
from .test_reset import ProbeCase
from .test_spares import DOORS, SparesCase

#: Has zygotes take files for settled that have not been changed for a moment.
SETTLED = 0.05
SETTLE = f"""
from breezy.plugins.lpserve.lpserve.zygote import reset
reset.SETTLED = {SETTLED}
"""


class TestFiles(SparesCase, ProbeCase):
    """What was edited after a spare worker was forked is seen all the same."""

    def setUp(self):
        super().setUp()
        self.add_plugin("settle", SETTLE)
        self.directory = os.path.dirname(self.config)
        self.options = "lpserve.spare_workers = 1\nlpserve.max_spare_workers = 1\n"
        self.doors = iter(DOORS * 50)

    def text(self, path, word):
        if path == self.rules:
            return f"[name *.probe]\nprobe = {word}\n"
        return f"[DEFAULT]\nprobe = {word}\ndebug_flags = {word}\n{self.options}"

    def write(self, path, word):
        with open(path, "w") as file:
            file.write(self.text(path, word))

    def seen(self):
        """What the next connection finds in the files."""
        state = json.loads(self.ask_once(b"state", door=next(self.doors)))
        return [state[name] for name in ("config", "debug flags", "rules")]

    def have_spare(self):
        """A spare worker that was forked when the files had settled."""
        time_of = max(
            os.stat(path).st_ctime if os.path.exists(path) else 0
            for path in (self.config, self.rules)
        )
        wait_until(lambda: time.time() > time_of + SETTLED + 0.02, "it has settled")
        self.rest(1)
        self.check_serves(doors=("fifo",))
        self.rest(1)
        wait_until(self.practised, "it has practised")

    def assertSeen(self, word):
        """Both files say *word*: in a spare worker, and in the next."""
        expected = [word, [word], [["probe", word]]]
        for _ in range(2):
            self.assertEqual(expected if word else [None, [], []], self.seen())

    def test_edited(self):
        for path in (self.config, self.rules):
            self.write(path, "aaa")
        self.start_service()
        for edit in (
            self.rewrite,
            self.rewrite_unnoticed,
            self.rename,
            self.delete,
            self.rewrite,
            self.move_away,
            self.move_back,
            self.move_away_and_back,
            self.link,
            self.link_elsewhere,
        ):
            self.have_spare()
            self.assertSeen(edit())

    def rewrite(self):
        for path in (self.config, self.rules):
            self.write(path, "longer")
        return "longer"

    def rewrite_unnoticed(self):
        """The same size, and the time of change is set back."""
        for path in (self.config, self.rules):
            found = os.stat(path)
            self.write(path, "regnol")
            os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
        return "regnol"

    def rename(self):
        """Another file of the same size and time."""
        for path in (self.config, self.rules):
            found = os.stat(path)
            os.rename(path, path + ".old")
            self.write(path, "rename")
            os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
            os.rename(path, path + ".new")
            os.rename(path + ".old", path)
            os.rename(path + ".new", path)
        return "rename"

    def delete(self):
        for path in (self.config, self.rules):
            os.unlink(path)

    def move_away(self):
        os.rename(self.directory, self.directory + ".away")

    def move_back(self):
        if os.path.isdir(self.directory):  # somebody has logged something
            shutil.rmtree(self.directory)
        os.rename(self.directory + ".away", self.directory)
        return "longer"

    def move_away_and_back(self):
        self.move_away()
        os.rename(self.directory + ".away", self.directory)
        return "longer"

    def link(self):
        """The directory is a link to what is in use."""
        os.rename(self.directory, self.directory + ".one")
        shutil.copytree(self.directory + ".one", self.directory + ".two")
        for name in ("breezy.conf", "rules"):
            path = os.path.join(self.directory, name)
            other = os.path.join(self.directory + ".two", name)
            with open(other, "w") as file:
                file.write(self.text(path, "second"))
        os.symlink(self.directory + ".one", self.directory)
        return "longer"

    def link_elsewhere(self):
        os.symlink(self.directory + ".two", self.directory + ".new")
        os.rename(self.directory + ".new", self.directory)
        return "second"

    def test_broken(self):
        """A file that cannot be read ends a connection as it would with --inet."""
        words = ["--inet", "alice", "--directory", self.root, "--allow-writes"]
        for path in (self.config, self.rules):
            self.write(path, "aaa")
        self.start_service()
        for path in (self.config, self.rules):
            for breaks in (self.fill_with_rubbish, self.be_directory):
                self.have_spare()
                breaks(path)
                fresh = self.run_program(self.brz("lp-serve", *words), b"hello\n")
                for door in DOORS:
                    client = self.start_client("--door", door, "alice")
                    out, errors = client.communicate(b"hello\n", DEADLINE)
                    text = f"{breaks.__name__} {path}: {fresh} {errors!r}"
                    self.assertEqual(fresh.stdout, out, text)
                    failed = fresh.returncode != 0
                    self.assertEqual(failed, client.returncode != 0, text)
                    self.assertEqual(failed, errors.count(b"\n") == 1, text)
                    self.assertTrue(len(errors) < 4096)
                if os.path.isdir(path):
                    os.rmdir(path)
                self.write(path, "aaa")
                self.assertSeen("aaa")

    @staticmethod
    def fill_with_rubbish(path):
        with open(path, "wb") as file:
            file.write(b"[DEFAULT\nprobe = rubbish\n")

    @staticmethod
    def be_directory(path):
        os.unlink(path)
        os.mkdir(path)


class TestPractise(TestCaseInTempDir):
    """`worker.practise`: it leaves nothing that a connection could find."""

    def setUp(self):
        super().setUp()
        self.home = os.path.join(self.test_dir, "configured")
        os.makedirs(os.path.join(self.home, "breezy"))
        self.config = os.path.join(self.home, "breezy", "breezy.conf")
        self.overrideEnv("BRZ_HOME", self.home)
        self.overrideAttr(reset, "SETTLED", 0.02)
        self.settings = {
            "directory": self.test_dir,
            "allow_writes": False,
            "client_timeout": None,
            "connect_timeout": 1.0,
            "environment": ["LANG"],
        }
        self.write("before")

    def write(self, word):
        with open(self.config, "w") as file:
            file.write(f"[DEFAULT]\nprobe = {word}\ndebug_flags = {word}\n")

    def practise(self, before=lambda: None, after=lambda: None):
        """What is different after it in a process that has got ready for it.

        :param before: called when it is ready, and *after* when it has practised.
        """

        def settled():
            return time.time() > os.stat(self.config).st_ctime + 0.05

        def run():
            os.environ.pop("BRZ_EMAIL", None)
            wait_until(settled, "the files have settled")
            ready = worker.ZygoteState()
            ready.prepare(self.settings)
            assert ready.stamp is not None
            context = reset.Context({}, settings=self.settings, stamp=ready.stamp)
            os.dup2(os.open(os.devnull, os.O_RDWR), 0)
            reset.reset_signals(context)
            before()
            found = self.state()
            worker.practise(context, ready)
            now = self.state()
            after()
            reset.reset_configuration(context)
            stack = _mod_config.GlobalStack()
            return [
                {k: [found[k], now[k]] for k in found if found[k] != now[k]},
                [stack.get("probe"), sorted(debug.debug_flags)],
            ]

        return in_child(run)

    @staticmethod
    def state():
        with open("/proc/self/comm") as comm:
            title = comm.read().strip()
        numbers = system.open_descriptors()
        return {
            "environ": dict(os.environ),
            "descriptors": [[n, os.readlink(f"/proc/self/fd/{n}")] for n in numbers],
            "signals": [str(signal.getsignal(n)) for n in signal.valid_signals()],
            "mask": len(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
            "log": str(trace._trace_file),
            "title": title,
        }

    def test_nothing_is_left(self):
        """Not even where a reset fails: the connection itself reports that."""

        def broken():
            raise ValueError("on purpose")

        for name in ("", "reset_environment", "reset_locale", "reset_configuration"):
            steps = [
                step if step.__name__ != name else lambda context: broken()
                for step in reset.AT_CONNECTION
            ]
            self.overrideAttr(reset, "AT_CONNECTION", steps)
            changed, seen = self.practise()
            self.assertEqual(["title"], sorted(changed), name)
            self.assertEqual("lp-spare", changed["title"][1])
            self.assertEqual(["before", ["before"]], seen)

    def test_files_change_and_change_back(self):
        """What the practice has read does not count as read from the old file."""
        directory = os.path.dirname(self.config)

        def away():
            os.rename(directory, directory + ".away")
            os.mkdir(directory)
            self.write("meanwhile")

        def rubbish():
            away()
            with open(self.config, "a") as file:
                file.write("[DEFAULT\n")

        def back():
            shutil.rmtree(directory)
            os.rename(directory + ".away", directory)

        for change in (away, rubbish):
            changed, seen = self.practise(change, back)
            self.assertEqual(["title"], sorted(changed))
            self.assertEqual(["before", ["before"]], seen)
