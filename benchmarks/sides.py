# SPDX-License-Identifier: GPL-2.0-or-later

"""The sides that are compared, each with a name and a way to connect."""

from __future__ import annotations

import functools
import importlib.util
import os
import shlex
import shutil
import subprocess
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from connections import Connection, Greeting, Program, SocketConnection, say_hello
from runner import in_turn
from stage import PLUGIN, USER, Service, Stage

INET, GIT = "brz serve --inet", "git upload-pack"
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


def first_bytes(sides: Sequence[Side], repeat: int) -> dict[str, list[float]]:
    """Milliseconds to the first byte, in turns; the services are at rest before."""
    services = {id(side.service): side.service for side in sides if side.service}
    times: dict[str, list[float]] = {side.name: [] for side in sides}
    for side, counts in in_turn(sides, repeat):
        for service in services.values():
            service.settle()
        took = say_hello(side.start).took
        if counts:
            times[side.name].append(took)
    return times


def in_process(service: Service, name: str = IN_PROCESS) -> Side:
    """This process, through the socket."""
    return Side(name, functools.partial(SocketConnection, service), service)


def program(
    stage: Stage,
    name: str,
    words: Sequence[str],
    service: Service | None = None,
    greeting: Greeting | None = None,
    farewell: bytes = b"",
) -> Side:
    """A program under a shell, as sshd has them executed.

    :param service: the one whose client it is.
    """
    environ = service.environ if service else stage.environ("today")
    under = ["sh", "-c", shlex.join(words)]
    how = (under, environ, stage.errors, greeting, farewell)
    return Side(name, functools.partial(Program, *how), service)


def inet(stage: Stage) -> Side:
    """``brz serve --inet`` for every connection: today's way."""
    return program(stage, INET, stage.inet_words())


def client(stage: Stage, service: Service, kind: str, door: str) -> Side:
    """``lp-serve-client``.

    :param kind: `NATIVE` or `PYTHON`.
    """
    words = client_words(stage, kind, door, service.plugin)
    return program(stage, f"{kind}, {door}", words, service=service)


def client_words(stage: Stage, kind: str, door: str, plugin: str = PLUGIN) -> list[str]:
    """What runs the client; nothing else may be measured in its place."""
    if kind == NATIVE:
        program = native_client(stage, plugin)
    else:
        program = os.path.join(plugin, "bin", "lp-serve-client")
    return [program, f"--door={door}", "--no-fallback", USER]


def native_client(stage: Stage, plugin: str) -> str:
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


def git(stage: Stage) -> list[Side]:
    """``git upload-pack`` of a repository of its own, where git is installed.

    It says which references it has without being asked.
    """
    found = shutil.which("git")
    if found is None:
        return []
    path = os.path.join(stage.path, "git")
    commit = ["-c", f"user.name={USER}", "-c", f"user.email={USER}@example.com"]
    commit += ["commit", "--quiet", "--allow-empty", "--message=1"]
    for words in (["init", "--quiet"], commit):
        os.makedirs(path, exist_ok=True)
        environ = stage.environ("today")
        subprocess.run([found, *words], env=environ, cwd=path, check=True)
    greeting = Greeting(b"", b"", b"0000")  # the end of gitprotocol-pack(5)'s list
    words = [found, "upload-pack", path]
    return [program(stage, GIT, words, greeting=greeting, farewell=b"0000")]
