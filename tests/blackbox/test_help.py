# SPDX-License-Identifier: GPL-2.0-or-later

"""What the plug-in says of itself, and that loading it costs nothing."""

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

    def test_client(self):
        text = self.help("lp-serve-client")
        self.assertContainsString(text, "lp-serve-client USER\n")
        for shown in ("--no-fallback", "--runtime-dir=DIR", "64", "69", "75", "77"):
            self.assertContainsString(text, shown)

    def test_control(self):
        text = self.help("lp-serve-control")
        for shown in ("hello", "status", "reload", "shutdown", "--json", "--now"):
            self.assertContainsString(text, shown)

    def test_topic(self):
        """The topic of the plug-in names every option and every command."""
        text = self.help("lpserve")
        self.assertStartsWith(text, "Start bzr+ssh connections at once")
        for name in OPTIONS:
            self.assertContainsString(text, f"\n:lpserve.{name}:\n")
        for command in ("brz lp-serve ", "lp-serve-client ", "brz lp-serve-control "):
            self.assertContainsString(text, command)

    def test_options(self):
        """Every option can be looked up, and says more than its name."""
        code = (
            "import breezy; breezy.initialize(setup_ui=False)\n"
            "from breezy.plugin import load_plugins; load_plugins()\n"
            "from breezy.config import option_registry\n"
            "for name in option_registry.keys():\n"
            "    if name.startswith('lpserve.'):\n"
            "        print(name, '|', option_registry.get(name).help)\n"
        )
        done = self.run_program([sys.executable, "-c", code])
        self.assertEqual(b"", done.stderr)
        found = dict(line.split(" | ") for line in done.stdout.decode().splitlines())
        self.assertEqual({f"lpserve.{name}" for name in OPTIONS}, set(found))
        self.assertEqual([], [n for n, help in found.items() if len(help) < 30])

    def test_option_topic(self):
        text = self.run_brz("help", "lpserve.max_workers").stdout
        self.assertStartsWith(text, b"How many connections may be open at once")

    def test_commands_list(self):
        text = self.run_brz("help", "commands").stdout.decode()
        for name in ("", "-client", "-control", "-ssh"):
            self.assertContainsString(text, f"\nlp-serve{name} ")
        self.assertEqual(4, text.count("[lpserve]"))

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

    def test_stand_alone(self):
        done = self.run_program(["lp-serve-client", "--help"])
        self.assertEqual((0, b""), (done.returncode, done.stderr))
        self.assertStartsWith(done.stdout, b"usage: lp-serve-client [OPTIONS] USER\n")
        for option in (b"--runtime-dir DIR", b"--no-fallback", b"--help"):
            self.assertContainsString(done.stdout, option)


class TestLoading(LiveTestCase):
    def test_lazy(self):
        """Loading the plug-in imports nothing of its inside."""
        done = self.run_program([sys.executable, "-c", _LOADED])
        self.assertEqual(b"", done.stderr)
        self.assertEqual(b"breezy.plugins.lpserve\n", done.stdout)
