# SPDX-License-Identifier: GPL-2.0-or-later

"""What a worker resets, so that it is a fresh process to all it talks to.

Each function undoes one thing that a fork shares and a fresh process would not
have. `IN_ZYGOTE` run in a zygote that is ready, for all its workers: nothing but
forks happens to it from then on. `AT_FORK` run in every worker before it has a
connection, `AFTER_PRACTICE` when it has nothing more to do before that, and
`AT_CONNECTION` when it gets one.

What is reset was found in the code of Breezy 3.3.23.
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
from ..location import LPSERVE_USER
from ..serving import smartserver
from ..system import open_descriptors, set_title

#: Of the names that a request may set, those that have a use without a request;
#: the others say who is connected, and are nobody's unless the request says so.
_FALL_BACK = ("LANG", "LC_ALL", "LC_CTYPE", "TZ")
#: Seconds after which a file that was not changed would look different if it were.
SETTLED = 2.0
#: ``serve.client_timeout`` as `read_configuration` has found it.
client_timeout = 300.0
# All but those that cannot be caught and the real-time ones that libc keeps.
_SIGNALS = [
    int(number)
    for number in signal.valid_signals()
    if number not in (signal.SIGKILL, signal.SIGSTOP)
]


@dataclass
class Context:
    """What the resets go by.

    :ivar start: the ``start`` message of the service, made in ``start._run``.
    :ivar kept: descriptors of ours that stay open.
    :ivar settings: what `settings.Settings.for_worker` says.
    :ivar message: the ``serve`` message; empty before there is a connection.
    :ivar changed: names in the environment that a request has given a new value.
    :ivar stamp: of breezy.conf where it has been read already, or None.
    """

    start: dict[str, Any]
    kept: Collection[int] = ()
    settings: dict[str, Any] = field(default_factory=dict)
    message: dict[str, Any] = field(default_factory=dict)
    changed: set[str] = field(default_factory=set)
    stamp: Any = None


def reset_descriptors(context: Context) -> None:
    """Keep nothing open but stdio and what is ours.

    What is left in the zygote belongs to objects of plug-ins, which may use its
    number again: it becomes the null device, not free.
    """
    null = os.open(os.devnull, os.O_RDWR)
    for number in open_descriptors():
        if number > 2 and number != null and number not in context.kept:
            os.dup2(null, number, inheritable=False)
    os.dup2(null, 0)
    os.close(null)


def reset_signals(context: Context) -> None:
    """Every signal as Python starts with it but SIGINT; no wake-up.

    SIGINT ends a worker at once until there is somebody to tell.

    Breezy opens a debugger on SIGQUIT: its prompt would go to the client.
    """
    signal.set_wakeup_fd(-1)
    signal.setitimer(signal.ITIMER_REAL, 0)
    for number in _SIGNALS:
        wanted: Any = signal.SIG_DFL
        if number in (signal.SIGPIPE, signal.SIGXFSZ):
            wanted = signal.SIG_IGN
        # The C function: the one around it makes an enum of what it returns.
        if _signal.getsignal(number) != wanted:
            signal.signal(number, wanted)


def reset_mask(context: Context) -> None:
    """No signal is blocked."""
    _signal.pthread_sigmask(signal.SIG_SETMASK, ())


def reset_interrupt(context: Context) -> None:
    """SIGINT too is as Python starts with it."""
    wanted: Any = signal.default_int_handler
    _signal.signal(signal.SIGINT, wanted)


def reset_process_group(context: Context) -> None:
    """A session of its own: what it starts can be ended with it, and only that."""
    os.setsid()


def reset_limits(context: Context) -> None:
    """The resource limits and umask that the service was started with."""
    for name, limits in context.start["limits"].items():
        number = getattr(resource, name)
        if resource.getrlimit(number) != tuple(limits):
            with contextlib.suppress(ValueError, OSError):
                resource.setrlimit(number, tuple(limits))
    os.umask(context.start["umask"])


def reset_file_ids(context: Context) -> None:
    """New file ids of its own: two workers made the same ones."""
    generate_ids._gen_file_id_suffix = None
    generate_ids._gen_file_id_serial = 0


def _import_rules() -> Any:
    """Breezy's module, which reads the user's file as it is imported: not now.

    A broken one would keep the service from starting; see `Rules`.
    """
    config_dir = bedding.config_dir
    bedding.config_dir = lambda: os.devnull  # in which there is none
    try:
        from breezy import rules
    finally:
        bedding.config_dir = config_dir
    return rules


rules = _import_rules()


class Rules(rules._RulesSearcher):
    """The rules of the user, read when somebody wants them as in a fresh process."""

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
    """The rules of the user are read again."""
    rules._per_user_searcher = Rules()


def reset_atomic_files(context: Context) -> None:
    """Temporary names have this process in them."""
    atomicfile._pid = os.getpid()


def reset_caches(context: Context) -> None:
    """What Breezy remembers about its process and its environment."""
    osutils._cached_user_encoding = None
    osutils._cached_local_concurrency = None
    osutils._first_terminal_size = None
    osutils._terminal_size_state = "no_data"
    i18n._translations = None
    repository._deprecation_warning_done = False


def reset_working_directory(context: Context) -> None:
    """Where sshd would have started it."""
    try:
        os.chdir(context.start["cwd"])
    except OSError:
        os.chdir("/")


def reset_environment(context: Context) -> None:
    """The names that a request may set are as it says, the rest the service's.

    ``BRZ_EMAIL`` is USER where the request does not say: locks name their
    holder by it. ``LPSERVE_USER`` is USER whatever the request says.
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
    """Locale and time zone are those of the environment."""
    if any(name.startswith("L") for name in context.changed):
        with contextlib.suppress(locale.Error):
            locale.setlocale(locale.LC_ALL, "")
    if "TZ" in context.changed:
        time.tzset()


def reset_streams(context: Context) -> None:
    """``print`` goes to stderr, which will be the client's; never to the protocol."""
    smartserver.redirect_output()
    smartserver.silence_ui()


def reset_log(context: Context) -> None:
    """A log of its own."""
    brzlog.open_late()
    trace.be_quiet(False)  # not DEBUG on stderr


def reset_start_time(context: Context) -> None:
    """The log is timed from now."""
    breezy._start_time = trace._brz_log_start_time = time.time()


def reset_configuration(context: Context) -> None:
    """Configuration and debug flags are those of breezy.conf as it is now.

    The zygote has read it; it is read again only if it has changed.
    """
    context.stamp = read_configuration(context.stamp)


def read_configuration(before: Any) -> Any:
    """Read configuration and debug flags unless nothing has changed.

    :param before: what this returned when it was read last, or None.
    :raises Exception: what Breezy does where it cannot read it.
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
    """What tells whether breezy.conf has changed; None if nothing does yet."""
    path = bedding.config_path()
    try:
        found = os.stat(path)
    except OSError as error:
        return path, error.errno
    # The clocks of some file systems tick once a second: one that was written just
    # now may be written again and look the same.
    if abs(time.time() - found.st_ctime) < SETTLED:
        return None
    times = found.st_mtime_ns, found.st_ctime_ns
    return path, found.st_dev, found.st_ino, found.st_size, *times


def reset_title(context: Context) -> None:
    """ps(1) shows whom it serves."""
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
#: SIGHUP and SIGINT have waited until now: `worker.practise` has handlers of its own,
#: and a connection may be there already that they are for.
AFTER_PRACTICE: list[Reset] = [reset_mask]
AT_CONNECTION: list[Reset] = [
    reset_interrupt,
    reset_environment,
    reset_locale,
    reset_start_time,
    reset_configuration,
    reset_title,
]
