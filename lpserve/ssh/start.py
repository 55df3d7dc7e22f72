# SPDX-License-Identifier: GPL-2.0-or-later

"""Starts the SSH server, or one of its processes: reads settings, runs the reactor."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable
from typing import Any

from breezy import bedding
from twisted.logger import (
    FilteringLogObserver,
    LogLevel,
    LogLevelFilterPredicate,
    STDLibLogObserver,
    globalLogBeginner,
)

from .. import channel, system
from ..addresses import parse_address
from ..advice import odd_options
from ..errors import LpserveError
from ..handover import SuccessorSpec
from ..location import runtime_directory
from ..logs import LogFile, log_to_stderr
from ..settings import Settings, read_settings
from .front import Front
from .keydirectory import KeyDirectory
from .keys import host_key
from .predecessor import Takeover
from .process import Process
from .processes import Processes
from .server import Server
from .upgrades import Origin

log = logging.getLogger("lpserve")


def run_server(
    chosen: dict[str, Any],
    runtime_dir: str | None,
    brz: list[str],
    version: str,
    successor: int | None = None,
) -> None:
    """Run the server until a signal stops it.

    :param chosen: settings from the command line, None for those not given.
    :param runtime_dir: the value of ``--runtime-dir``, or None.
    :param brz: the command that runs Breezy, a list of words.
    :param successor: the descriptor of a channel to the server that it succeeds.
    :raises LpserveError: if the server cannot be started.
    """
    takeover = None if successor is None else Takeover(successor)
    try:
        _run(chosen, runtime_dir, brz, version, takeover)
    except LpserveError as error:
        if takeover is not None:
            takeover.fail(str(error))
        raise


def _run(
    chosen: dict[str, Any],
    runtime_dir: str | None,
    brz: list[str],
    version: str,
    takeover: Takeover | None,
) -> None:
    from twisted.internet import reactor

    read = _Reader(chosen, odd_options)
    settings = read_settings(**chosen)
    beside = os.path.join(bedding.config_dir(), "lpserve")
    paths = (
        settings.authorized_keys or os.path.join(beside, "authorized_keys"),
        settings.host_key or os.path.join(beside, "ssh_host_ed25519_key"),
    )
    keys_path, key_file = (os.path.abspath(os.path.expanduser(p)) for p in paths)
    directory = runtime_directory(runtime_dir, settings.runtime_dir)
    listen = parse_address(settings.listen)
    keys = KeyDirectory(keys_path, settings.shared_account)
    keys.check()
    key = host_key(key_file)
    spec = _successor(chosen, runtime_dir, brz)
    origin = Origin(version, spec, listen, takeover)
    front = Front(reactor, read, read.reopen, settings, origin, directory)
    front.open()
    backend: Server | Processes
    if settings.ssh_processes == 1:
        backend = Server(reactor, settings, brz, directory, key, keys)
    else:
        system.check_platform()
        start = {
            "parent": os.getpid(),
            "chosen": chosen,
            "brz": brz,
            "runtime_dir": directory,
            "key": key.toString("OPENSSH").decode("ascii"),
            "keys": keys_path,
            "shared_account": settings.shared_account,
        }
        argv = [*brz, "lp-serve-ssh", "--process"]
        backend = Processes(reactor, settings.ssh_processes, argv, start)
    backend.owner = front
    front.run(backend)


def _successor(
    chosen: dict[str, Any], runtime_dir: str | None, brz: list[str]
) -> SuccessorSpec:
    """How to start another one like this."""
    words = [*brz, "lp-serve-ssh"]
    for name, value in {**chosen, "runtime_dir": runtime_dir}.items():
        if value is not None:
            words.append(f"--{name.replace('_', '-')}={value}")
    environ = {k: v for k, v in os.environ.items() if k != "WATCHDOG_PID"}
    return SuccessorSpec(tuple(words), environ)


def run_process(number: int) -> None:
    """Be one of the processes of a server, until that ends.

    :param number: the descriptor of the channel.
    """
    from twisted.internet import reactor

    end = channel.end_of(number)
    os.set_inheritable(number, False)
    start, _ = channel.receive(end)
    system.die_with_parent()
    if start is None or os.getppid() != start["parent"]:
        return  # the front has ended
    Process(reactor, end, start, _Reader(start["chosen"], list)).run()


class _Reader:
    """Gets the process ready; reads the settings, and opens the log anew.

    :param chosen: settings from the command line.
    :param warnings: what to log when they have been read.
    """

    def __init__(self, chosen: dict[str, Any], warnings: Callable[[], list[str]]):
        # Our parent may have blocked signals.
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        self._chosen, self._warnings = chosen, warnings
        self._log_file = LogFile(None)
        _log()
        system.raise_descriptor_limit()

    def reopen(self) -> None:
        """Open the log anew."""
        self._log_file.reopen()

    def __call__(self) -> Settings:
        self.reopen()
        settings = read_settings(**self._chosen)
        for line in self._warnings():
            log.warning("%s", line)
        return settings


def _log() -> None:
    """Log to standard error: our own records, and warnings of Twisted."""
    log_to_stderr()
    observer = STDLibLogObserver("lpserve")
    levels = LogLevelFilterPredicate(defaultLogLevel=LogLevel.warn)
    levels.setLogLevelForNamespace("lpserve", LogLevel.info)
    globalLogBeginner.beginLoggingTo(
        [FilteringLogObserver(observer, [levels])],
        redirectStandardIO=False,
        discardBuffer=True,
    )
