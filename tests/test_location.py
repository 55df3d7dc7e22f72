# SPDX-License-Identifier: GPL-2.0-or-later

"""Service and client find each other, by the same breezy.conf."""

import os

from breezy import config
from breezy.tests import TestCase, TestCaseInTempDir

from ..lpserve import location, settings
from ..lpserve.errors import ConfigurationError


class TestRuntimeDirectory(TestCase):
    """`location.runtime_directory`: which of the places wins."""

    def where(self, chosen=None, configured=None, uid=1000, **environ):
        self.overrideAttr(os, "geteuid", lambda: uid)
        return location.runtime_directory(chosen, configured, environ)

    def test_precedence(self):
        """Each beats those after it."""
        environ = {
            "LPSERVE_RUNTIME_DIR": "/environment",
            "RUNTIME_DIRECTORY": "/systemd",
            "XDG_RUNTIME_DIR": "/xdg",
        }
        found = [
            self.where("/option", "/configured", **environ),
            self.where(None, "/configured", **environ),
            self.where(**environ),
        ]
        del environ["LPSERVE_RUNTIME_DIR"]
        found.append(self.where(**environ))
        del environ["RUNTIME_DIRECTORY"]
        found.append(self.where(**environ, uid=0))
        found.append(self.where(**environ))
        found.append(self.where())
        home = os.path.expanduser("~/.cache/breezy/lpserve")
        self.assertEqual(
            [
                "/option",
                "/configured",
                "/environment",
                "/systemd",
                "/run/lpserve",
                "/xdg/lpserve",
                home,
            ],
            found,
        )

    def test_values(self):
        """Empty is not given; systemd.exec(5) gives a list; paths become absolute."""
        empty = {"LPSERVE_RUNTIME_DIR": "", "RUNTIME_DIRECTORY": ""}
        xdg = {**empty, "XDG_RUNTIME_DIR": "/xdg"}
        self.assertEqual("/xdg/lpserve", self.where("", "", **xdg))
        self.assertEqual("/run/lpserve", self.where(uid=0, **empty))
        self.assertEqual("/run/a", self.where(RUNTIME_DIRECTORY="/run/a:/run/b"))
        self.assertEqual(os.path.join(os.getcwd(), "here"), self.where("here/"))
        self.assertEqual(os.path.expanduser("~/there"), self.where(None, "~/there"))
        # Without an environment it is that of this process.
        self.overrideEnv("LPSERVE_RUNTIME_DIR", "/ours")
        self.assertEqual("/ours", location.runtime_directory())


class TestDirectoryFault(TestCaseInTempDir):
    """FAULT 15: an insecure directory is recognised, with the reason."""

    def fault(self, mode):
        os.mkdir("run")
        os.chmod("run", mode)
        try:
            return location.directory_fault("run")
        finally:
            os.rmdir("run")

    def test_safe(self):
        for mode in (0o700, 0o755, 0o750, 0o500):
            self.assertIs(None, self.fault(mode), oct(mode))

    def test_writable_by_others(self):
        for mode in (0o720, 0o702, 0o777, 0o1777):
            self.assertContainsRe(
                self.fault(mode), f"run is writable by others \\(mode {mode:04o}\\)"
            )

    def test_no_directory(self):
        self.assertRaises(FileNotFoundError, location.directory_fault, "run")
        self.build_tree(["run"])
        self.assertEqual("run is not a directory", location.directory_fault("run"))


class TestConfiguration(TestCaseInTempDir):
    """The client finds the same in breezy.conf as Breezy does."""

    def setUp(self):
        super().setUp()
        self.overrideEnv("BRZ_HOME", self.test_dir)
        os.mkdir("breezy")

    def write(self, text):
        with open("breezy/breezy.conf", "w", encoding="utf-8", newline="") as file:
            file.write(text)

    def by_breezy(self, name):
        stack = config.GlobalStack()
        stack.store.unload()
        return stack.get(f"lpserve.{name}")

    def assertAgree(self, text, name="runtime_dir"):
        self.write(text)
        expected = self.by_breezy(name)
        found = location.read_configuration()[name]
        if name == "environment":
            found = list(found)
        self.assertEqual(expected, found, text)

    def test_values(self):
        for value in (
            "/run/a",
            "'/run/a b'",
            '"/run/a b"',
            "/run/a b  ",
            "/run/a b # c",
            "/run/a#b",
            "'/run/a#b'",
            '"/run/a" # c',
            "/run/a=b",
            "/run/a;b",
            "/run/a\\b",
            "/run/it's",
            '"/run/it\'s"',
            "/run/a, b",
            "/run/é",
            "~/run",
        ):
            self.assertAgree(f"[DEFAULT]\nlpserve.runtime_dir = {value}\n")

    def test_layouts(self):
        line = "lpserve.runtime_dir = /run/a\n"
        for text in (
            "",
            "[DEFAULT]\n" + line,
            "[DEFAULT]\n" + line.strip(),
            "[DEFAULT]\r\nlpserve.runtime_dir = /run/a\r\n",
            "\ufeff[DEFAULT]\n" + line,
            "  [ DEFAULT ]\n  " + line,
            "[DEFAULT]  # for all\n" + line,
            "[DEFAULT]\nlpserve.runtime_dir=/run/a\n",
            "[DEFAULT]\n# " + line,
            "[DEFAULT]\nother.runtime_dir = /run/b\n" + line,
            "[ALIASES]\n" + line,
            "[default]\n" + line,
            "[DEFAULT]\n" + line + "[OTHER]\nlpserve.runtime_dir = /run/b\n",
            "[OTHER]\nlpserve.runtime_dir = /run/b\n[DEFAULT]\n" + line,
            "email = a@b\n[DEFAULT]\n" + line,
            # What stands before every section is nobody's.
            line,
            line + "[DEFAULT]\nemail = a@b\n",
        ):
            self.assertAgree(text)

    def test_not_utf8(self):
        """Other bytes elsewhere in the file do not stop the client."""
        with open("breezy/breezy.conf", "wb") as file:
            file.write(b"[DEFAULT]\nemail = \xff\nlpserve.runtime_dir = /run/a\n")
        self.assertEqual("/run/a", location.read_configuration()["runtime_dir"])

    def test_other_options(self):
        for name, values in (
            ("environment", ("LANG", "LANG,TZ", "LANG , TZ", "LANG, TZ,", "")),
            ("environment", ("'LANG', 'TZ'",)),
            ("autostart", ("1", "True", "yes", "ON", "y", "'true'")),
            ("autostart", ("0", "No", "off", "false")),
            ("connect_timeout", ("5", "5.5", "1e2", "0")),
        ):
            for value in values:
                self.assertAgree(f"[DEFAULT]\nlpserve.{name} = {value}\n", name)

    def test_defaults(self):
        """What is not set is to the client what it is to the service."""
        expected = location.read_configuration()  # there is no file yet
        for text in ("", "[DEFAULT]\n"):
            for name in ("runtime_dir", "environment", "autostart", "connect_timeout"):
                self.assertAgree(text, name)
            self.assertEqual(expected, location.read_configuration())

    def test_refused_by_both(self):
        """What the service calls an error is none that the client overlooks."""
        for name, value in (
            ("connect_timeout", "soon"),
            ("connect_timeout", ""),
            ("connect_timeout", "-1"),
            ("connect_timeout", "inf"),
            ("connect_timeout", "nan"),
            ("autostart", "maybe"),
        ):
            self.write(f"[DEFAULT]\nlpserve.{name} = {value}\n")
            self.assertRaises(ConfigurationError, settings.read_settings)
            try:
                location.read_configuration()
            except ValueError as error:
                self.assertContainsRe(str(error), f"lpserve.{name}")
            else:
                self.fail(f"lpserve.{name} = {value} was accepted")

    def test_same_file(self):
        """It is looked for where Breezy looks."""
        home = os.path.join(self.test_dir, "home")
        xdg = os.path.join(self.test_dir, "xdg")
        for base, value in ((os.path.join(home, ".config"), "home"), (xdg, "xdg")):
            os.makedirs(os.path.join(base, "breezy"))
            with open(os.path.join(base, "breezy", "breezy.conf"), "w") as file:
                file.write(f"[DEFAULT]\nlpserve.runtime_dir = /{value}\n")
        self.assertAgree("[DEFAULT]\nlpserve.runtime_dir = /brz\n")
        self.overrideEnv("BRZ_HOME", None)
        self.overrideEnv("HOME", home)
        for expected, value in (("/xdg", xdg), ("/home", None)):
            self.overrideEnv("XDG_CONFIG_HOME", value)
            self.assertEqual(expected, self.by_breezy("runtime_dir"))
            found = location.read_configuration()["runtime_dir"]
            self.assertEqual(expected, found)
