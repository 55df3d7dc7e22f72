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
from ..location import runtime_directory
from ..logs import LogFile, log_to_stderr
from ..settings import Settings, read_settings
from .front import Front
from .keydirectory import KeyDirectory
from .keys import host_key
from .process import Process
from .processes import Processes
from .server import Server

log = logging.getLogger("lpserve")


def run_server(chosen: dict[str, Any], runtime_dir: str | None, brz: list[str]) -> None:
    """Run the server until a signal stops it.

    :param chosen: settings from the command line, None for those not given.
    :param runtime_dir: the value of ``--runtime-dir``, or None.
    :param brz: the command that runs Breezy, a list of words.
    :raises ConfigurationError: if the server cannot be started.
    """
    from twisted.internet import reactor

    read = _reader(chosen, odd_options)
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
    front = Front(reactor, read, settings, listen, directory)
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
    Process(reactor, end, start, _reader(start["chosen"], list)).run()


def _reader(
    chosen: dict[str, Any], warnings: Callable[[], list[str]]
) -> Callable[[], Settings]:
    """Get the process ready; what reads the settings, and opens the log anew.

    :param warnings: what to log then.
    """
    # Our parent may have blocked signals.
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    log_file = LogFile(None)
    _log()
    system.raise_descriptor_limit()

    def read() -> Settings:
        log_file.reopen()
        settings = read_settings(**chosen)
        for line in warnings():
            log.warning("%s", line)
        return settings

    return read


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
