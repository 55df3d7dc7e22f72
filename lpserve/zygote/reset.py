# SPDX-License-Identifier: GPL-2.0-or-later

"""Resets the state of a worker to that of a fresh process.

Each function resets one thing that a fork inherits and a fresh process would not
have. The functions of `IN_ZYGOTE` run in the zygote, when it is ready, for all its
workers. Those of `AT_FORK` run in each worker after the fork, those of
`AFTER_PRACTICE` after `worker.practise`, and those of `AT_CONNECTION` when it gets a
connection.

The list was made from the code of Breezy 3.3.23.
"""

from __future__ import annotations

import _signal
import contextlib
import locale
import os
import resource
import signal
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

import breezy
from breezy import atomicfile, bedding, config, debug, i18n, osutils, repository, trace
from breezy.bzr import generate_ids

from .. import brzlog
from ..filestamp import stamp_of
from ..location import LPSERVE_USER
from ..serving import smartserver
from ..system import open_descriptors, set_title

#: Variables that keep the service's value if the request does not set them. The others
#: identify the client, and are removed then.
_FALL_BACK = ("LANG", "LC_ALL", "LC_CTYPE", "TZ")
#: Seconds after which another change of a file is sure to get another time stamp.
SETTLED = 2.0
#: The value of ``serve.client_timeout`` that `read_configuration` has read.
client_timeout = 300.0
# All signals, except those that cannot be caught or that libc reserves.
_SIGNALS = [
    int(number)
    for number in signal.valid_signals()
    if number not in (signal.SIGKILL, signal.SIGSTOP)
]


@dataclass
class Context:
    """The input of the resets.

    :ivar start: the ``start`` message of the service, made in ``start._run``.
    :ivar kept: descriptors that stay open.
    :ivar settings: the result of `settings.Settings.for_worker`.
    :ivar message: the ``serve`` message; empty before there is a connection.
    :ivar changed: names in the environment that a request has given a new value.
    :ivar stamp: of the breezy.conf that was read last; see `read_configuration`.
    """

    start: dict[str, Any]
    kept: Collection[int] = ()
    settings: dict[str, Any] = field(default_factory=dict)
    message: dict[str, Any] = field(default_factory=dict)
    changed: set[str] = field(default_factory=set)
    stamp: Any = None


def reset_descriptors(context: Context) -> None:
    """Keep only stdio and our own descriptors open.

    The others belong to objects of plug-ins, which may still use or close these
    numbers. They are opened on the null device, so that they are not reused.
    """
    null = os.open(os.devnull, os.O_RDWR)
    for number in open_descriptors():
        if number > 2 and number != null and number not in context.kept:
            os.dup2(null, number, inheritable=False)
    os.dup2(null, 0)
    os.close(null)


def reset_signals(context: Context) -> None:
    """Set each signal to what Python starts with, but SIGINT and SIGQUIT to default.

    SIGINT ends a worker at once as long as it has no client, to which
    KeyboardInterrupt would be reported. On SIGQUIT Breezy would start a debugger,
    whose prompt would go to the client.
    """
    signal.set_wakeup_fd(-1)
    signal.setitimer(signal.ITIMER_REAL, 0)
    for number in _SIGNALS:
        wanted: Any = signal.SIG_DFL
        if number in (signal.SIGPIPE, signal.SIGXFSZ):
            wanted = signal.SIG_IGN
        # The C function: `signal.getsignal` creates an enum member.
        if _signal.getsignal(number) != wanted:
            signal.signal(number, wanted)


def reset_mask(context: Context) -> None:
    """Unblock all signals."""
    _signal.pthread_sigmask(signal.SIG_SETMASK, ())


def reset_interrupt(context: Context) -> None:
    """Set SIGINT to what Python starts with."""
    wanted: Any = signal.default_int_handler
    _signal.signal(signal.SIGINT, wanted)


def reset_process_group(context: Context) -> None:
    """Start a session, so that signals reach the worker and its children only."""
    os.setsid()


def reset_limits(context: Context) -> None:
    """Restore the resource limits and umask that the service was started with."""
    for name, limits in context.start["limits"].items():
        number = getattr(resource, name)
        if resource.getrlimit(number) != tuple(limits):
            with contextlib.suppress(ValueError, OSError):
                resource.setrlimit(number, tuple(limits))
    os.umask(context.start["umask"])


def reset_file_ids(context: Context) -> None:
    """Have new file ids made: two workers would make the same ones."""
    generate_ids._gen_file_id_suffix = None
    generate_ids._gen_file_id_serial = 0


def _import_rules() -> Any:
    """Import Breezy's module of rules, without the file that it reads at import.

    A broken file would keep the service from starting. See `Rules`.
    """
    config_dir = bedding.config_dir
    bedding.config_dir = lambda: os.devnull  # no file can be in it
    try:
        from breezy import rules
    finally:
        bedding.config_dir = config_dir
    return rules


rules = _import_rules()


class Rules(rules._RulesSearcher):
    """The rules of the user, read at their first use."""

    def __init__(self) -> None:
        self._searcher: Any = None

    def _read(self) -> Any:
        if self._searcher is None:
            self._searcher = rules._IniBasedRulesSearcher(rules.rules_path())
        return self._searcher

    def get_items(self, path: str) -> Any:
        """See Breezy's."""
        return self._read().get_items(path)

    def get_selected_items(self, path: str, names: Any) -> Any:
        """See Breezy's."""
        return self._read().get_selected_items(path, names)


def reset_rules(context: Context) -> None:
    """Have the rules of the user read again."""
    rules._per_user_searcher = Rules()


def reset_atomic_files(context: Context) -> None:
    """Put the pid of this process into the names of temporary files."""
    atomicfile._pid = os.getpid()


def reset_caches(context: Context) -> None:
    """Clear what Breezy caches about its process and its environment."""
    osutils._cached_user_encoding = None
    osutils._cached_local_concurrency = None
    osutils._first_terminal_size = None
    osutils._terminal_size_state = "no_data"
    i18n._translations = None
    repository._deprecation_warning_done = False


def reset_working_directory(context: Context) -> None:
    """Go to the home directory, where sshd would have started the process."""
    try:
        os.chdir(context.start["cwd"])
    except OSError:
        os.chdir("/")


def reset_environment(context: Context) -> None:
    """Set the variables of the request; the others keep the service's values.

    ``BRZ_EMAIL``, by which locks name their holder, is USER unless the request sets
    it. ``LPSERVE_USER`` is always USER.
    """
    env = context.message["env"]
    for name in context.settings["environment"]:
        if name in env:
            if os.environ.get(name) != env[name]:
                os.environ[name] = env[name]
                context.changed.add(name)
        elif name in os.environ and name not in _FALL_BACK:
            del os.environ[name]
    if "BRZ_EMAIL" not in os.environ:
        os.environ["BRZ_EMAIL"] = context.message["user"]
    os.environ[LPSERVE_USER] = context.message["user"]


def reset_locale(context: Context) -> None:
    """Set locale and time zone from the environment, if that has changed."""
    if any(name.startswith("L") for name in context.changed):
        with contextlib.suppress(locale.Error):
            locale.setlocale(locale.LC_ALL, "")
    if "TZ" in context.changed:
        time.tzset()


def reset_streams(context: Context) -> None:
    """Send the output of ``print`` to stderr, not into the protocol."""
    smartserver.redirect_output()
    smartserver.silence_ui()


def reset_log(context: Context) -> None:
    """Open a new log."""
    brzlog.open_late()
    trace.be_quiet(False)  # not DEBUG on stderr


def reset_start_time(context: Context) -> None:
    """Let the times in the log begin now."""
    breezy._start_time = trace._brz_log_start_time = time.time()


def reset_configuration(context: Context) -> None:
    """Read configuration and debug flags again, if breezy.conf has changed."""
    context.stamp = read_configuration(context.stamp)


def read_configuration(before: Any) -> Any:
    """Read configuration and debug flags, unless breezy.conf has not changed.

    :param before: the result of the previous call, or None.
    :returns: a stamp for the next call.
    :raises Exception: as Breezy does, if the file cannot be read.
    """
    global client_timeout
    stamp = _stamp()
    if stamp is None or stamp != before:
        breezy.get_global_state().config_stores.clear()
        debug.debug_flags.clear()
        debug.set_debug_flags_from_config()
        client_timeout = config.GlobalStack().get("serve.client_timeout")
    return stamp


def _stamp() -> Any:
    """A value that changes whenever breezy.conf does; None if it may not yet."""
    path = bedding.config_path()
    try:
        found = os.stat(path)
    except OSError as error:
        return path, error.errno
    # Some file systems store times in seconds: two changes in short succession may
    # leave the same time.
    if abs(time.time() - found.st_ctime) < SETTLED:
        return None
    return path, *stamp_of(found)


def reset_title(context: Context) -> None:
    """Show USER in ps(1)."""
    set_title(f"lp:{context.message['user']}")


Reset = Callable[[Context], None]

IN_ZYGOTE: list[Reset] = [
    reset_signals,
    reset_descriptors,
    reset_limits,
    reset_file_ids,
    reset_caches,
    reset_rules,
    reset_working_directory,
    reset_streams,
    reset_log,
]
AT_FORK: list[Reset] = [
    reset_process_group,
    reset_atomic_files,
]
#: SIGHUP and SIGINT are blocked until then: `worker.practise` installs handlers, and a
#: signal may be meant for a connection that has arrived already.
AFTER_PRACTICE: list[Reset] = [reset_mask]
AT_CONNECTION: list[Reset] = [
    reset_interrupt,
    reset_environment,
    reset_locale,
    reset_start_time,
    reset_configuration,
    reset_title,
]
