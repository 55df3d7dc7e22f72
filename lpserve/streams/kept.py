# SPDX-License-Identifier: GPL-2.0-or-later

"""Answers a request for a stream: from a kept file, behind another maker, or anew.

The encoder of Breezy writes the first chunk of an answer, and with it all that goes
before. What comes then is written here, from a file, whose frames are what the encoder
would write. A stream that has no file is left to the encoder.

All workers make the same bytes for the same key (see `source`). So whoever has sent a
part that another process has made goes on with what it makes itself.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
from collections.abc import Callable, Iterator
from typing import Any

from ..serving.patience import Output
from .asking import Inbox, Service
from .keptfile import FRAME, HEADER, KeptFile, NewFile, frame
from .progress import Progress

#: Seconds between two looks at the file of another maker, the first and the longest.
_SOON, _LATE = 0.002, 0.05


class OtherBytes(Exception):
    """A stream that was begun cannot be continued: the next maker's is another."""


class KeptAnswer:
    """The rest of one answer, after its first chunk.

    :param directory: of the kept streams.
    :param key: of the stream.
    :param output: to the client, with an empty buffer.
    :param inbox: what the service tells this worker.
    :param make: returns the chunks after the first; called at most once.
    :param is_valid: whether the repository is still the one of the key.
    """

    def __init__(
        self,
        directory: str,
        key: str,
        output: Output,
        inbox: Inbox | None,
        make: Callable[[], Iterator[Any]],
        is_valid: Callable[[], bool],
    ):
        self._directory = directory
        self._key = key
        self._output = output
        self._service = Service(inbox, key)
        self._make = make
        self._is_valid = is_valid
        #: How far the answer has been sent: an offset in the file.
        self._sent = HEADER
        #: The file of another maker that this was sent from, if any was.
        self._before: KeptFile | None = None
        #: Whether the service knows that this worker makes nothing any more.
        self._told = False

    def chunks(self) -> Iterator[Any]:
        """Write the answer; yields what is left to the encoder."""
        try:
            if not self._send_kept():
                yield from self._send_unkept()
        finally:
            if self._before is not None:
                self._before.close()

    def _send_kept(self) -> bool:
        """Send the stream if it is kept; whether it is."""
        try:
            file = KeptFile(self._directory, self._key)
        except (OSError, ValueError):
            return False
        try:
            end = file.end
            assert end is not None
            self._output.send_file(file.descriptor, self._sent, end)
        finally:
            file.close()
        self._service.used(end - HEADER, "kept")
        return True

    def _send_unkept(self) -> Iterator[Any]:
        answer = self._service.ask()
        while answer is not None and answer["do"] != "make":
            if answer["do"] == "follow":
                if self._follow(answer["pid"]):
                    return
                answer = self._service.ask(again=True)
            else:
                answer = self._service.wait_for_turn(self._output.fileno())
                if self._sent == HEADER and self._send_kept():
                    self._tell_made(0)  # gives the turn to the next
                    return
                if answer is None and self._output.wait_closed(0):
                    self._tell_made(0)
                    raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
        try:
            file = self._new_file(answer["room"]) if answer else None
            if file is None:
                yield from self._rest(self._make(), HEADER)
            else:
                with contextlib.closing(file):
                    yield from self._make_file(file, answer["keep"])
        finally:
            self._tell_made(0)

    def _tell_made(self, size: int) -> None:
        if not self._told:
            self._told = True
            self._service.made(size)

    # -- behind another maker ----------------------------------------------------

    def _follow(self, pid: int) -> bool:
        """Send what worker *pid* makes, as it comes; False if that stops."""
        try:
            file = KeptFile(self._directory, self._key, pid)
        except (OSError, ValueError):
            # It has got its name a moment ago, or does not exist yet.
            return self._sent == HEADER and self._send_kept()
        try:
            return self._read_behind(file, pid)
        finally:
            if file is not self._before:
                file.close()

    def _read_behind(self, file: KeptFile, pid: int) -> bool:
        progress = Progress(pid)
        pause = _SOON
        while True:
            abandoned = file.is_abandoned  # before the look: it may end meanwhile
            end = file.end
            ready = end or file.whole_frames(self._sent)
            if ready > self._sent:
                if file is not self._before:
                    # It has all that was sent; before, it had not.
                    if self._before is not None:
                        self._before.close()
                    self._before = file
                self._output.send_file(file.descriptor, self._sent, ready)
                self._sent = ready
                progress = Progress(pid)
                pause = _SOON
            elif not end and (abandoned or progress.stands_still()):
                return False
            if end:
                self._service.used(end - HEADER, "followed")
                return True
            if self._output.wait_closed(pause):
                raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
            pause = min(2 * pause, _LATE)

    # -- making it -----------------------------------------------------------------

    def _new_file(self, room: int) -> NewFile | None:
        if room <= 0:
            return None
        try:
            return NewFile(self._directory, self._key, room)
        except OSError:
            return None

    def _make_file(self, file: NewFile, keep: bool) -> Iterator[Any]:
        """Make the stream in *file*, and send it.

        The client is sent what it takes at once, so that a slow one does not hold up
        those who read behind us. If there is no room for a chunk, it and what comes
        after it are left to the encoder, as is an error. Both come after whole frames.
        """
        chunks, rest = self._make(), None
        gone: BaseException | None = None
        failed: Exception | None = None
        size = 0
        try:
            for chunk in chunks:
                try:
                    file.add(self._checked(chunk, file.end))
                except (OSError, TypeError):
                    rest = itertools.chain([chunk], chunks)
                    break
                gone = gone or self._send_some(file)
                if gone is not None and not (keep or file.has_readers):
                    break
            else:
                size = self._complete(file, keep)
        except Exception as error:
            failed = error
        finally:
            file.abandon()
        if rest is None:
            self._tell_made(size)  # the client may read for long
        if gone is not None:
            raise gone
        if self._sent < file.end:
            self._output.send_file(file.descriptor, self._sent, file.end)
            self._sent = file.end
        if failed is not None:
            raise failed
        if rest is not None:
            yield from self._rest(rest, file.end)

    def _send_some(self, file: NewFile) -> BaseException | None:
        """Send what the client takes at once; why that fails, if it does."""
        if self._sent < file.end:
            try:
                output = self._output
                self._sent = output.send_some(file.descriptor, self._sent, file.end)
            except OSError as error:
                return error
        return None

    def _complete(self, file: NewFile, keep: bool) -> int:
        """Complete *file*, and publish it if it is to be kept; its bytes, or 0."""
        with contextlib.suppress(OSError):
            size = file.complete()
            if keep and self._is_valid():
                file.publish()
                return size
        return 0

    def _rest(self, chunks: Iterator[Any], position: int) -> Iterator[Any]:
        """Those of *chunks* that were not sent before.

        :param position: where the first would be in a file.
        """
        for chunk in chunks:
            if isinstance(chunk, bytes):
                self._checked(chunk, position)
                position += FRAME + len(chunk)
                if position <= self._sent:
                    continue
            yield chunk

    def _checked(self, chunk: Any, position: int) -> Any:
        """*chunk*, if it is the one that was sent as the one at *position*.

        :raises OtherBytes: if it is not.
        """
        if self._before is not None and position < self._sent:
            made = frame(chunk) + chunk
            if self._before.read(position, len(made)) != made:
                raise OtherBytes("the repository has been packed meanwhile")
        return chunk
