# SPDX-License-Identifier: GPL-2.0-or-later

"""What setup.py installs as lp-serve-client, with and without a C compiler."""

import os
import shlex
import shutil
import subprocess
import sys
import zipfile

from breezy.tests import TestCaseInTempDir, features

from .client.nativeclient import compiler, load_setup, readelf
from .harness import PLUGIN

#: A compiler that refuses some flags, as others do.
PICKY = """\
#!/bin/sh
for word in "$@"; do
    case $word in
    {refused}) echo "error: unknown option $word" >&2; exit 1 ;;
    esac
done
exec {real} "$@"
"""


class SetupCase(TestCaseInTempDir):
    def setUp(self):
        super().setUp()
        self.overrideEnv("CC", os.environ.get("CC"))
        self.overrideEnv("LPSERVE_NATIVE", None)
        self.setup_py = load_setup()

    def make_compiler(self, refused):
        """Have a compiler that refuses flags of the shell pattern *refused*."""
        path = os.path.abspath("picky")
        real = shlex.join(self.setup_py.find_compiler())
        with open(path, "w") as file:
            file.write(PICKY.format(refused=refused, real=real))
        os.chmod(path, 0o755)
        self.overrideEnv("CC", path)


class TestCompiler(SetupCase):
    def find(self, value, path="/nowhere"):
        self.overrideEnv("CC", value)
        self.overrideEnv("PATH", path)
        return self.setup_py.find_compiler()

    def make(self, *names):
        for name in names:
            with open(name, "w"):
                pass
            os.chmod(name, 0o755)
        return self.test_dir

    def test_choice(self):
        """$CC, with options if it has any, else the first there is."""
        path = self.make("clang", "special")
        self.assertEqual(["clang"], self.find(None, path))
        self.assertEqual(["clang"], self.find("", path))
        self.make("gcc")
        self.assertEqual(["gcc"], self.find(None, path))
        self.make("cc")
        self.assertEqual(["cc"], self.find(None, path))
        self.assertEqual(["special", "-m x"], self.find("special '-m x'", path))


class TestBuild(SetupCase):
    def setUp(self):
        super().setUp()
        self.requireFeature(compiler)

    def check(self, *flags, **keywords):
        """Build it, and run it; how it is linked."""
        self.requireFeature(readelf)
        self.setup_py.build_client("client", *flags, **keywords)
        shown = subprocess.run(
            ["./client", "--version"], capture_output=True, text=True, check=True
        ).stdout
        version = self.setup_py.brz_plugin_version
        self.assertEqual(f"lp-serve-client {version} (native)\n", shown)
        done = subprocess.run(
            ["readelf", "-lW", "client"], capture_output=True, text=True, check=True
        )
        return "dynamic" if "INTERP" in done.stdout else "static"

    def test_warnings_are_errors(self):
        """Of all the flags, at the first attempt: none has to be left out."""
        for name in ("gcc", "clang"):
            if shutil.which(name):
                self.overrideEnv("CC", name)
                said = []
                self.overrideAttr(self.setup_py, "_taken", said.append)
                self.check()
                self.assertEqual([], said)

    def test_refused_flags(self):
        """What a compiler does not take is left out, and new warnings do no harm."""
        self.make_compiler("-Werror|-fcf-*|-fstack-clash*|*SOURCE=3|-static-pie")
        self.assertEqual("dynamic", self.check())


class TestInstalled(SetupCase):
    """What 'pip install .' puts into the environment."""

    def setUp(self):
        super().setUp()
        self.requireFeature(features.ModuleAvailableFeature("setuptools"))
        os.mkdir("source")
        for name in ("setup.py", "pyproject.toml", "__init__.py", "README", "COPYING"):
            shutil.copy(os.path.join(PLUGIN, name), "source")
        for name in ("bin", "deploy", "lpserve", "native", "packaging", "tests"):
            shutil.copytree(os.path.join(PLUGIN, name), os.path.join("source", name))

    def run_setup(self, *words, **env):
        """Run setup.py; the lines it says of the client."""
        done = subprocess.run(
            [sys.executable, "setup.py", "--quiet", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd="source",
            env={**os.environ, **env},
            text=True,
            check=False,
        )
        self.assertEqual(0, done.returncode, done.stdout)
        lines = done.stdout.splitlines()
        return [each for each in lines if each.startswith("lp-serve-client: ")]

    def scripts(self, **env):
        """The script that is built, and what is said of it."""
        shutil.rmtree("scripts", ignore_errors=True)
        directory = os.path.abspath("scripts")
        said = self.run_setup("build_scripts", "--build-dir", directory, **env)
        path = os.path.join(directory, "lp-serve-client")
        self.assertEqual(0o755, os.stat(path).st_mode & 0o755)
        with open(path, "rb") as file:
            return file.read(), said

    def test_script(self):
        with open(os.path.join(PLUGIN, "bin", "lp-serve-client"), "rb") as file:
            in_python = file.read()
        for env, said in (
            ({"CC": "nonesuch"}, "Python (no C compiler found)"),
            ({"CC": "false"}, "Python (false failed: )"),
            ({"LPSERVE_NATIVE": "no"}, "Python (LPSERVE_NATIVE=no)"),
        ):
            found = self.scripts(**env)
            self.assertEqual((in_python, [f"lp-serve-client: {said}"]), found)
        self.requireFeature(compiler)
        program, lines = self.scripts()
        self.assertStartsWith(program, b"\x7fELF")
        self.assertEqual(1, len(lines), lines)
        self.assertStartsWith(lines[0], "lp-serve-client: native, built with ")

    def test_program_for_another_machine(self):
        """What cannot be run is not installed."""
        path = os.path.abspath("cross")
        with open(path, "w") as file:
            file.write(
                '#!/bin/sh\nwhile [ "$1" != -o ]; do shift; done\necho alien >"$2"\n'
            )
        os.chmod(path, 0o755)
        program, lines = self.scripts(CC=path)
        self.assertStartsWith(program, b"#!/bin/sh")
        self.assertStartsWith(lines[0], "lp-serve-client: Python (")

    def test_wheel(self):
        """One with the program is for this platform, one without it for all."""
        self.requireFeature(compiler)
        self.requireFeature(_wheels)
        for env, tag, pure in (
            ({}, "py3-none-linux_", "false"),
            ({"LPSERVE_NATIVE": "no"}, "py3-none-any", "true"),
        ):
            shutil.rmtree("wheels", ignore_errors=True)
            said = self.run_setup("bdist_wheel", "--dist-dir", "../wheels", **env)
            self.assertEqual(1, len(said), said)
            (name,) = os.listdir("wheels")
            self.assertContainsString(name, tag)
            with zipfile.ZipFile(os.path.join("wheels", name)) as wheel:
                (info,) = (each for each in wheel.namelist() if each.endswith("/WHEEL"))
                text = wheel.read(info).decode()
                self.assertContainsString(text, f"Root-Is-Purelib: {pure}\n")
                self.assertContainsString(text, f"Tag: {tag}")
                names = wheel.namelist()
            # What is no part of the plug-in is not there.
            found = {n.split("/")[3] for n in names if n.startswith("breezy/")}
            self.assertEqual({"__init__.py", "deploy", "lpserve", "tests"}, found)
            # What shells complete.
            shared = {n.partition("/data/")[2] for n in names if "/data/" in n}
            self.assertIn(
                "share/fish/vendor_completions.d/lp-serve-client.fish", shared
            )
            shutil.rmtree(os.path.join("source", "build"))


class _WheelFeature(features.Feature):
    """setuptools that can make wheels, by itself (from 70.1) or with wheel."""

    def _probe(self):
        words = [sys.executable, "setup.py", "--quiet", "--help", "bdist_wheel"]
        done = subprocess.run(words, cwd=PLUGIN, capture_output=True, check=False)
        return done.returncode == 0

    def feature_name(self):
        return "setuptools from 70.1"


_wheels = _WheelFeature()
