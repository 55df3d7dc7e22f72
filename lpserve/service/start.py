# SPDX-License-Identifier: GPL-2.0-or-later

"""Starts the service: reads the settings, takes the lock, runs the event loop."""

from __future__ import annotations

import contextlib
import logging
import os
import resource
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from breezy import bedding

from .. import root, system, systemd
from ..accessfile import AccessFile
from ..advice import odd_directory, odd_options
from ..brzlog import forget_log
from ..errors import ConfigurationError, LpserveError, os_fault
from ..handover import SuccessorSpec
from ..location import LPSERVE_USER, runtime_directory
from ..logs import LogFile, log_to_stderr
from ..paths import RuntimeDirectory
from ..settings import Settings, read_settings
from . import accesslog
from .activation import Activation, sort_descriptors
from .following import follow
from .generation import LaunchSpec
from .pidfile import remove_pid_file, write_pid_file
from .server import Service
from .takeover import Takeover
from .upgrades import Origin

log = logging.getLogger("lpserve")

#: Variables of the environment that concern the service and not its workers.
_OURS = (
    "CACHE_DIRECTORY",
    "FDSTORE",
    "INVOCATION_ID",
    "JOURNAL_STREAM",
    "LISTEN_FDNAMES",
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_PIDFDID",
    "MAINPID",
    "MANAGERPID",
    "NOTIFY_SOCKET",
    "RUNTIME_DIRECTORY",
    "SYSTEMD_EXEC_PID",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
)

#: Those of `_OURS` that hold for another process in our place.
_FOR_SUCCESSORS = tuple(
    name for name in _OURS if not name.startswith("LISTEN_") and name != "WATCHDOG_PID"
)


def run_service(
    runtime_dir: str | None,
    chosen: dict[str, Any],
    brz: list[str],
    about: tuple[str, str],
    daemon: bool,
    pid_file: str | None,
    successor: int | None = None,
) -> None:
    """Run the service until it is stopped.

    :param runtime_dir: the value of ``--runtime-dir``, or None.
    :param chosen: settings from the command line, None for those not given.
    :param brz: the command that runs Breezy, a list of words.
    :param about: the version and the code of lpserve; see `upgrades.Origin`.
    :param successor: the descriptor of a channel to the service that it succeeds.
    :raises LpserveError: if the service cannot be started. With *daemon*, the
        foreground process prints the error instead and exits with status 3.
    """
    takeover = None if successor is None else Takeover(successor)
    try:
        settings = load_settings(chosen)
        directory = RuntimeDirectory(
            runtime_directory(runtime_dir, settings.runtime_dir)
        )
        pid_path = os.path.abspath(pid_file) if pid_file else None
        launch = _Launch(directory, chosen, brz, about, daemon, pid_path, takeover)
        forget_log()
        name = settings.log_file or os.path.join(bedding.cache_dir(), "lpserve.log")
        path = os.path.abspath(os.path.expanduser(name))
        if not daemon or takeover is not None:
            log_file = LogFile(path if daemon else None)
            if launch.run(log_file, lambda text: None) and takeover is None:
                follow(directory)
            return
    except LpserveError as error:
        if takeover is not None:
            takeover.fail(str(error))
        raise
    try:
        report = system.daemonize(path)
    except OSError as error:
        raise ConfigurationError(f"cannot write {path}: {error.strerror}") from None
    status = 3
    try:
        launch.run(LogFile(path), report)
        status = 0
    except LpserveError as error:
        report(str(error))
        log.error("%s", error)
    except BaseException as error:
        report(f"{type(error).__name__}: {error}")
        log.exception("the service failed")
    finally:
        os._exit(status)


def load_settings(chosen: dict[str, Any]) -> Settings:
    """Read and check the settings of a service.

    :raises ConfigurationError: if one is missing or invalid.
    """
    settings = read_settings(**chosen)
    if not os.path.isabs(root.expand(settings.directory, "user")):
        raise ConfigurationError(
            f"lpserve.directory must be an absolute path, not {settings.directory!r}"
        )
    _ = settings.allowed_uids  # raises if there is no such user
    _ = settings.agent_address
    root.parse_sandbox_paths(settings.sandbox_paths)
    accesslog.check(settings.access_log, settings.directory)
    return settings


class _Reader:
    """Reads the settings of a running service, and logs warnings about them.

    :param chosen: settings from the command line.
    """

    def __init__(self, chosen: dict[str, Any]):
        self._chosen = chosen
        self._directory = ""
        self._access: str | None = None

    def read(self) -> Settings:
        """Read the settings.

        :raises ConfigurationError: as `load_settings`; if they name another file of
            access rules, which cannot be used.
        """
        settings = load_settings(self._chosen)
        if self._directory and settings.access not in (None, self._access):
            # At a start nobody is let in; here there is somebody to tell.
            AccessFile(settings.access, settings.directory).current()
        self._access = settings.access
        for line in odd_options():
            log.warning("%s", line)
        if LPSERVE_USER in settings.environment:
            log.warning("lpserve.environment: no request can set %s", LPSERVE_USER)
        if settings.queue_timeout >= settings.connect_timeout:
            log.warning(
                "lpserve.queue_timeout: clients wait for connect_timeout only, "
                "which is not more"
            )
        assert settings.directory is not None
        if settings.directory != self._directory:
            # Checked when it changes only: a network file system may hang.
            self._directory = settings.directory
            if line := odd_directory(settings.directory):
                log.warning("%s", line)
        return settings


def _zygote_environment() -> dict[str, str]:
    """The environment of zygotes and workers, made from our own."""
    environ = {name: value for name, value in os.environ.items() if name not in _OURS}
    # Its paths may be relative to our working directory.
    if plugins := environ.get("BRZ_PLUGINS_AT"):
        pairs = [each.partition("@") for each in plugins.split(os.pathsep)]
        environ["BRZ_PLUGINS_AT"] = os.pathsep.join(
            f"{name}@{os.path.abspath(path)}" if path else name
            for name, _, path in pairs
        )
    return environ


@dataclass
class _Launch:
    """What a service is started with; see `run_service`."""

    directory: RuntimeDirectory
    chosen: dict[str, Any]
    brz: list[str]
    about: tuple[str, str]
    daemon: bool
    pid_path: str | None
    takeover: Takeover | None

    def run(self, log_file: LogFile, report: Callable[[str], None]) -> bool:
        """Run the service; whether it was handed over in the end.

        :param report: called with "" when the doors are open.
        """
        log_to_stderr()
        # First: what we start inherits it until it is taken.
        passed = systemd.take_descriptors()
        umask = os.umask(0o077)
        try:
            self.directory.prepare()
            if self.takeover is None:
                activation = sort_descriptors(passed, self.directory)
            else:
                activation = self.takeover.activation
            with contextlib.ExitStack() as held:
                return self._run(held, activation, umask, log_file, report)
        except OSError as error:
            text = f"the service cannot run: {os_fault(error)}"
            raise LpserveError(text) from error
        finally:
            os.umask(umask)

    def _run(
        self,
        held: contextlib.ExitStack,
        activation: Activation,
        umask: int,
        log_file: LogFile,
        report: Callable[[str], None],
    ) -> bool:
        directory, takeover = self.directory, self.takeover
        lock = directory.acquire() if takeover is None else takeover.lock
        origin = Origin(directory, *self.about, {}, lock, self._successor(), takeover)
        # Released last, so that its next holder finds nothing of ours.
        held.callback(origin.release_lock)
        if self.pid_path is not None:
            held.callback(remove_pid_file, self.pid_path)
            if takeover is None:
                write_pid_file(self.pid_path)
        system.become_subreaper()
        system.set_title("lp-serve")
        limit = system.raise_descriptor_limit()
        held.callback(resource.setrlimit, resource.RLIMIT_NOFILE, limit)
        origin.start = {"umask": umask, "limits": {"RLIMIT_NOFILE": limit}}
        if takeover is not None:
            # Those with which the first of us was started.
            origin.start = {name: takeover.document[name] for name in origin.start}
        start = {
            "cwd": os.path.expanduser("~"),
            "runtime_dir": directory.path,
            **origin.start,
        }

        def opened() -> None:
            if takeover is not None:
                directory.take_lock(lock)
                if self.pid_path is not None:
                    write_pid_file(self.pid_path)
            system.keep_what_is_loaded()
            log.info("Listening on %s", directory.control)
            report("")

        zygote = (*self.brz, "lp-serve", "--zygote")
        service = Service(
            directory,
            _Reader(self.chosen).read,
            LaunchSpec(zygote, _zygote_environment(), start),
            origin,
            opened,
            log_file,
            activation,
        )
        service.run()
        return service.handed_over

    def _successor(self) -> SuccessorSpec:
        """How to start another one like this."""
        words = [*self.brz, "lp-serve", "--fork-server"]
        words.append(f"--runtime-dir={self.directory.path}")
        for name, value in self.chosen.items():
            if value is True:
                words.append("--" + name.replace("_", "-"))
            elif value is not None:
                words.append(f"--{name.replace('_', '-')}={value}")
        if self.daemon:
            words.append("--daemon")
        if self.pid_path is not None:
            words.append(f"--pid-file={self.pid_path}")
        environ = _zygote_environment()
        for name in _FOR_SUCCESSORS:
            if name in os.environ:
                environ[name] = os.environ[name]
        return SuccessorSpec(tuple(words), environ)
