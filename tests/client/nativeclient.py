# SPDX-License-Identifier: GPL-2.0-or-later

"""The native lp-serve-client, built as setup.py builds it, once for all tests.

What is built stays in a directory of ours under the system's temporary one,
under the hash of what it was built from.
"""

import contextlib
import fcntl
import functools
import glob
import hashlib
import os
import shutil
import subprocess
import tempfile
import time

from breezy.tests import features

from ...lpserve.location import directory_fault
from ..harness import PLUGIN
from ..scripts import load_script

_DAY = 24 * 60 * 60

_STOPPING = """\
#define _GNU_SOURCE
#include <signal.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

int shutdown(int number, int how)
{
    raise(SIGSTOP);
    return (int)syscall(SYS_shutdown, number, how);
}
"""


@functools.cache
def load_setup():
    """The module setup.py, which does nothing when it is imported."""
    return load_script("lpserve_setup", os.path.join(PLUGIN, "setup.py"))


class _CompilerFeature(features.Feature):
    """A C compiler, and what there is to compile, which is not installed."""

    def _probe(self):
        if not os.path.exists(os.path.join(PLUGIN, "native")):
            return False
        try:
            load_setup().find_compiler()
        except load_setup().BuildError:
            return False
        return True

    def feature_name(self):
        return "a C compiler"


class _SanitizerFeature(features.Feature):
    """The libraries that go with a compiler's sanitizers."""

    def _probe(self):
        try:
            sanitized_client()
        except load_setup().BuildError:
            return False
        return True

    def feature_name(self):
        return "AddressSanitizer"


compiler = _CompilerFeature()
sanitizers = _SanitizerFeature()
valgrind = features.ExecutableFeature("valgrind")
readelf = features.ExecutableFeature("readelf")


def native_client(*flags, static=True):
    """The path of the native client, compiled with *flags* besides our own."""

    def build(path):
        load_setup().build_client(path, *flags, static=static)

    return _built(build, *flags, str(static))


def fuzzer(coverage=False):
    """The path of a program that feeds the parsers of the native client with rubbish.

    :param coverage: whether it is to be libFuzzer's; then None where clang has none.
    """
    checks = ["-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    words = load_setup().find_compiler()
    names = ["fuzz.c", "driver.c"]
    if coverage:
        words, names = ["clang"], ["fuzz.c"]
        checks.append("-fsanitize=fuzzer")
    native = os.path.join(PLUGIN, "native")
    # All of the client but its main.
    sources = [p for p in glob.glob(f"{native}/*.c") if not p.endswith("/client.c")]
    sources += [os.path.join(PLUGIN, "tests", "native", name) for name in names]
    needed = [*load_setup()._NEEDED, f"-I{native}", *checks]

    def build(path):
        subprocess.run([*words, *needed, "-o", path, *sources], check=True)

    try:
        return _built(build, *words, *needed, *names)
    except (OSError, subprocess.CalledProcessError):
        if coverage:
            return None
        raise


def _built(build, *key):
    """The path of what *build* makes, once for *key* and the sources."""
    directory = os.path.join(tempfile.gettempdir(), f"lpserve-native-{os.getuid()}")
    with contextlib.suppress(FileExistsError):
        os.mkdir(directory, 0o700)
    fault = directory_fault(directory)
    if fault is not None:
        raise AssertionError(fault)
    path = os.path.join(directory, _hash(*key), "lp-serve-client")
    with open(os.path.join(directory, "lock"), "w") as lock:
        # Tests run in several processes.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not os.path.exists(path):
            _forget_old(directory)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            build(path + ".new")
            os.rename(path + ".new", path)
    return path


def native_library():
    """The path of a library with the functions of the native client."""
    # Its own functions, whatever the program that loads it has by these names.
    flags = ("-fPIC", "-no-pie", "-shared", "-Wl,-Bsymbolic")
    return native_client(*flags, static=False)


def stopping_shutdown():
    """The path of a library with which a program stops before shutdown(2)."""
    path = os.path.join(os.path.dirname(native_library()), "stopping.so")
    if not os.path.exists(path):
        source = f"{path}.{os.getpid()}.c"
        with open(source, "w") as file:
            file.write(_STOPPING)
        new = f"{path}.{os.getpid()}"
        words = [*load_setup().find_compiler(), "-fPIC", "-shared", "-o", new, source]
        subprocess.run(words, check=True)
        os.unlink(source)
        os.rename(new, path)
    return path


def sanitized_client():
    """The same with checks of all that it does to memory."""
    checks = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    # The sanitizer looks into the functions that this would replace.
    return native_client("-g", "-U_FORTIFY_SOURCE", *checks, static=False)


def _hash(*words):
    found = hashlib.sha256("\0".join([os.environ.get("CC", ""), *words]).encode())
    sources = glob.glob(os.path.join(PLUGIN, "native", "*"))
    sources += glob.glob(os.path.join(PLUGIN, "tests", "native", "*"))
    for path in [*sorted(sources), os.path.join(PLUGIN, "setup.py")]:
        with open(path, "rb") as file:
            found.update(file.read())
    return found.hexdigest()[:24]


def _forget_old(directory):
    """Remove what earlier runs left."""
    for path in glob.glob(os.path.join(directory, "*", "lp-serve-client")):
        if time.time() - os.stat(path).st_mtime > _DAY:
            shutil.rmtree(os.path.dirname(path))
