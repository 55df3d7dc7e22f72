# SPDX-License-Identifier: GPL-2.0-or-later

"""The sides that are compared, each with a name and a way to connect.

Whatever can be on a server instead of lpserve is one of them where it is
installed: git, Mercurial, and chg, Mercurial's own fork server.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import shlex
import shutil
import signal
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from connections import Connection, begin
from programs import Program
from stage import PLUGIN, USER, BenchmarkError, Service, Stage, wait_until

INET, GIT, HG, CHG = (
    "brz serve --inet",
    "git upload-pack",
    "hg serve --stdio",
    "chg serve --stdio",
)
NATIVE, PYTHON, IN_PROCESS = "native client", "Python client", "in process"


@dataclass(frozen=True)
class Side:
    """One of those that are compared.

    :ivar start: begins a connection.
    :ivar service: the service that has to be at rest before that, if there is one.
    """

    name: str
    start: Callable[[], Connection]
    service: Service | None = None


def in_turn(
    sides: Sequence[Side], repeat: int, warm: int = 2, settle: bool = True
) -> Iterator[tuple[Side, bool]]:
    """Each side as often as the others, and after each other one.

    Yields a side and whether it counts: the first rounds warm the disk's cache.

    :param settle: let the services come to rest in between.
    """
    services = {id(side.service): side.service for side in sides if side.service}
    for number in range(-warm, repeat):
        turn = number % len(sides)
        for side in [*sides[turn:], *sides[:turn]]:
            if settle:
                for service in services.values():
                    service.settle()
            yield side, number >= 0


def in_process(service: Service, door: str, name: str = "") -> Side:
    """This process, through *door*."""
    return Side(name or f"{IN_PROCESS}, {door}", lambda: begin(service, door), service)


# -- clients ------------------------------------------------------------------


def native_client(stage: Stage, plugin: str = PLUGIN) -> str:
    """Build the native client of the checkout *plugin*; the path of the program."""
    number = f"{zlib.crc32(plugin.encode()):08x}"
    target = os.path.join(stage.path, "native", number, "lp-serve-client")
    if os.path.exists(target):
        return target
    os.makedirs(os.path.dirname(target))
    path = os.path.join(plugin, "setup.py")
    spec = importlib.util.spec_from_file_location("lpserve_setup", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.build_client(target)
    return target


def client(stage: Stage, service: Service, kind: str, door: str) -> Side:
    """``lp-serve-client`` under a shell, as sshd runs a forced command.

    :param kind: `NATIVE` or `PYTHON`.
    """
    words = shell(client_words(stage, kind, door, service.plugin))
    start = functools.partial(Program, words, service.environ, errors=stage.errors)
    return Side(f"{kind}, {door}", start, service)


def client_words(stage: Stage, kind: str, door: str, plugin: str = PLUGIN) -> list[str]:
    """What runs the client; nothing else may be measured in its place."""
    if kind == NATIVE:
        program = native_client(stage, plugin)
    else:
        program = os.path.join(plugin, "bin", "lp-serve-client")
    return [program, f"--door={door}", "--no-fallback", USER]


def shell(words: Sequence[str]) -> list[str]:
    """*words* as sshd has them executed."""
    return ["sh", "-c", shlex.join(words)]


# -- what else there is -------------------------------------------------------


def inet(stage: Stage) -> Side:
    """``brz serve --inet`` for every connection: today's way."""
    environ = stage.environ("today", plugin=False)
    words = shell(stage.inet_words())
    return Side(INET, lambda: Program(words, environ, errors=stage.errors))


@contextlib.contextmanager
def others(stage: Stage, chg_under: Sequence[str] = ()) -> Iterator[list[Side]]:
    """What is installed of git, Mercurial and chg, with a repository of its own.

    :param chg_under: words in front of those that start chg's daemon.
    """
    environ = stage.environ("others", plugin=False) | {
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_AUTHOR_NAME": USER,
        "GIT_AUTHOR_EMAIL": f"{USER}@example.com",
        "GIT_COMMITTER_NAME": USER,
        "GIT_COMMITTER_EMAIL": f"{USER}@example.com",
        "HGRCPATH": "",
        "HGUSER": USER,
    }
    made: list[Side] = []

    def run(*words: str) -> None:
        done = subprocess.run(
            words, env=environ, cwd=stage.path, capture_output=True, text=True
        )
        if done.returncode:
            raise BenchmarkError(f"{' '.join(words)}: {done.stderr.strip()}")

    def add(name: str, words: Sequence[str], *how: object) -> None:
        under_shell = shell(words)
        made.append(
            Side(name, lambda: Program(under_shell, environ, *how, stage.errors))
        )

    git, hg, chg = map(shutil.which, ("git", "hg", "chg"))
    if git:
        path = os.path.join(stage.path, "git")
        run(git, "init", "--quiet", path)
        run(git, "-C", path, "commit", "--quiet", "--allow-empty", "--message=1")
        add(GIT, [git, "upload-pack", path], b"", b"0000", _git_answers)
    if hg:
        path = os.path.join(stage.path, "hg")
        run(hg, "init", path)
        how = (b"hello\n", b"", _hg_answers)
        add(HG, [hg, "-R", path, "serve", "--stdio"], *how)
        if chg:
            environ["CHGHG"] = hg
            environ["CHGSOCKNAME"] = os.path.join(stage.path, "chg")
            add(CHG, [chg, "-R", path, "serve", "--stdio"], *how)
            try:
                run(*chg_under, chg, "version", "--quiet")
                yield made
            finally:
                # chg itself would not find a daemon that is still starting.
                mark = f"CHGSOCKNAME={environ['CHGSOCKNAME']}".encode()
                wait_until(lambda: not _terminate(mark), "chg's daemon has ended")
            return
    yield made


def _terminate(mark: bytes) -> bool:
    """Terminate what has *mark* in its environment; whether there was anything."""
    found = False
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError), open(f"/proc/{pid}/environ", "rb") as file:
            if mark in file.read().split(b"\0"):
                found = True
                os.kill(int(pid), signal.SIGTERM)
    return found


def _git_answers(data: bytes) -> bool:
    """Whether *data* has all references (gitprotocol-pack(5))."""
    if not data[:4].isalnum():
        raise BenchmarkError(f"git answers {data!r}")
    return data.endswith(b"0000")


def _hg_answers(data: bytes) -> bool:
    """Whether *data* is the whole answer to ``hello``: a length, and a text."""
    length, newline, text = data.partition(b"\n")
    if not data[:1].isdigit():
        raise BenchmarkError(f"Mercurial answers {data!r}")
    return bool(newline) and len(text) >= int(length)


def versions(stage: Stage) -> dict[str, str]:
    """Of what is compared."""
    environ = stage.environ("version", plugin=False)
    found = {"python": sys.version.split()[0]}
    for name, words in {
        "breezy": [*stage.brz, "version", "--short"],
        "git": [shutil.which("git") or "", "version"],
        "hg": [shutil.which("hg") or "", "version", "--quiet"],
    }.items():
        if words[0]:
            shown = subprocess.check_output(
                words, env=environ, cwd=stage.path, text=True
            )
            found[name] = shown.split()[-1].rstrip(")")
    return found
