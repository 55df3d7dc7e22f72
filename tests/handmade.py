# SPDX-License-Identifier: GPL-2.0-or-later

"""Connections that are made by hand, step by step, without a client."""

from __future__ import annotations

import os
import time

from ..lpserve.client import conversation, socketconversation
from .waiting import DEADLINE, read_line

#: What the smart server answers to "hello".
HELLO = b"ok\x012\n"


class Connection:
    """A connection made by hand: the three FIFOs and the answers.

    :ivar pid: the worker's.
    :ivar stdin, stdout, stderr: our descriptors; -1 once closed.
    """

    talk = conversation.Conversation

    def __init__(self, directory: str, user: str, env: dict[str, str]):
        words = ["spawn", user, *(f"env.{k}={v}" for k, v in env.items())]
        self.stdin = self.stdout = self.stderr = -1
        self.paths: list[str] = []
        self.answer: list[str] = []
        self.conversation = self.talk(directory)
        self.ask(words, time.monotonic() + DEADLINE)

    def ask(self, words: list[str], deadline: float) -> None:
        """Make the request."""
        self.conversation.send(words, deadline)

    def wait(self) -> list[str]:
        """Wait for the first answer; its words."""
        self.answer = self.conversation.wait_answer(time.monotonic() + DEADLINE)
        if self.answer[0] == "ok":
            self.pid = int(self.answer[1])
            self.paths = self.answer[2:]
        else:
            self.close()
            self.conversation.close()
        return self.answer

    def open(self) -> Connection:
        """Open the FIFOs in the order of the protocol."""
        self.stdin = os.open(self.paths[0], os.O_WRONLY)
        self.stdout = os.open(self.paths[1], os.O_RDONLY)
        self.stderr = os.open(self.paths[2], os.O_RDONLY)
        return self

    def hello(self) -> bytes:
        """Ask the smart server for its version; its answer."""
        os.write(self.stdin, b"hello\n")
        return read_line(self.stdout)

    def close(self) -> None:
        """Close our ends of the FIFOs."""
        for name in ("stdin", "stdout", "stderr"):
            if getattr(self, name) >= 0:
                os.close(getattr(self, name))
                setattr(self, name, -1)

    def end(self, deadline: float = DEADLINE) -> list[str]:
        """The words of the answer that says how the worker ended."""
        try:
            return self.conversation.wait_answer(time.monotonic() + deadline)
        finally:
            self.conversation.close()


class SocketConnection(Connection):
    """The same through the socket: the worker has the far ends of three pipes."""

    talk = socketconversation.SocketConversation

    def ask(self, words: list[str], deadline: float) -> None:
        """Make the pipes and the request."""
        stdin, self.stdin = os.pipe()
        self.stdout, stdout = os.pipe()
        self.stderr, stderr = os.pipe()
        self.conversation.send(words, deadline, (stdin, stdout, stderr))
        for each in (stdin, stdout, stderr):
            os.close(each)

    def open(self) -> Connection:
        """They are open."""
        return self
