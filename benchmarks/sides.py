# SPDX-License-Identifier: GPL-2.0-or-later

"""The sides that benchmarks compare: ways to connect to a smart server."""

from __future__ import annotations

import functools
import importlib.util
import os
import shlex
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from connections import Connection, Greeting, Program, SocketConnection, say_hello
from runner import in_rounds
from stage import PLUGIN, USER, Service, Stage

INET, GIT = "brz serve --inet", "git upload-pack"
NATIVE, PYTHON, IN_PROCESS = "native client", "Python client", "in process"


@dataclass(frozen=True)
class Side:
    """One way to connect.

    :ivar start: begins a connection.
    :ivar service: the service that is connected to, if it is one.
    """

    name: str
    start: Callable[[], Connection]
    service: Service | None = None


def first_bytes(sides: Sequence[Side], repeat: int) -> dict[str, list[float]]:
    """Milliseconds to the first byte, in rounds; all services are at rest before."""
    services = {id(side.service): side.service for side in sides if side.service}

    def connect(side: Side) -> float:
        for service in services.values():
            service.settle()
        return say_hello(side.start).took

    ways = {side.name: functools.partial(connect, side) for side in sides}
    return in_rounds(ways, repeat)


def in_process(service: Service, name: str = IN_PROCESS) -> Side:
    """This process asks at the socket itself."""
    return Side(name, functools.partial(SocketConnection, service), service)


def program(
    stage: Stage,
    name: str,
    words: Sequence[str],
    service: Service | None = None,
    greeting: Greeting | None = None,
    farewell: bytes = b"",
) -> Side:
    """A program that a shell starts, as with sshd; the client of *service*, if any."""
    environ = service.environ if service else stage.environ("today")
    under = ["sh", "-c", shlex.join(words)]
    how = (under, environ, stage.errors, greeting, farewell)
    return Side(name, functools.partial(Program, *how), service)


def inet(stage: Stage) -> Side:
    """``brz serve --inet`` for every connection, as without lpserve."""
    return program(stage, INET, stage.inet_words())


def client(stage: Stage, service: Service, kind: str, door: str) -> Side:
    """``lp-serve-client``; *kind* is `NATIVE` or `PYTHON`."""
    words = client_words(stage, kind, door, service.plugin)
    return program(stage, f"{kind}, {door}", words, service=service)


def client_words(stage: Stage, kind: str, door: str, plugin: str = PLUGIN) -> list[str]:
    """The command of the client, which must not fall back to another way."""
    if kind == NATIVE:
        program = native_client(stage, plugin)
    else:
        program = os.path.join(plugin, "bin", "lp-serve-client")
    return [program, f"--door={door}", "--no-fallback", USER]


def native_client(stage: Stage, plugin: str) -> str:
    """Build the native client of the checkout *plugin*; the path of the program."""
    target = os.path.join(stage.path, "native", plugin.strip("/"), "lp-serve-client")
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
    """``git upload-pack`` of an own repository, if git is installed.

    It begins with a list of its references, without a request.
    """
    found = shutil.which("git")
    if found is None:
        return []
    path = os.path.join(stage.path, "git")
    commit = ["-c", f"user.name={USER}", "-c", f"user.email={USER}@example.com"]
    commit += ["commit", "--quiet", "--allow-empty", "--message=1"]
    for words in (["init", "--quiet", path], ["-C", path, *commit]):
        subprocess.run([found, *words], env=stage.environ("today"), check=True)
    greeting = Greeting(b"", b"", b"0000")  # the end of gitprotocol-pack(5)'s list
    words = [found, "upload-pack", path]
    return [program(stage, GIT, words, greeting=greeting, farewell=b"0000")]
