# SPDX-License-Identifier: GPL-2.0-or-later

"""Completion in shells."""

import os
import re
import subprocess

from breezy.commands import plugin_cmds
from breezy.tests import TestCaseInTempDir, features

from ... import __name__ as plugin_name
from ...lpserve.client.client import USAGE
from .place import PACKAGING, packaging, read

OPTIONS = set(re.findall(r"^  (--[a-z-]+)", USAGE, re.M))

#: What a shell does when TAB is pressed after the words "$@".
IN_BASH = """\
source "$FILE"
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
compopt() { :; }
"$FUNCTION"
printf '%s\\n' "${COMPREPLY[@]}"
"""


class BashCase(TestCaseInTempDir):
    def setUp(self):
        super().setUp()
        self.requireFeature(features.ExecutableFeature("bash"))

    def complete(self, file, function, *words):
        """What can replace the last of *words*."""
        done = subprocess.run(
            ["bash", "--norc", "-c", IN_BASH, "bash", *words],
            env={**os.environ, "FILE": file, "FUNCTION": function},
            capture_output=True,
            text=True,
            check=False,
        )
        self.assertEqual((0, ""), (done.returncode, done.stderr))
        return set(done.stdout.split())


class TestClient(BashCase):
    def setUp(self):
        super().setUp()
        self.requireFeature(packaging)
        self.overrideAttr(os, "environ", {**os.environ, "LC_ALL": "C"})

    def client(self, *words):
        path = os.path.join(PACKAGING, "completion", "bash", "lp-serve-client")
        return self.complete(path, "_lp_serve_client", "lp-serve-client", *words)

    def test_bash(self):
        self.assertEqual(OPTIONS, self.client("--"))
        self.assertEqual({"--no-fallback"}, self.client("--n"))
        self.assertEqual(set(), self.client("al"))
        os.makedirs("run/lpserve")
        for equals in ((), ("=",)):
            self.assertEqual({"fifo"}, self.client("--door", *equals, "f"))
            self.assertEqual({"run"}, self.client("--runtime-dir", *equals, "r"))
        self.assertEqual({"fifo", "socket"}, self.client("--door", "="))

    def test_zsh(self):
        text = read("packaging", "completion", "zsh", "_lp-serve-client")
        self.assertEqual(OPTIONS, set(re.findall(r"--[a-z-]+", text)))
        self.requireFeature(features.ExecutableFeature("zsh"))
        path = os.path.join(PACKAGING, "completion", "zsh", "_lp-serve-client")
        subprocess.run(["zsh", "-f", "-n", path], check=True)

    def test_fish(self):
        path = os.path.join(PACKAGING, "completion", "fish", "lp-serve-client.fish")
        found = re.findall(r"-l ([a-z-]+)", read(path))
        self.assertEqual(OPTIONS, {"--" + each for each in found})
        self.requireFeature(features.ExecutableFeature("fish"))
        words = ["fish", "-c", 'source $argv[1]; complete -C "lp-serve-client --door "']
        done = subprocess.run(
            [*words, path],
            env={**os.environ, "HOME": self.test_dir, "XDG_CONFIG_HOME": self.test_dir},
            capture_output=True,
            text=True,
            check=True,
        )
        found = [line.split()[0] for line in done.stdout.splitlines()]
        self.assertEqual(["fifo", "socket"], found)


class TestBrz(BashCase):
    """Breezy's own completion."""

    def test_commands(self):
        """It knows the commands of the plug-in, and their options."""
        self.assertEqual("breezy.plugins.lpserve", plugin_name)
        shown = self.run_bzr(["bash-completion"])[0]
        with open("brz.sh", "w") as file:
            file.write(shown)
        found = self.complete("brz.sh", "_brz", "brz", "lp-serve")
        ours = {n for n in plugin_cmds.keys() if n.startswith("lp-serve")}  # noqa: SIM118
        self.assertEqual(ours, found)
        found = self.complete("brz.sh", "_brz", "brz", "lp-serve-client", "--no-f")
        self.assertEqual({"--no-fallback"}, found)
