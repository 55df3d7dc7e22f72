# SPDX-License-Identifier: GPL-2.0-or-later

"""The help texts, and that loading the plug-in imports nothing."""

import sys

from ...lpserve.settings import OPTIONS
from ..harness import LiveTestCase

_LOADED = """
import sys, breezy
with breezy.initialize(setup_ui=False):
    from breezy.plugin import load_plugins
    load_plugins()
    print(*sorted(m for m in sys.modules if m.startswith("breezy.plugins.lpserve")))
"""


class TestHelp(LiveTestCase):
    def help(self, topic):
        text = self.run_brz("help", topic).stdout.decode()
        for line in text.splitlines():
            self.assertTrue(len(line) <= 80, f"wider than a terminal: {line!r}")
        return text

    def test_service(self):
        text = self.help("lp-serve")
        self.assertStartsWith(text, "Purpose: Serve bzr+ssh connections")
        for option in (
            "--allow-writes",
            "--client-timeout=SECONDS",
            "--daemon",
            "--directory=",
            "--fork-server",
            "--inet",
            "--pid-file=FILE",
            "--runtime-dir=DIR",
        ):
            self.assertContainsString(text, option)
        self.assertContainsString(text, "Examples:\n")
        self.assertNotContainsString(text, "zygote")

    def test_other_commands(self):
        text = self.help("lp-serve-client")
        self.assertContainsString(text, "lp-serve-client USER\n")
        for shown in ("--no-fallback", "--runtime-dir=DIR", "64", "69", "75", "77"):
            self.assertContainsString(text, shown)
        text = self.help("lp-serve-control")
        for shown in ("hello", "status", "reload", "shutdown", "--json", "--now"):
            self.assertContainsString(text, shown)
        text = self.help("lp-serve-setup")
        for shown in (
            *(
                "'check' looks",
                "'user add NAME KEYFILE'",
                "'files DIR'",
                "Exit values:",
            ),
            *("--account=NAME", "--for=SERVER", "--force", "--json", "Examples:"),
            *("--sshd-config=FILE", "--units=DIR"),
        ):
            self.assertContainsString(text, shown)
        self.assertNotContainsString(text, "sshd-said")
        text = self.run_brz("help", "commands").stdout.decode()
        for name in ("", "-client", "-control", "-setup", "-ssh", "-exporter"):
            self.assertContainsString(text, f"\nlp-serve{name} ")

    def test_topic(self):
        """The topic of the plug-in names every option and every command."""
        text = self.help("lpserve")
        self.assertStartsWith(text, "Start bzr+ssh connections at once")
        for name in OPTIONS:
            self.assertContainsString(text, f"\n:lpserve.{name}:\n")
        for command in ("brz lp-serve ", "lp-serve-client ", "brz lp-serve-control "):
            self.assertContainsString(text, command)
        text = self.run_brz("help", "lpserve.max_workers").stdout
        self.assertStartsWith(text, b"How many connections may be open at once")

    def test_plugins(self):
        """One line that says what it is for, with a version."""
        text = self.run_brz("plugins", "-v").stdout.decode()
        _, _, rest = text.partition("\nlpserve ")
        version, summary = rest.splitlines()[:2]
        self.assertStartsWith(version, "0.1.0")
        self.assertEqual(
            "  Start bzr+ssh connections at once, from one process that has Breezy "
            "loaded.",
            summary,
        )


class TestLoading(LiveTestCase):
    def test_lazy(self):
        """Loading the plug-in imports nothing of its inside."""
        done = self.run_program([sys.executable, "-c", _LOADED])
        self.assertEqual(b"", done.stderr)
        self.assertEqual(b"breezy.plugins.lpserve\n", done.stdout)
