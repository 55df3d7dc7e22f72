# SPDX-License-Identifier: GPL-2.0-or-later

"""The main program of a zygote: gets ready, then forks workers and loaders on request.

It exits when its channel to the service closes. If the service is killed, the kernel
kills the zygote as well.
"""

from __future__ import annotations

import contextlib
import functools
import mmap
import os
import signal
import socket
import sys
import traceback
from typing import Any, NoReturn

import breezy

from .. import brzlog, channel, scoreboard, system
from ..accessfile import open_access_file
from ..errors import text_of
from ..sandbox import confine
from ..serving import adaptation, medium
from ..serving.knowncode import UnexpectedBreezy
from ..streams import wrapping as streams
from ..warm import loader
from ..warm import wrapping as warm
from ..warm.memory import cache
from . import rehearsal, reset, worker

_FOR_WORKERS = (signal.SIGHUP, signal.SIGINT)


def main(number: int) -> NoReturn:
    """Run a zygote.

    :param number: the descriptor of the channel to the service.
    """
    status = 0
    try:
        with socket.socket(fileno=number) as link:
            os.set_inheritable(number, False)
            try:
                # It does not read its channel during the rehearsal.
                system.die_with_parent()
                if channel.is_closed(link):
                    raise BrokenPipeError
                Zygote(link).run()
            except (BrokenPipeError, ConnectionResetError):
                pass  # the service has ended
            except BaseException as error:
                traceback.print_exc()
                status = 1
                channel.send(link, "failed", text=f"{type(error).__name__}: {error}")
    finally:
        sys.stderr.flush()
        os._exit(status)


class Zygote:
    """Gets ready, then forks on request.

    :param link: the channel to the service.
    """

    def __init__(self, link: socket.socket):
        self._link = link
        message, descriptors = channel.receive(link)
        if message is None:
            raise BrokenPipeError
        self._start: dict[str, Any] = message
        # Not mapped before the rehearsal, and by those alone who are to write it.
        self._board_file = descriptors
        self._board: mmap.mmap | None = None
        self._slots: dict[int, scoreboard.Slot] = {}
        self._no_slot = scoreboard.unread()
        self._ready = worker.ZygoteState()
        self._ready.access = open_access_file(message.get("settings", {}))
        self._modules = 0
        self._cold = ""
        self._warnings: list[str] = []

    def run(self) -> None:
        """Get ready, then fork until the service closes the channel."""
        if "settings" not in self._start:
            # From an older service, which checks the version.
            channel.send(self._link, "ready", version=channel.VERSION)
            return
        self._detach()
        unrehearsed = rehearsal.rehearse(self._start)
        adaptation.adapt_for_ever()
        with contextlib.suppress(Exception):
            for _ in range(worker.WARM_UPS):
                worker.warm_up(self._ready)
        self._cold = _ask_memory_first()
        if self._start["settings"]["stream_order"] != "breezy":
            self._stream_blocks()
        self._map_board()
        # After the rehearsal and the imports, which write files.
        self._ready.sandbox = confine.enter(
            self._start["settings"], self._start["runtime_dir"]
        )
        self._clean(self._link.fileno(), *self._ready.sandbox.descriptors)
        # A collection in a worker would write to pages that all workers share.
        system.keep_what_is_loaded()
        self._modules = len(sys.modules)
        channel.send(
            self._link,
            "ready",
            version=channel.VERSION,
            breezy=breezy.__version__,
            modules=self._modules,
            cold=self._cold,
            unrehearsed=unrehearsed,
            sandbox=self._ready.sandbox.report(),
            warnings=self._warnings + self._ready.sandbox.warnings,
        )
        while True:
            message, descriptors = channel.receive(self._link)
            if message is None:
                return
            if message["kind"] == "warm":
                cache.take(message, descriptors)
                continue
            if message["kind"] == "access":
                self._ready.take_access(message, descriptors)
                continue
            if message["kind"] == "ping":
                channel.send(self._link, "pong")
                continue
            self._fork(message, list(map(channel.end_of, descriptors)))

    def _detach(self) -> None:
        """Stop being the command that Breezy started."""
        os.setsid()
        system.set_title("lp-zygote")
        os.dup2(2, 1)
        brzlog.forget_log()
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        for number in (signal.SIGQUIT, signal.SIGHUP, signal.SIGTERM, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        reset.reset_limits(reset.Context(self._start))

    def _stream_blocks(self) -> None:
        """Have workers send each block of a repository once."""
        try:
            streams.install(self._start["settings"])
        except UnexpectedBreezy as error:
            self._warnings.append(f"clients get revisions in Breezy's order: {error}")

    def _map_board(self) -> None:
        with contextlib.suppress(OSError):  # without it workers serve all the same
            for descriptor in self._board_file[:1]:
                board = mmap.mmap(descriptor, 0)
                board.madvise(mmap.MADV_DONTFORK)  # but for one slot: see _lend_slot
                self._board = board
        for descriptor in self._board_file:
            os.close(descriptor)
        self._board_file = []

    def _clean(self, *kept: int) -> None:
        """Reset what is the same for all workers, once for all of them."""
        context = reset.Context(self._start, kept)
        for step in reset.IN_ZYGOTE:
            step(context)

    def _fork(self, message: dict[str, Any], ends: list[socket.socket]) -> None:
        """Fork workers or loaders, which become children of the service."""
        if message["kind"] == "fork":
            self._ready.prepare(self._start["settings"])
        # A worker may get a connection, and signals from its client, before it is
        # ready for them. `reset.reset_mask` unblocks them.
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, _FOR_WORKERS)
        slots = message.get("slots") or [-1] * len(ends)
        for number, serial in enumerate(message["serials"]):
            run = functools.partial(self._be_child, ends[number], ends, message)
            lent = self._lend_slot(slots[number], serial)
            try:
                pid = system.fork_sibling(run)
            except Exception as error:
                channel.send(
                    self._link, "fork-failed", serial=serial, text=text_of(error)
                )
            else:
                channel.send(self._link, "forked", serial=serial, pid=pid)
            if lent and self._board is not None:
                start = slots[number] * scoreboard.SIZE
                self._board.madvise(mmap.MADV_DONTFORK, start, scoreboard.SIZE)
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        for end in ends:
            end.close()
        if message["kind"] == "fork" and message["spare"]:
            self._ready.unchecked = False  # it does
        if why := self._ready.sandbox.outdated():
            channel.send(self._link, "outdated", text=why)

    def _be_child(
        self, end: socket.socket, ends: list[socket.socket], message: dict[str, Any]
    ) -> int:
        self._link.close()
        for each in ends:
            if each is not end:
                each.close()
        self._ready.sandbox.isolate()
        if message["kind"] == "load":
            network = self._start["settings"]["warm_network"]
            return loader.main(end, message["path"], message["room"], network)
        return self._be_worker(end, message["spare"])

    def _lend_slot(self, slot: int, serial: int) -> bool:
        """Let the child that is forked next have its slot of the scoreboard.

        It has nothing of the others, and a loader nothing at all. What is done here
        is little: each page that it changes is one that the zygote copies.
        """
        if self._board is not None and 0 <= slot < scoreboard.SLOTS:
            start = slot * scoreboard.SIZE
            try:
                self._board.madvise(mmap.MADV_DOFORK, start, scoreboard.SIZE)
            except OSError:
                pass  # a worker serves without one, too
            else:
                ours = self._slots.get(slot)
                if ours is None:
                    view = memoryview(self._board)[start : start + scoreboard.SIZE]
                    ours = self._slots[slot] = scoreboard.Slot(view)
                ours.serial = serial
                scoreboard.use(ours)
                return True
        scoreboard.use(self._no_slot)
        return False

    def _be_worker(self, end: socket.socket, spare: bool) -> int:
        return worker.main(end, self._start, self._ready, self._modules, spare)


def _ask_memory_first() -> str:
    """Have Breezy ask `warm.memory.cache`; "", or why that fails."""
    try:
        warm.install()
        medium.PipeMedium.idle = staticmethod(cache.idle)
    except Exception as error:
        return str(error)
    return ""
