# Copyright (C) 2026 The lpserve developers
#
# This program is free software; you can redistribute it and/or modify
# it under the terms of the GNU General Public License as published by
# the Free Software Foundation; either version 2 of the License, or
# (at your option) any later version.

"""What a worker resets, so that it is a fresh process to all it talks to.

Each function undoes one thing that a fork shares and a fresh process would not
have. `AT_FORK` run in every worker before it has a connection, `AT_CONNECTION`
when it gets one. What is reset was found in the code of Breezy 3.3.23.
"""

from __future__ import annotations

import _signal
import contextlib
import locale
import logging
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import breezy
from breezy import atomicfile, debug, i18n, osutils, repository, rules, trace
from breezy.bzr import generate_ids

from . import serving
from .system import open_descriptors, set_title

#: Of the names that a request may set, those that have a use without a request;
#: the others say who is connected, and are nobody's unless the request says so.
_FALL_BACK = ("LANG", "LC_ALL", "LC_CTYPE", "TZ")
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
    :ivar channel: the descriptor of the worker's channel.
    :ivar message: the ``serve`` message; empty before there is a connection.
    :ivar changed: names in the environment that a request has given a new value.
    """

    start: dict[str, Any]
    channel: int
    message: dict[str, Any]
    changed: set[str] = field(default_factory=set)


def reset_descriptors(context: Context) -> None:
    """Keep nothing open but stdio and the channel.

    What is left in the zygote belongs to objects of plug-ins, which may use its
    number again: it becomes the null device, not free.
    """
    null = os.open(os.devnull, os.O_RDWR)
    for number in open_descriptors():
        if number > 2 and number not in (context.channel, null):
            os.dup2(null, number, inheritable=False)
    os.dup2(null, 0)
    os.close(null)


def reset_signals(context: Context) -> None:
    """Every signal as Python starts with it but SIGINT; none blocked; no wake-up.

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
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def reset_interrupt(context: Context) -> None:
    """SIGINT too is as Python starts with it."""
    wanted: Any = signal.default_int_handler
    signal.signal(signal.SIGINT, wanted)


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


def reset_configuration(context: Context) -> None:
    """Configuration files are read again: an edited one was not seen."""
    breezy.get_global_state().config_stores.clear()


def reset_rules(context: Context) -> None:
    """The rules of the user are read again."""
    rules.reset_rules()


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
    holder by it.
    """
    env = context.message["env"]
    for name in context.message["environment"]:
        if name in env:
            if os.environ.get(name) != env[name]:
                os.environ[name] = env[name]
                context.changed.add(name)
        elif name not in _FALL_BACK:
            os.environ.pop(name, None)
    os.environ.setdefault("BRZ_EMAIL", context.message["user"])


def reset_locale(context: Context) -> None:
    """Locale and time zone are those of the environment."""
    if any(name.startswith("L") for name in context.changed):
        with contextlib.suppress(locale.Error):
            locale.setlocale(locale.LC_ALL, "")
    if "TZ" in context.changed:
        time.tzset()


def reset_streams(context: Context) -> None:
    """``print`` goes to stderr, which will be the client's; never to the protocol."""
    serving.protect_protocol()
    serving.silence_ui()


def reset_log(context: Context) -> None:
    """A log of its own, opened (and rolled over) now, timed from now."""
    breezy._start_time = trace._brz_log_start_time = time.time()
    logging.getLogger("brz").handlers.clear()
    trace._trace_file = None
    trace.enable_default_logging()
    trace.be_quiet(False)  # not DEBUG on stderr


def practise() -> None:
    """Do what takes longest at a connection, once, while nobody waits for it.

    For what it is good see `worker.warm_up`. It reads breezy.conf, which is
    read again at the connection, and opens a log that goes nowhere.
    """
    logger = logging.getLogger("brz")
    handlers, opened = logger.handlers[:], trace._trace_file
    os.environ["BRZ_LOG"], before = os.devnull, os.environ.get("BRZ_LOG")
    context = Context({}, -1, {})
    try:
        reset_debug_flags(context)
        reset_log(context)
    finally:
        if before is None:
            del os.environ["BRZ_LOG"]
        else:
            os.environ["BRZ_LOG"] = before
        if trace._trace_file is not opened and trace._trace_file is not None:
            trace._trace_file.close()
        logger.handlers[:], trace._trace_file = handlers, opened


def reset_debug_flags(context: Context) -> None:
    """The ``debug_flags`` of breezy.conf as it is now."""
    debug.debug_flags.clear()
    debug.set_debug_flags_from_config()


def reset_title(context: Context) -> None:
    """ps(1) shows whom it serves."""
    set_title(f"lp:{context.message['user']}")


Reset = Callable[[Context], None]

AT_FORK: list[Reset] = [
    reset_signals,
    reset_descriptors,
    reset_process_group,
    reset_limits,
    reset_file_ids,
    reset_configuration,
    reset_atomic_files,
    reset_caches,
    reset_working_directory,
    reset_streams,
]
AT_CONNECTION: list[Reset] = [
    reset_interrupt,
    reset_environment,
    reset_locale,
    reset_debug_flags,
    reset_log,
    reset_rules,
    reset_title,
]


def forget_log() -> None:
    """Log to standard error only: a service and a zygote outlive a brz.log.

    Breezy flushes the file object when it ends, so that stays; what it is open
    on does not.
    """
    opened = trace._trace_file
    logging.getLogger("brz").handlers[:] = [logging.StreamHandler(sys.stderr)]
    trace._trace_file = None
    if opened is not None:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, opened.fileno(), inheritable=False)
        os.close(null)
