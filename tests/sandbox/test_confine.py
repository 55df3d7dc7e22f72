# SPDX-License-Identifier: GPL-2.0-or-later

"""What a sandbox allows, each entered in a child process.

tests/live/sandbox/test_sandbox.py tries what a worker may do in each kind.
"""

import errno
import os
import tempfile

from breezy import bedding
from breezy.tests import TestCaseInTempDir

from ...lpserve import plugins
from ...lpserve.sandbox import confine, landlock
from ..forked import attempt, in_child
from .test_landlock import DENIED, kernel, write


class ConfineCase(TestCaseInTempDir):
    """With a directory that is served, ``root``, and one that is not, ``aside``."""

    def setUp(self):
        super().setUp()
        self.build_tree(["root/", "root/file", "aside/", "aside/file", "tmp/"])
        self.build_tree(["code/", "run/", "run/connections/", "run/replies/"])
        self.runtime = os.path.abspath("run")
        self.root = os.path.abspath("root")
        self.aside = os.path.abspath("aside")
        self.overrideAttr(tempfile, "tempdir", os.path.abspath("tmp"))
        # As TestCase has set it for the whole process.
        self.overrideEnv("TMPDIR", None)
        self.overrideAttr(plugins, "foreign", list)
        self.overrideAttr(plugins, "directories", lambda: [os.path.abspath("code")])

    def settings(self, **chosen):
        return {
            "sandbox": "writes",
            "sandbox_paths": [],
            "directory": self.root,
            "allow_writes": True,
            **chosen,
        }

    def enter(self, run=lambda made: None, **chosen):
        """Enter in a child; the report, and what *run* returns of the sandbox."""

        def enter_and_run():
            made = confine.enter(self.settings(**chosen), self.runtime)
            result = run(made)
            return {**made.report(), "warnings": made.warnings}, result

        return in_child(enter_and_run)

    def warnings(self, **chosen):
        """Those of a sandbox that holds."""
        report, _ = self.enter(**chosen)
        if not kernel():
            self.assertEqual("off", report["holds"])
        return "\n".join(report["warnings"])

    def assertAttempts(self, expected, *attempts, **chosen):
        """That *attempts*, functions with arguments, end as *expected* there."""
        _, found = self.enter(
            lambda made: [attempt(*each) for each in attempts], **chosen
        )
        if kernel():
            self.assertEqual(expected, found)


class TestDecision(ConfineCase):
    def check(self, holds, why="", **chosen):
        report, _ = self.enter(**chosen)
        if holds != "off" and not kernel():
            holds, why = "off", "no Landlock"
        self.assertEqual(holds, report["holds"])
        self.assertIn(why, report["why"])
        self.assertEqual(bool(report["why"]), holds == "off" and bool(why))
        return report

    def test_foreign_plugins(self):
        """They turn it off, with a line that says what turns it on."""
        self.overrideAttr(plugins, "foreign", lambda: ["mail", "notes"])
        report = self.check("off", "mail, notes did not come", sandbox="auto")
        self.assertIn("lpserve.sandbox = writes", report["why"])
        self.check("writes", sandbox="writes")

    def test_no_landlock(self):
        """Whatever was asked for, there is none, and a reason."""

        def version():
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

        self.overrideAttr(landlock, "version", version)
        for asked in ("auto", "writes", "strict"):
            report = self.check("off", os.strerror(errno.EOPNOTSUPP), sandbox=asked)
            self.assertEqual(([], 0), (report["warnings"], report["abi"]))

    def test_before_rename(self):
        """It cannot be had where packs are written, but where they are read."""
        self.overrideAttr(landlock, "version", lambda: 1)
        self.check("off", "rename packs")
        if kernel():
            self.check("writes", allow_writes=False)

    def test_before_truncate(self):
        self.overrideAttr(landlock, "version", lambda: 2)
        if kernel():
            report = self.check("writes")
            self.assertIn("truncated", report["warnings"][-1])

    def test_no_room(self):
        """Where the kernel refuses the rules there is no sandbox, and a reason."""

        def restrict(ruleset):
            raise OSError(errno.E2BIG, os.strerror(errno.E2BIG))

        self.overrideAttr(landlock.Ruleset, "restrict", restrict)
        if kernel():
            self.check("off", os.strerror(errno.E2BIG))

    def test_no_directory(self):
        self.check("off", directory=None)


class TestWrites(ConfineCase):
    def test_read_only(self):
        """Where clients may not write, the kernel does not let workers either."""
        self.assertAttempts([DENIED], (write, "root/new"), allow_writes=False)

    def test_link(self):
        """What is served is where a link leads."""
        os.symlink("root", "link")
        self.assertAttempts(
            ["done", DENIED],
            (write, "root/new"),
            (os.unlink, "link"),
            directory=os.path.abspath("link"),
        )

    def test_code_in_temporary_directory(self):
        """FAULT 37: then there is another one, and what is run stays as it is."""
        self.overrideAttr(tempfile, "tempdir", self.test_dir)

        def run(made):
            with tempfile.NamedTemporaryFile() as file:
                inside = file.name.startswith(os.environ["TMPDIR"] + "/")
            return [inside, attempt(write, "code/new"), attempt(write, "new")]

        _, found = self.enter(run)
        if kernel():
            self.assertEqual([True, DENIED, DENIED], found)
            ours = os.path.join(bedding.cache_dir(), "lpserve-tmp")
            self.assertEqual(0o700, os.stat(ours).st_mode & 0o777)

    def test_old_temporary_files(self):
        """What killed workers left there goes after days."""
        self.overrideAttr(tempfile, "tempdir", self.test_dir)
        ours = os.path.join(bedding.cache_dir(), "lpserve-tmp")
        self.build_tree(["old/", "old/file", "oldfile", "young"])
        os.mkdir(ours)
        for name in ("old", "oldfile", "young"):
            os.rename(name, os.path.join(ours, name))
            if name != "young":
                os.utime(os.path.join(ours, name), (0, 0))
        self.enter()
        if kernel():
            self.assertEqual(["young"], os.listdir(ours))

    def test_warnings(self):
        """Of what can be written although it is run; of what is not there."""
        self.assertEqual("", self.warnings() if kernel() else "")
        if kernel():
            text = self.warnings(directory=os.path.dirname(bedding.config_dir()))
            self.assertIn(f"can change {bedding.config_dir()}", text)
            text = self.warnings(sandbox_paths=[os.path.abspath("code")])
            self.assertIn(f"can change {os.path.abspath('code')}", text)
            gone = self.root + "/gone"
            text = self.warnings(sandbox_paths=[gone])
            self.assertIn(f"cannot allow {gone}: No such file", text)
            # The service says itself that what is served is not there.
            self.assertEqual("", self.warnings(directory=gone))
        self.assertNotIn("can change", self.warnings(directory="/", allow_writes=False))


class TestStrict(ConfineCase):
    def test_programs(self):
        """Those of the system run; what a client has written does not."""
        self.build_tree_contents([("root/program", b"#!/bin/sh\n")])
        os.chmod("root/program", 0o755)

        def run(made):
            return [
                os.system(each)
                for each in ("true > /dev/null", "root/program 2> /dev/null")
            ]

        _, found = self.enter(run, sandbox="strict")
        if kernel():
            self.assertEqual([0, 126 << 8], found)
