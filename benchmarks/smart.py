# SPDX-License-Identifier: GPL-2.0-or-later

"""Servers that are asked smart requests, and what these cost them.

Whatever serves, this process is the client, by Breezy's own client code; what
that costs is not counted. The processor time of a server is what the kernel says
of its process (schedstat), in nanoseconds.
"""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from breezy import errors
from breezy.bzr.smart import client as smart_client
from breezy.bzr.smart import medium
from stage import BenchmarkError, Service, Stage

#: A request: its words and its body, or None.
Request = tuple[tuple[bytes, ...], bytes | None]


@dataclass
class Cost:
    """What some requests have cost: seconds."""

    wall: float
    cpu: float
    answers: list[tuple[Any, bytes | None]]


def cpu_of(pid: int) -> float:
    """Seconds of processor time that the process *pid* has had."""
    with open(f"/proc/{pid}/schedstat") as file:
        return int(file.read().split()[0]) / 1e9


def private_of(pid: int) -> tuple[float, float]:
    """MiB that a process has for itself, and its share of all (PSS)."""
    found = {"Private_Dirty:": 0.0, "Private_Clean:": 0.0, "Pss:": 0.0}
    with open(f"/proc/{pid}/smaps_rollup") as file:
        for line in file:
            name, *rest = line.split()
            if name in found:
                found[name] += int(rest[0]) / 1024
    return found["Private_Dirty:"] + found["Private_Clean:"], found["Pss:"]


class Server:
    """One connection to a server, whose process is *pid*."""

    pid: int

    def __init__(self, reader: int, writer: int):
        pipes = os.fdopen(reader, "rb"), os.fdopen(writer, "wb")
        self._medium = medium.SmartSimplePipesClientMedium(*pipes, "bzr+ssh://host/")
        self._client = smart_client._SmartClient(self._medium)

    def ask(self, request: Request) -> tuple[Any, bytes | None]:
        """The answer to *request* and its body."""
        words, body = request
        try:
            if body is None:
                answer = self._client.call_expecting_body(*words)
            else:
                answer = self._client.call_with_body_bytes_expecting_body(
                    words[0], words[1:], body
                )
        except errors.ErrorFromSmartServer as error:
            return error.error_tuple, None
        found, handler = answer
        return found, handler.read_body_bytes()

    def cost(self, requests: Sequence[Request], whole: bool = False) -> Cost:
        """Ask all *requests*; what that costs.

        :param whole: with all that the process has done so far.
        """
        cpu = 0.0 if whole else cpu_of(self.pid)
        began = time.perf_counter()
        answers = [self.ask(each) for each in requests]
        wall = time.perf_counter() - began
        return Cost(wall, cpu_of(self.pid) - cpu, answers)

    def close(self) -> None:
        """End the connection, and wait until the server has ended."""
        self._medium._readable_pipe.close()
        self._medium._writeable_pipe.close()


class Process(Server):
    """``brz serve --inet``: a new process.

    :param environ: what its environment has besides.
    """

    def __init__(self, stage: Stage, environ: Mapping[str, str]):
        self.began = time.perf_counter()
        with open(stage.errors, "ab") as errors:
            self._process = subprocess.Popen(
                stage.inet_words(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env={**stage.environ("today", plugin=False), **environ},
            )
        self.pid = self._process.pid
        assert self._process.stdin is not None and self._process.stdout is not None
        super().__init__(
            os.dup(self._process.stdout.fileno()), os.dup(self._process.stdin.fileno())
        )
        self._process.stdin.close()
        self._process.stdout.close()

    def cost(self, requests: Sequence[Request], whole: bool = True) -> Cost:
        """With its start, whatever *whole* says: that is its cost."""
        cost = super().cost(requests, whole=True)
        cost.wall = time.perf_counter() - self.began
        return cost

    def close(self) -> None:
        super().close()
        if self._process.wait():
            raise BenchmarkError("brz serve --inet failed")


class Worker(Server):
    """A worker of *service*."""

    def __init__(self, service: Service):
        link = socket.socket(socket.AF_UNIX)
        ends = [os.pipe() for _ in range(3)]
        (their_in, our_out), (our_in, their_out), (our_err, their_err) = ends
        link.connect(service.directory + "/socket")
        socket.send_fds(link, [b"spawn alice\n"], [their_in, their_out, their_err])
        for each in (their_in, their_out, their_err):
            os.close(each)
        self._link, self._error = link.makefile("rb"), our_err
        link.close()
        said = self._link.readline().split()
        if said[:1] != [b"ok"]:
            raise BenchmarkError(f"the service says {said}")
        self.pid = int(said[1])
        super().__init__(our_in, our_out)

    def close(self) -> None:
        super().close()
        said = self._link.readline()
        self._link.close()
        os.close(self._error)
        if said != b"exit 0\n":
            raise BenchmarkError(f"a worker ended with {said!r}")
