# Copyright (C) 2026 The lpserve developers
#
# This program is free software; you can redistribute it and/or modify
# it under the terms of the GNU General Public License as published by
# the Free Software Foundation; either version 2 of the License, or
# (at your option) any later version.

"""Starts the service: from a command line to a running loop."""

from __future__ import annotations

import contextlib
import logging
import os
import resource
import select
import stat
from collections.abc import Callable
from typing import Any

from breezy import bedding

from . import reset, system
from .errors import ConfigurationError, LpserveError
from .generation import Launch
from .location import runtime_directory
from .options import Settings, read_settings
from .paths import RuntimeDirectory
from .server import Service, raise_descriptor_limit

log = logging.getLogger("lpserve")

#: Of our environment, what is about us and not about our workers.
_OURS = (
    "INVOCATION_ID",
    "JOURNAL_STREAM",
    "LISTEN_FDNAMES",
    "LISTEN_FDS",
    "LISTEN_PID",
    "MAINPID",
    "MANAGERPID",
    "NOTIFY_SOCKET",
    "RUNTIME_DIRECTORY",
    "SYSTEMD_EXEC_PID",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
)
#: Bytes after which the log of a daemon is begun anew.
_MAX_LOG = 4 << 20


def run_service(
    runtime_dir: str | None,
    chosen: dict[str, Any],
    brz: list[str],
    version: str,
    daemon: bool,
    pid_file: str | None,
) -> None:
    """Run the service until it is told to stop.

    :param runtime_dir: what ``--runtime-dir`` says, or None.
    :param chosen: settings from the command line, None for those not given.
    :param brz: the words that run Breezy.
    :raises LpserveError: if it cannot be started; with *daemon* the foreground
        process says so instead and exits with status 3.
    """
    settings = load_settings(chosen)
    directory = RuntimeDirectory(runtime_directory(runtime_dir, settings.runtime_dir))
    pid_path = os.path.abspath(pid_file) if pid_file else None
    environ = _zygote_environment()
    reset.forget_log()
    if not daemon:
        _run(directory, chosen, brz, version, pid_path, environ, lambda text: None)
        return
    log_file = settings.log_file or os.path.join(bedding.cache_dir(), "lpserve.log")
    try:
        report = system.daemonize(os.path.expanduser(log_file))
    except OSError as error:
        raise ConfigurationError(f"cannot write {log_file}: {error.strerror}") from None
    status = 1
    try:
        _run(directory, chosen, brz, version, pid_path, environ, report)
        status = 0
    except (LpserveError, OSError) as error:
        report(str(error))
        log.error("%s", error)
    except BaseException as error:
        report(f"{type(error).__name__}: {error}")
        log.exception("the service failed")
    finally:
        os._exit(status)


def load_settings(chosen: dict[str, Any]) -> Settings:
    """The settings of a service.

    :raises ConfigurationError: if it could not serve anything.
    """
    settings = read_settings(**chosen)
    if not settings.directory:
        raise ConfigurationError(
            "no directory to serve: give --directory or set lpserve.directory in "
            "breezy.conf"
        )
    if not os.path.isabs(settings.directory):
        raise ConfigurationError(
            f"lpserve.directory must be an absolute path, not {settings.directory!r}"
        )
    return settings


def _zygote_environment() -> dict[str, str]:
    """Our environment, as it is to be for zygotes and workers."""
    environ = {name: value for name, value in os.environ.items() if name not in _OURS}
    # Where plug-ins are may be said relative to where we were started.
    if plugins := environ.get("BRZ_PLUGINS_AT"):
        pairs = [each.partition("@") for each in plugins.split(os.pathsep)]
        environ["BRZ_PLUGINS_AT"] = os.pathsep.join(
            f"{name}@{os.path.abspath(path)}" if path else name
            for name, _, path in pairs
        )
    return environ


def _run(
    directory: RuntimeDirectory,
    chosen: dict[str, Any],
    brz: list[str],
    version: str,
    pid_path: str | None,
    environ: dict[str, str],
    report: Callable[[str], None],
) -> None:
    _log_to_stderr()
    umask = os.umask(0o077)
    directory.prepare()
    lock = directory.acquire()
    if pid_path is not None:
        _write_pid(pid_path)
    system.become_subreaper()
    system.set_title("lp-serve")
    limits = {"RLIMIT_NOFILE": raise_descriptor_limit()}
    start = {
        "cwd": os.path.expanduser("~"),
        "umask": umask,
        "limits": limits,
        "runtime_dir": directory.path,
    }
    launch = Launch((*brz, "lp-serve", "--zygote"), environ, start)

    def opened() -> None:
        log.info("Listening on %s", directory.control)
        report("")

    try:
        Service(
            directory,
            lambda: load_settings(chosen),
            launch,
            version,
            opened,
            _roll_log_over,
        ).run()
    finally:
        if pid_path is not None:
            with contextlib.suppress(OSError):
                os.unlink(pid_path)
        # The lock last: whoever gets it finds nothing of ours.
        os.close(lock)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits["RLIMIT_NOFILE"])
        os.umask(umask)


def _write_pid(path: str) -> None:
    try:
        with open(path, "w") as file:
            file.write(f"{os.getpid()}\n")
    except OSError as error:
        raise ConfigurationError(f"cannot write {path}: {error.strerror}") from None


def _log_to_stderr() -> None:
    handler = _PatientHandler()
    handler.setFormatter(_LineFormatter())
    log.handlers[:] = [handler]
    log.propagate = False
    log.setLevel(logging.INFO)


class _PatientHandler(logging.Handler):
    """Writes to standard error, but never waits for whoever reads it.

    Lines that would have to wait are left out and counted, and so are warnings
    beyond `MOST` in a second: anybody who may write requests can cause them.
    """

    MOST = 100

    def __init__(self) -> None:
        super().__init__()
        self._left_out = 0
        self._second = 0
        self._warnings = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record, or leave it out."""
        if int(record.created) != self._second:
            self._second, self._warnings = int(record.created), 0
        self._warnings += record.levelno == logging.WARNING
        if record.levelno == logging.WARNING and self._warnings > self.MOST:
            self._left_out += 1
            return
        text = self.format(record) + "\n"
        if self._left_out:
            text = f"({self._left_out} lines were left out)\n{text}"
        if self._write(text.encode("utf-8", "backslashreplace")):
            self._left_out = 0
        else:
            self._left_out += 1

    @staticmethod
    def _write(data: bytes) -> bool:
        try:
            if not stat.S_ISREG(os.fstat(2).st_mode):
                poller = select.poll()
                poller.register(2, select.POLLOUT)
                if not poller.poll(0):
                    return False
                # As much as a pipe takes that is ready (pipe(7)).
                data = data[: select.PIPE_BUF]
            os.write(2, data)
        except OSError:
            return False
        return True


class _LineFormatter(logging.Formatter):
    """The one line that programs wait for stands alone; the others have a time."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        if str(record.msg).startswith("Listening on "):
            return record.getMessage()
        return super().format(record)


def _roll_log_over() -> None:
    """Begin the log of a daemon anew when it has grown long."""
    found = os.fstat(2)
    if found.st_size < _MAX_LOG:
        return
    with contextlib.suppress(OSError):
        path = os.readlink("/proc/self/fd/2")
        if path.endswith(".log"):
            os.rename(path, path + ".old")
            new = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            os.dup2(new, 2)
            os.close(new)
