# SPDX-License-Identifier: GPL-2.0-or-later

"""Starts the SSH server: reads the settings and runs the reactor."""

from __future__ import annotations

import logging
import os
import signal
from typing import Any

from breezy import bedding
from twisted.logger import (
    FilteringLogObserver,
    LogLevel,
    LogLevelFilterPredicate,
    STDLibLogObserver,
    globalLogBeginner,
)

from .. import system
from ..addresses import parse_address
from ..advice import odd_options
from ..location import runtime_directory
from ..logs import LogFile, log_to_stderr
from ..settings import Settings, read_settings
from .keydirectory import KeyDirectory
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

    # Our parent may have blocked signals.
    signal.pthread_sigmask(signal.SIG_SETMASK, ())

    log_file = LogFile(None)

    def read() -> Settings:
        log_file.reopen()
        settings = read_settings(**chosen)
        for line in odd_options():
            log.warning("%s", line)
        return settings

    _log()
    system.raise_descriptor_limit()
    settings = read_settings(**chosen)
    beside = os.path.join(bedding.config_dir(), "lpserve")
    keys = settings.authorized_keys or os.path.join(beside, "authorized_keys")
    key_file = settings.host_key or os.path.join(beside, "ssh_host_ed25519_key")
    directory = runtime_directory(runtime_dir, settings.runtime_dir)
    Server(reactor, read, brz, directory).run(
        parse_address(settings.listen),
        os.path.abspath(os.path.expanduser(key_file)),
        KeyDirectory(
            os.path.abspath(os.path.expanduser(keys)), settings.shared_account
        ),
    )


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
