# SPDX-License-Identifier: GPL-2.0-or-later

"""A sandbox that was entered, and when it is outdated."""

import os

from breezy import trace

from ...lpserve.sandbox import confine, sandbox
from .test_confine import ConfineCase
from .test_landlock import kernel, write


class TestUsers(ConfineCase):
    """tests/live/sandbox/test_sandbox.py shows FAULT 36: each reaches his own."""

    def test_users_of_all(self):
        """A warning says so where users can reach each other's files."""
        if kernel():
            report, _ = self.enter(
                sandbox="strict", directory=self.root + "/%u", sandbox_paths=["/"]
            )
            self.assertIn("users can read each other's files", str(report["warnings"]))


class TestOutdated(ConfineCase):
    """What takes another zygote."""

    def setUp(self):
        super().setUp()
        self.overrideAttr(sandbox, "LOOK_AGAIN", 0.0)
        self.build_tree_contents([("brz.log", b"")])
        self.log = os.path.abspath("brz.log")
        self.overrideEnv("BRZ_LOG", self.log)
        self.assertEqual(self.log, trace._get_brz_log_filename())

    def outdated(self, change):
        """Why it is, after *change*; not before."""
        if not kernel():
            return ""
        made = sandbox.Sandbox()
        self.overrideAttr(confine._Builder, "_restrict", lambda self, rules: None)
        made = confine.enter(self.settings(), self.runtime)
        self.assertEqual("", made.outdated())
        change()
        return made.outdated()

    def replace(self, name):
        os.rename(name, "old")
        (os.mkdir if os.path.isdir("old") else write)(name)

    def test_replaced(self):
        for name in ("root", "run/connections", "brz.log"):
            why = self.outdated(lambda name=name: self.replace(name))
            if kernel():
                self.assertEqual(f"{os.path.abspath(name)} is another one now", why)
                os.rename("old", f"old-{os.path.basename(name)}")

    def test_gone(self):
        why = self.outdated(lambda: os.rename("root", "old"))
        if kernel():
            self.assertIn("is another one", why)
            # And that is all there is to be said of it.
            self.assertEqual("", self.outdated(lambda: None))

    def test_long_log(self):
        """FAULT 33: no worker can begin it anew."""
        why = self.outdated(lambda: os.truncate(self.log, sandbox.MAX_LOG + 1))
        if kernel():
            self.assertEqual(f"{self.log} is to be begun anew", why)
            # Where Breezy could not, another zygote would not help either.
            self.assertEqual("", self.outdated(lambda: None))

    def test_now_and_then(self):
        self.overrideAttr(sandbox, "LOOK_AGAIN", 3600.0)
        self.assertEqual("", self.outdated(lambda: self.replace("root")))
