# SPDX-License-Identifier: GPL-2.0-or-later

"""Clients that ask for streams at the same time, some of which are strange."""

import contextlib
import threading

from breezy import errors

from ...harness import DEADLINE

#: Seconds that a client or a process stands still, at most.
STILL = 0.5


class HungUp(Exception):
    """This client hangs up."""


class Reader:
    """Reads an answer, and does something after so many bytes.

    :param pipe: what is read.
    :param after: how many bytes.
    :param act: what is done then, once.
    """

    def __init__(self, pipe, after, act):
        self._pipe, self._left, self._act = pipe, after, act

    def read(self, count):
        """Read as much."""
        data = self._pipe.read(min(count, max(1, self._left)) if self._act else count)
        self._left -= len(data)
        if self._left <= 0 and self._act is not None:
            act, self._act = self._act, None
            act()
        return data

    def close(self):
        """Close the pipe."""
        self._pipe.close()


class Client(threading.Thread):
    """Asks for one stream.

    :param question: words and body.
    :ivar answer: the bytes of the stream, or the words of an error; None: neither has
        arrived whole.
    :ivar failure: why not.
    :ivar others_killed: whether another worker was killed, or stopped for a while.
    :ivar patience: how many seconds it stalls, unless *others* is set.
    """

    def __init__(self, case, question, user, others):
        super().__init__(daemon=True)
        self.patience = STILL
        self.question = question
        self.answer = self.failure = None
        self.disturbed = ""
        self.others_killed = False
        self._others = others
        self._asker, self._made = case.warm_client(user)
        self.pid = self._made.pid

    def behave(self, how, after):
        """Hang up, stall, or "leave", which is both, after so many bytes."""
        self.disturbed = how
        acts = {"hang up": self._hang_up, "stall": self._stall, "leave": self._leave}
        act = acts[how]
        medium = self._asker._medium
        medium._readable_pipe = Reader(medium._readable_pipe, after, act)

    def _hang_up(self):
        raise HungUp

    def _stall(self):
        self._others.wait(self.patience)

    def _leave(self):
        self._stall()
        self._hang_up()

    def run(self):
        """Ask; hang up."""
        try:
            self.answer = stream_of(self._asker, *self.question)
        except (errors.BzrError, OSError, HungUp, ValueError) as error:
            self.failure = error
        with contextlib.suppress(OSError):
            self._asker.close()
        self.status = self._made.end()

    def finish(self):
        """Wait until it and its worker have ended."""
        self.join(DEADLINE)
        assert not self.is_alive(), f"no answer to {self.question}"


def stream_of(asker, words, body):
    """The bytes of a stream, or the words of an error.

    :raises BzrError: if the connection fails.
    """
    try:
        _, handler = asker._client.call_with_body_bytes_expecting_body(
            words[0], words[1:], body
        )
        return b"".join(handler.read_streamed_body())
    except errors.ErrorFromSmartServer as error:
        return error.error_tuple
    except errors.UnknownSmartMethod:
        return (b"UnknownMethod",)
