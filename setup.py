#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later

"""Installs the plug-in as ``breezy.plugins.lpserve``.

The program ``lp-serve-client`` is the native one if there is a C compiler, else the
Python one. LPSERVE_NATIVE=no selects the Python one; CC selects a compiler.
"""

import glob
import os
import re
import shlex
import shutil
import subprocess
import tempfile

_here = os.path.dirname(os.path.abspath(__file__))


def _read(name):
    with open(os.path.join(_here, name), encoding="utf-8") as file:
        return file.read()


def _version():
    """The version in ``__init__.py``, which cannot be imported without Breezy."""
    return re.search(r'^__version__ = "(.*)"', _read("__init__.py"), re.M).group(1)


brz_plugin_name = "lpserve"
brz_plugin_version = _version()
brz_commands = [
    "lp-serve",
    "lp-serve-client",
    "lp-serve-control",
    "lp-serve-setup",
    "lp-serve-ssh",
    "lp-serve-exporter",
]
brz_minimum_version = (3, 3, 0)
brz_maximum_version = None

_package = "breezy.plugins.lpserve"
_client = "lp-serve-client"

#: The flags without which the native client does not compile.
_NEEDED = ("-std=c11", "-D_GNU_SOURCE", f'-DVERSION="{brz_plugin_version}"')
#: The flags that are used if the compiler supports them.
_WANTED = (
    "-O2",
    "-Wall",
    "-Wextra",
    "-Wpedantic",
    "-Wconversion",
    "-Wshadow",
    "-Wstrict-prototypes",
    "-Wmissing-prototypes",
    "-Wformat=2",
    "-fPIE",
    "-fstack-protector-strong",
    "-fstack-clash-protection",
    "-fcf-protection",
    "-Wl,-z,relro",
    "-Wl,-z,now",
    "-Wl,-z,noexecstack",
)
_FORTIFIED = (
    ("-U_FORTIFY_SOURCE", "-D_FORTIFY_SOURCE=3"),
    ("-U_FORTIFY_SOURCE", "-D_FORTIFY_SOURCE=2"),
)


class BuildError(Exception):
    """The native client cannot be built; ``str()`` tells why."""


def find_compiler():
    """The command that runs the C compiler, a list of words.

    :raises BuildError: if there is none.
    """
    for name in [os.environ["CC"]] if os.environ.get("CC") else ["cc", "gcc", "clang"]:
        words = shlex.split(name)
        if words and shutil.which(words[0]):
            return words
    raise BuildError("no C compiler found")


def build_client(target, *flags, static=True):
    """Compile the native client; the compiler's name.

    :param target: path of the program.
    :param flags: for the compiler, after our own.
    :param static: whether to link it so that nothing is to be found and loaded
        when it starts, where that can be done.
    :raises BuildError: if it cannot be built, or does not run.
    """
    compiler = find_compiler()
    sources = sorted(glob.glob(os.path.join(_here, "native", "*.c")))
    if not sources:
        raise BuildError("its sources are not there")
    # Most compilers support all flags; each flag is tried only if one does not.
    linking = ["-static-pie"] if static else ["-pie"]
    said = _compile(
        compiler,
        sources,
        target,
        [*_WANTED, *_FORTIFIED[0], "-Werror", *linking, *flags],
    )
    if said is not None:
        taken = _taken(compiler, static)
        for strict in (["-Werror"], []):
            said = _compile(compiler, sources, target, [*taken, *strict, *flags])
            if said is None:
                break
        else:
            raise BuildError(f"{compiler[0]} failed: {said}")
    return os.path.basename(compiler[0])


def _compile(compiler, sources, target, flags):
    """Compile; None on success, else the messages of the compiler."""
    done = subprocess.run(
        [*compiler, *_NEEDED, *flags, "-o", target, *sources],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    return done.stdout.decode("utf-8", "replace").strip() if done.returncode else None


def _taken(compiler, static):
    """The flags of `_WANTED` and `_FORTIFIED` that *compiler* supports."""
    with tempfile.TemporaryDirectory() as directory:
        source = os.path.join(directory, "empty.c")
        with open(source, "w") as file:
            file.write("int main(void) { return 0; }\n")

        def takes(*flags):
            target = os.path.join(directory, "empty")
            # clang only warns about an unknown flag.
            return _compile(compiler, [source], target, [*flags, "-Werror"]) is None

        taken = [flag for flag in _WANTED if takes(flag)]
        for choice in _FORTIFIED:
            if takes("-O2", *choice):
                taken += choice
                break
        for linking in ["-static-pie", "-pie"] if static else ["-pie"]:
            if takes("-fPIE", linking):
                taken.append(linking)
                break
    return taken


def _native_client():
    """The bytes of the native client; None if the Python one is installed instead.

    It prints which one is installed, and why.
    """
    if os.environ.get("LPSERVE_NATIVE") == "no":
        print(f"{_client}: Python (LPSERVE_NATIVE=no)", flush=True)
        return None
    try:
        with tempfile.TemporaryDirectory() as directory:
            target = os.path.join(directory, _client)
            name = build_client(target)
            ran = subprocess.run(
                [target, "--version"], capture_output=True, check=False
            )
            if ran.returncode != 0:
                raise BuildError(f"what {name} builds does not run here")
            with open(target, "rb") as program:
                found = program.read()
    except (BuildError, OSError) as error:
        print(f"{_client}: Python ({error})", flush=True)
        return None
    print(f"{_client}: native, built with {name}", flush=True)
    return found


def _data_files():
    """Files for below share/: pairs of a directory and what is in it."""
    found = [
        (f"share/{place}", [f"packaging/completion/{name}"])
        for place, name in (
            ("bash-completion/completions", f"bash/{_client}"),
            ("zsh/site-functions", f"zsh/_{_client}"),
            ("fish/vendor_completions.d", f"fish/{_client}.fish"),
        )
    ]
    for page in sorted(glob.glob("doc/_build/man/*.[1-9]", root_dir=_here)):
        found.append((f"share/man/man{page[-1]}", [page]))
    return found


def _packages():
    """The packages: the plug-in and its folders of modules."""
    found = [_package]
    for top in ("lpserve", "tests"):
        for path in glob.glob(f"{top}/**/__init__.py", root_dir=_here, recursive=True):
            folder = os.path.dirname(path).replace(os.sep, ".")
            found.append(f"{_package}.{folder}")
    return sorted(found)


def _commands():
    """The commands of setuptools, adapted to the native client.

    :returns: a class of distributions and a dict of commands.
    """
    from setuptools import Distribution
    from setuptools.errors import ModuleError

    build_py = Distribution().get_command_class("build_py")
    build_scripts = Distribution().get_command_class("build_scripts")
    try:
        # Part of setuptools since 70.1, and of wheel before.
        bdist_wheel = Distribution().get_command_class("bdist_wheel")
    except ModuleError:
        bdist_wheel = None

    class WithClient(Distribution):
        #: The native client, once it is built.
        native = None
        built = False

        def build_native(self):
            """Build the native client at the first call; whether there is one."""
            if not self.built:
                self.native = _native_client()
                self.built = True
            return self.native is not None

        def has_ext_modules(self):
            return self.native is not None

    class BuildPy(build_py):
        def find_package_modules(self, package, package_dir):
            # The plug-in's directory is also that of this file.
            found = super().find_package_modules(package, package_dir)
            return [each for each in found if each[:2] != (_package, "setup")]

    class BuildScripts(build_scripts):
        def run(self):
            super().run()
            if self.distribution.build_native():
                path = os.path.join(self.build_dir, _client)
                with open(path, "wb") as program:
                    program.write(self.distribution.native)
                os.chmod(path, 0o755)

    commands = {"build_py": BuildPy, "build_scripts": BuildScripts}
    if bdist_wheel is not None:

        class BdistWheel(bdist_wheel):
            def run(self):
                # Built late: most commands do not need it.
                self.root_is_pure = not self.distribution.build_native()
                super().run()

            def get_tag(self):
                python, abi, platform = super().get_tag()
                if self.root_is_pure:
                    return python, abi, platform
                return "py3", "none", platform  # it has a program, but no extension

        commands["bdist_wheel"] = BdistWheel
    return WithClient, commands


if __name__ == "__main__":
    from setuptools import setup

    _distribution, _cmdclass = _commands()
    setup(
        distclass=_distribution,
        cmdclass=_cmdclass,
        name="brz-lpserve",
        version=brz_plugin_version,
        description="Start bzr+ssh connections at once: a fork server for Breezy",
        long_description=_read("README"),
        long_description_content_type="text/plain",
        author="The lpserve developers",
        license="GPL-2.0-or-later",
        # The second for the program in the wheels of "make dist".
        license_files=["COPYING", "packaging/musl-COPYRIGHT"],
        project_urls={"Breezy": "https://www.breezy-vcs.org/"},
        classifiers=[
            "Development Status :: 4 - Beta",
            "Environment :: No Input/Output (Daemon)",
            "Intended Audience :: System Administrators",
            "Operating System :: POSIX :: Linux",
            "Programming Language :: C",
            "Programming Language :: Python :: 3",
            "Programming Language :: Python :: 3.10",
            "Programming Language :: Python :: 3.11",
            "Programming Language :: Python :: 3.12",
            "Programming Language :: Python :: 3.13",
            "Topic :: Software Development :: Version Control",
        ],
        keywords=["bazaar", "breezy", "brz", "bzr", "ssh"],
        platforms=["Linux"],
        python_requires=">=3.10",
        package_dir={_package: "."},
        packages=_packages(),
        # What 'lp-serve-setup files' fills in.
        package_data={_package: ["deploy/*"]},
        scripts=["bin/lp-serve-client"],
        data_files=_data_files(),
        install_requires=["breezy>=3.3,<3.4"],
        extras_require={
            "ssh": ["Twisted[conch]>=24.3"],
            "metrics": ["prometheus_client>=0.16"],
            "test": [
                "testtools>=2.5",
                "python-subunit>=1.4",
                "paramiko>=3",
                "prometheus_client>=0.16",
                "Twisted[conch]>=24.3",
                "ruff>=0.6",
                "mypy>=1.8",
                "setuptools>=70.1",
                "Sphinx>=5.3",
            ],
            "bench": ["matplotlib>=3.7"],
            "doc": ["Sphinx>=5.3"],
        },
    )
