#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later

"""Builds what is uploaded to PyPI; 'make dist' is this.

    dist.py DIRECTORY

It writes into DIRECTORY the source distribution, and from that a wheel without a
compiled program and, if musl-gcc is there, one with the native client for this
machine. The client is linked statically with musl, and not with glibc, whose licence
(LGPL) asks whoever distributes such a program for the source of glibc.

The wheel with the client is tagged as manylinux and musllinux: as the client needs
no library, it runs with any. It uses system calls of Linux 2.6.27 and newer. The tag
manylinux_2_17 stands for systems from 2012 on. A client that turns out to need a
library, or to be linked with glibc, is an error.
"""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile

HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
CLIENT = "lp-serve-client"
#: For each machine, the tags of systems that run its static programs.
TAGS = "manylinux_2_17_{0}.manylinux2014_{0}.musllinux_1_1_{0}"


class DistError(Exception):
    """Something cannot be built; ``str()`` tells why."""


def musl_compiler(directory):
    """The value of CC that links statically with musl; None without musl-gcc.

    musl-gcc makes a program with -static-pie that needs musl's dynamic linker. It is
    a script around a specs file of gcc; so is what this makes, with other words.
    """
    script = shutil.which("musl-gcc")
    if script is None:
        return None
    with open(script, encoding="utf-8") as file:
        found = re.search(r'-specs[ =]"?([^\s"]+)', file.read())
    if found is None:
        raise DistError(f"{script} names no specs file")
    with open(found[1], encoding="utf-8") as file:
        specs = file.read()
    specs = specs.replace("/Scrt1.o", "/rcrt1.o")
    linking = "-static -pie --no-dynamic-linker -z text"
    specs, count = re.subn(r"-dynamic-linker \S+", linking, specs)
    if count != 1 or "/rcrt1.o" not in specs:
        raise DistError(f"{found[1]} is not as expected")
    path = os.path.join(directory, "static-pie.specs")
    with open(path, "w", encoding="utf-8") as file:
        file.write(specs)
    return f"{os.environ.get('REALGCC', 'gcc')} -specs={path} -s"


def check_static(program):
    """Check that the bytes *program* are a static program without glibc.

    :raises DistError: if they are not.
    """
    if not program.startswith(b"\x7fELF"):
        raise DistError("the client was not compiled")
    for fault, text in (
        (b"/ld-musl-", "the client needs a dynamic linker"),
        (b"/ld-linux", "the client needs a dynamic linker"),
        (b"GLIBC_", "the client is linked with glibc"),
    ):
        if fault in program:
            raise DistError(text)
    with tempfile.NamedTemporaryFile() as file:
        file.write(program)
        file.flush()
        words = ["readelf", "--program-headers", "--dynamic", "--wide", file.name]
        shown = subprocess.check_output(words, text=True)
    if "INTERP" in shown or "(NEEDED)" in shown:
        raise DistError("the client needs a library")


def client_of(wheel):
    """The bytes of the client in the file *wheel*."""
    with zipfile.ZipFile(wheel) as opened:
        (name,) = (n for n in opened.namelist() if n.endswith(f"scripts/{CLIENT}"))
        return opened.read(name)


def _build(source, target, *words, **env):
    """Run ``python -m build`` in *source*; the path of what is new in *target*."""
    before = set(os.listdir(target))
    subprocess.run(
        [sys.executable, "-m", "build", "--outdir", target, *words, source],
        env={**os.environ, **env},
        check=True,
    )
    (name,) = set(os.listdir(target)) - before
    return os.path.join(target, name)


def main(target):
    """Build all into the directory *target*, which is emptied."""
    shutil.rmtree(target, ignore_errors=True)
    os.makedirs(target)
    # With no commit's time, that of the release notes.
    stamp = str(int(os.stat(os.path.join(HERE, "NEWS")).st_mtime))
    os.environ.setdefault("SOURCE_DATE_EPOCH", stamp)
    sdist = _build(HERE, target, "--sdist")
    with tempfile.TemporaryDirectory() as directory:
        with tarfile.open(sdist) as opened:
            opened.extractall(directory, filter="data")
        (name,) = os.listdir(directory)
        source = os.path.join(directory, name)
        pure = _build(source, target, "--wheel", LPSERVE_NATIVE="no")
        print(f"dist: {os.path.basename(pure)}")
        shutil.rmtree(os.path.join(source, "build"))
        compiler = musl_compiler(directory)
        if compiler is None:
            print("dist: no wheel with the native client: musl-gcc is not installed")
            return
        wheel = _build(source, target, "--wheel", LPSERVE_NATIVE="", CC=compiler)
    check_static(client_of(wheel))
    tags = TAGS.format(os.uname().machine)
    words = ["tags", "--remove", "--platform-tag", tags, wheel]
    subprocess.run([sys.executable, "-m", "wheel", *words], check=True)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except DistError as error:
        sys.exit(f"dist: {error}")
