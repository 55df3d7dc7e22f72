# Copyright (C) 2026 The lpserve developers
#
# This program is free software; you can redistribute it and/or modify
# it under the terms of the GNU General Public License as published by
# the Free Software Foundation; either version 2 of the License, or
# (at your option) any later version.

"""The zygote: a process that has everything loaded, and forks workers.

It does nothing else: when its channel to the service closes, it ends. When the
service is killed it is killed too, whatever it is doing.
"""

from __future__ import annotations

import os
import signal
import socket
import struct
import sys
import traceback
from typing import Any, NoReturn

from . import channel, rehearsal, reset, system, worker

_pid_and_errno = struct.Struct("ii")


def main(number: int) -> NoReturn:
    """Be a zygote.

    :param number: the descriptor of the channel to the service.
    """
    status = 0
    try:
        with socket.socket(fileno=number) as link:
            os.set_inheritable(number, False)
            try:
                # It does not look at its channel while it rehearses.
                system.die_with_parent()
                if channel.is_closed(link):
                    raise BrokenPipeError
                Zygote(link).run()
            except BrokenPipeError:
                pass  # the service has gone
            except BaseException as error:
                traceback.print_exc()
                status = 1
                channel.send(link, "failed", text=f"{type(error).__name__}: {error}")
    finally:
        sys.stderr.flush()
        os._exit(status)


class Zygote:
    """See the module.

    :param link: the channel to the service.
    """

    def __init__(self, link: socket.socket):
        self._link = link
        message, _ = channel.receive(link)
        if message is None:
            raise BrokenPipeError
        self._start: dict[str, Any] = message
        self._modules = 0
        self._pids = os.pipe()
        os.set_blocking(self._pids[0], False)

    def run(self) -> None:
        """Get ready, then fork until the service closes the channel."""
        self._settle()
        rehearsal.rehearse(self._start)
        # In a worker a collection would write into pages that all of them share.
        system.keep_what_is_loaded()
        self._modules = len(sys.modules)
        channel.send(
            self._link, "ready", version=channel.VERSION, modules=self._modules
        )
        while True:
            message, descriptors = channel.receive(self._link)
            if message is None:
                return
            with socket.socket(fileno=descriptors[0]) as end:
                self._fork(message["serial"], end, message["spare"])

    def _settle(self) -> None:
        """Stop being the command that Breezy started."""
        os.setsid()
        system.set_title("lp-zygote")
        os.dup2(2, 1)
        reset.forget_log()
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        for number in (signal.SIGQUIT, signal.SIGHUP, signal.SIGTERM, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        reset.reset_limits(reset.Context(self._start, -1, {}))

    def _fork(self, serial: int, end: socket.socket, spare: bool) -> None:
        """Fork a worker that is the service's child.

        Through a middle process: when that has ended, the worker is an orphan,
        and the kernel gives it to the service.
        """
        try:
            middle = system.fork(lambda: self._be_middle(end, spare))
            os.waitpid(middle, 0)
            pid, error = _pid_and_errno.unpack(os.read(self._pids[0], 8))
            if error:
                raise OSError(error, os.strerror(error))
        except BlockingIOError:
            self._tell_failure(serial, "the middle process was killed")
        except Exception as failure:
            self._tell_failure(serial, str(failure))
        else:
            channel.send(self._link, "forked", serial=serial, pid=pid)

    def _tell_failure(self, serial: int, text: str) -> None:
        channel.send(self._link, "fork-failed", serial=serial, text=text)

    def _be_middle(self, end: socket.socket, spare: bool) -> int:
        # For the worker, which may have its connection, and signals for it, before
        # its resets, which unblock them.
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGHUP, signal.SIGINT))
        try:
            pid, error = system.fork(lambda: self._be_worker(end, spare)), 0
        except OSError as failure:
            pid, error = 0, failure.errno or 1
        os.write(self._pids[1], _pid_and_errno.pack(pid, error))
        return 0

    def _be_worker(self, end: socket.socket, spare: bool) -> int:
        self._link.close()
        for descriptor in self._pids:
            os.close(descriptor)
        if spare:
            worker.warm_up()
        return worker.main(end, self._start, self._modules)
