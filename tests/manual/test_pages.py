# SPDX-License-Identifier: GPL-2.0-or-later

"""What the manual names is there: commands, options, settings, targets, files."""

import importlib
import os
import re
import shutil
import subprocess
import sys

from breezy import config
from breezy.plugins import lpserve
from breezy.tests import TestCaseInTempDir, TestSkipped

from ..harness import DEADLINE, PLUGIN
from .sources import DOC, load, pages

#: A command of lpserve, up to the end of the line or of the quotation.
_COMMAND = re.compile(
    r"(?:^ *|``|`|\"|exec |&& )(?:\S*/)?brz (?:-O\S+ )?(lp-serve[a-z-]*)([^`\"\n|&]*)",
    re.M,
)


def texts():
    """The pages, and other texts for users."""
    found = pages()
    for name in ("README", "deploy/breezy.conf", "deploy/access.conf.example"):
        with open(os.path.join(PLUGIN, name), encoding="utf-8") as file:
            found[name] = file.read()
    return found


def command_class(name):
    """The class of the command *name*.

    :raises ImportError: if there is none.
    """
    module = name.removeprefix("lp-serve-") if name != "lp-serve" else "serve"
    found = importlib.import_module(f"{lpserve.__name__}.lpserve.cmds.{module}")
    return getattr(found, f"cmd_{name.replace('-', '_')}")


class TestNames(TestCaseInTempDir):
    def setUp(self):
        super().setUp()
        self.blocks = load("blocks")
        self.texts = texts()

    def test_commands_and_options(self):
        """Each command that is named has the options that are named with it."""
        faults, count = [], 0
        for page, text in self.texts.items():
            for name, words in _COMMAND.findall(text):
                count += 1
                try:
                    options = command_class(name)().options()
                except ImportError:
                    faults.append(f"{page}: no command {name}")
                    continue
                for option in re.findall(r"(?<!\S)--([a-z-]+)", words):
                    if option not in options:
                        faults.append(f"{page}: {name} has no --{option}")
        self.assertEqual([], faults)
        self.assertTrue(count > 50, count)

    def test_settings(self):
        faults = []
        for page, text in self.texts.items():
            for name in re.findall(r"(?<![\w/])lpserve\.([a-z_]{4,})", text):
                if name in ("conf", "service", "socket", "logrotate"):
                    continue
                if name.rstrip("_") == "per_source":
                    continue
                if name not in lpserve.OPTIONS:
                    faults.append(f"{page}: lpserve.{name}")
        self.assertEqual([], faults)
        for name in lpserve.OPTIONS:
            help = config.option_registry.get(f"lpserve.{name}").help
            self.assertNotEqual("", help)

    def test_targets_and_files(self):
        with open(os.path.join(PLUGIN, "Makefile"), encoding="utf-8") as file:
            targets = re.findall(r"^([a-z-]+):", file.read(), re.M)
        faults = []
        for page, text in self.texts.items():
            for name in re.findall(r"(?:``|\"|^ +)make ([a-z-]+)", text, re.M):
                # Packages are built where packaging/ is.
                if name not in targets and os.path.isdir(f"{PLUGIN}/packaging"):
                    faults.append(f"{page}: make {name}")
            for path in re.findall(r"(?:doc|deploy)/[A-Za-z0-9_.-]*[a-z]", text):
                if not os.path.exists(os.path.join(PLUGIN, path)):
                    faults.append(f"{page}: {path}")
        faults = [each for each in faults if "Containerfile" not in each]
        self.assertEqual([], faults)

    def test_kinds(self):
        """Each block of commands is of a kind, and all commands are in blocks."""
        for page, text in pages().items():
            blocks = self.blocks.find_blocks(text)
            self.assertEqual(text.count(".. shell::"), len(blocks), page)
            for block in blocks:
                self.assertIn(block.kind, self.blocks.KINDS, f"{page}:{block.line}")
                done = subprocess.run(["sh", "-n", "-c", block.text], check=False)
                self.assertEqual(0, done.returncode, f"{page}:{block.line}")
            self.assertNotIn(".. code-block:: sh", text, page)
            self.assertNotIn(".. code-block:: console", text, page)

    def test_commands_for_root(self):
        """The pages with commands for root are those that packaging/ types."""
        path = os.path.join(PLUGIN, "packaging", "trymanual.py")
        if not os.path.exists(path):
            raise TestSkipped("packaging/ is not here")
        with open(path, encoding="utf-8") as file:
            typed = re.search(r"^PAGES = \((.*)\)$", file.read(), re.M)[1]
        for page, text in pages().items():
            if any(block.kind == "root" for block in self.blocks.find_blocks(text)):
                self.assertIn(f'"{page}"', typed)

    def test_every_page_is_reached(self):
        named = set()
        for page, text in pages().items():
            for tree in re.findall(r"^\.\. toctree::\n((?:\n|   .*\n)*)", text, re.M):
                base = os.path.dirname(page)
                named.update(
                    os.path.normpath(os.path.join(base, line.strip()))
                    for line in tree.splitlines()
                    if line.strip() and not line.strip().startswith(":")
                )
        self.assertEqual(set(pages()) - {"index"}, named)


class TestBuild(TestCaseInTempDir):
    """Sphinx builds it without a warning, where it is installed."""

    def test_build(self):
        program = os.path.join(os.path.dirname(sys.executable), "sphinx-build")
        if not os.path.exists(program):
            program = shutil.which("sphinx-build")
        if program is None:
            raise TestSkipped("there is no Sphinx")
        environ = {**os.environ, "BRZ_PLUGINS_AT": f"lpserve@{PLUGIN}"}
        environ["PYTHONDONTWRITEBYTECODE"] = "1"
        for builder in ("html", "man"):
            words = [program, "-q", "-W", "--keep-going", "-b", builder, "-d", "trees"]
            done = subprocess.run(
                [*words, DOC, builder],
                env=environ,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=DEADLINE * 5,
                check=False,
            )
            self.assertEqual((0, b""), (done.returncode, done.stderr))
        for name in ("index", "quickstart", "troubleshooting", "man/lp-serve-client"):
            self.assertPathExists(f"html/{name}.html")
        self.assertIn("brz-lp-serve-control.1", os.listdir("man"))
        with open("html/settings.html", encoding="utf-8") as file:
            settings = file.read()
        for name in lpserve.OPTIONS:
            self.assertIn(f"lpserve.{name}<", settings)
