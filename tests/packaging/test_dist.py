# SPDX-License-Identifier: GPL-2.0-or-later

"""What is uploaded to PyPI."""

import os
import re
import shutil
import subprocess
import sys
import tarfile

from breezy.tests import TestCase, TestCaseInTempDir, features

from ..client.nativeclient import compiler, load_setup, readelf
from ..harness import PLUGIN
from ..scripts import load_script
from .place import PACKAGING, packaging, read


def load_dist():
    """The module packaging/dist.py."""
    return load_script("lpserve_dist", os.path.join(PACKAGING, "dist.py"))


class TestSource(TestCaseInTempDir):
    def setUp(self):
        super().setUp()
        self.requireFeature(packaging)
        self.requireFeature(features.ModuleAvailableFeature("setuptools"))

    def tracked(self):
        """The files of the project, as git knows them, or as they are there."""
        words = ["git", "-C", PLUGIN, "ls-files", "-z"]
        if os.path.exists(os.path.join(PLUGIN, ".git")) and shutil.which("git"):
            done = subprocess.run(words, capture_output=True, text=True, check=False)
            if done.returncode == 0:
                return set(filter(None, done.stdout.split("\0")))
        sources = os.path.join(PLUGIN, "brz_lpserve.egg-info", "SOURCES.txt")
        with open(sources, encoding="utf-8") as file:
            # After a build of a wheel they begin with "./".
            names = map(os.path.normpath, file.read().splitlines())
            return {name for name in names if ".egg-info" not in name}

    def test_complete(self):
        """It has all files of the project, and no others."""
        tracked = self.tracked()
        for name in tracked:
            path = os.path.join(PLUGIN, name)
            if os.path.exists(path):
                target = os.path.join("source", name)
                os.makedirs(os.path.dirname(target), exist_ok=True)
                shutil.copy(path, target)
        for junk in ("lpserve/__pycache__/a.pyc", "doc/_build/html/index.html"):
            os.makedirs(os.path.dirname(f"source/{junk}"), exist_ok=True)
            with open(f"source/{junk}", "w"):
                pass
        words = [sys.executable, "setup.py", "--quiet", "sdist", "--dist-dir", ".."]
        done = subprocess.run(words, cwd="source", capture_output=True, check=False)
        self.assertEqual(0, done.returncode, done.stderr)
        (name,) = (each for each in os.listdir(".") if each.endswith(".tar.gz"))
        with tarfile.open(name) as opened:
            found = {m.name.partition("/")[2] for m in opened if not m.isdir()}
        found = {each for each in found if ".egg-info" not in each}
        self.assertEqual(set(), found - tracked - {"PKG-INFO", "setup.cfg"})
        there = {n for n in tracked if os.path.exists(os.path.join(PLUGIN, n))}
        self.assertEqual(set(), there - found)


class TestNamed(TestCase):
    def test_readme(self):
        """What README names is there."""
        self.requireFeature(packaging)
        text = read("README")
        # Paths, "doc/a.txt", "deploy/", and files in capitals.
        named = re.findall(
            r"(?<![\w./~-])(?:doc|deploy|benchmarks|demo)/[\w./]*\w?", text
        )
        named += re.findall(r"\b(?:HACKING|COPYING|NEWS)\b", text)
        self.assertNotEqual([], named)
        for name in named:
            self.assertPathExists(os.path.join(PLUGIN, name))


class TestClient(TestCaseInTempDir):
    """The client in a wheel."""

    def test_check(self):
        self.requireFeature(packaging)
        self.requireFeature(compiler)
        self.requireFeature(readelf)
        dist, setup = load_dist(), load_setup()

        def fault_of(**keywords):
            setup.build_client("client", **keywords)
            with open("client", "rb") as file:
                program = file.read()
            try:
                dist.check_static(program)
            except dist.DistError as error:
                return str(error)
            return None

        self.overrideEnv("CC", None)
        # Where the C library is musl a static program may be in a wheel.
        self.assertNotEqual(None, fault_of(static=False))
        self.requireFeature(features.ExecutableFeature("musl-gcc"))
        self.assertEqual("the client is linked with glibc", fault_of())
        self.overrideEnv("CC", "musl-gcc")
        self.assertEqual("the client needs a dynamic linker", fault_of())
        self.overrideEnv("CC", dist.musl_compiler(self.test_dir))
        self.assertEqual(None, fault_of())
