# SPDX-License-Identifier: GPL-2.0-or-later

"""A plug-in for the tests: soils the zygote, and lets a client look at a worker.

In the zygote it changes whatever a worker resets. In a worker it takes out the
reset that the file ``without`` in $PROBE_HOME names. In every process it adds
requests ("probe.state\\n" and so on) to the smart protocol.
"""

import atexit
import fcntl
import functools
import gc
import gettext
import json
import locale
import logging
import os
import resource
import signal
import socket
import stat
import subprocess
import sys
import time
import warnings

import breezy
from breezy import (
    atomicfile,
    breakin,
    config,
    debug,
    i18n,
    lockdir,
    osutils,
    repository,
    rules,
    trace,
    ui,
)
from breezy.bzr import generate_ids
from breezy.bzr.smart import request

# As a plug-in this is a module of breezy.plugins.
from .lpserve.lpserve.serving import smartserver
from .lpserve.lpserve.zygote import rehearsal, reset, zygote

HOME = os.environ["PROBE_HOME"]
#: What the file ids of the zygote end with.
SUFFIX = b"-of-the-zygote-"

_kept = []
#: As Breezy started with them.
_streams = (sys.stdin, sys.stdout, sys.stderr)
_ui = ui.ui_factory
#: The user interface that a connection began with.
_before = []


def _path(name):
    return os.path.join(HOME, name)


def _note(text):
    """Add a line to the file ``notes``."""
    with open(_path("notes"), "a") as file:
        file.write(f"{text} {os.getpid()}\n")


# -- the zygote -----------------------------------------------------------------


class _Translations(gettext.NullTranslations):
    def gettext(self, message):
        return "of the zygote"


def _soil():
    """Change what a worker must not inherit."""
    while _kept:
        _kept.pop().close()
    breakin.hook_debugger_to_signal()
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD, signal.SIGUSR1):
        signal.signal(number, lambda number, frame: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2, signal.SIGALRM])
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    signal.set_wakeup_fd(writer.fileno())
    stray = open(_path("stray"), "w+")  # noqa: SIM115
    os.set_inheritable(stray.fileno(), True)
    os.dup2(stray.fileno(), 60, inheritable=True)
    os.umask(0o002)
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (444, limit))
    generate_ids._gen_file_id_suffix = SUFFIX
    generate_ids._gen_file_id_serial = 41
    config.GlobalStack().get("probe")
    rules._per_user_searcher = rules._IniBasedRulesSearcher(
        ["[name *.probe]", "probe = of the zygote"]
    )
    osutils._cached_user_encoding = "cp437"
    osutils._cached_local_concurrency = 77
    osutils._first_terminal_size = (80, 25)
    osutils._terminal_size_state = "changed"
    repository._deprecation_warning_done = True
    i18n._translations = _Translations()
    lockdir._DEFAULT_TIMEOUT_SECONDS = 99
    unflushed = open(_path("unflushed"), "w")  # noqa: SIM115
    unflushed.write("written by the zygote\n")
    _kept.extend((reader, writer, stray, unflushed))
    os.chdir("/")
    sys.stdin, sys.stdout, sys.stderr = _streams
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = _streams
    ui.ui_factory = _ui


def _rehearse(start, original=rehearsal.rehearse):
    original(start)
    atexit.register(_note, "atexit")
    print("printed by the zygote")
    _soil()


def _run(self, original=zygote.Zygote.run):
    try:
        original(self)
    finally:
        _note("finally")


def _unless_taken_out(step):
    @functools.wraps(step)
    def run(context):
        with open(_path("without")) as file:
            if file.read() != step.__name__:
                step(context)

    return run


if "--zygote" in sys.argv:
    rehearsal.rehearse = _rehearse
    zygote.Zygote.run = _run
    for _steps in (
        reset.IN_ZYGOTE,
        reset.AT_FORK,
        reset.AFTER_PRACTICE,
        reset.AT_CONNECTION,
    ):
        _steps[:] = map(_unless_taken_out, _steps)


# -- what a process is like -----------------------------------------------------


def _handler(number):
    found = signal.getsignal(number)
    return getattr(found, "__qualname__", str(found))


def _mask(name):
    """Signals in a set of /proc/self/status: what the kernel thinks."""
    with open("/proc/self/status") as file:
        lines = dict(line.split(":", 1) for line in file)
    bits = int(lines[name], 16)
    # 32 and 33 are libc's own; its posix_spawn(3) leaves them ignored.
    return [
        each for each in range(1, 65) if bits >> each - 1 & 1 and each not in (32, 33)
    ]


def _descriptors():
    """What is open, by kind; the null device as a place holder does not count."""
    null = os.stat(os.devnull).st_rdev
    found = []
    for number in map(int, os.listdir("/proc/self/fd")):
        try:
            mode = os.fstat(number)
        except OSError:
            continue  # the listing itself
        if stat.S_ISFIFO(mode.st_mode):
            kind = "fifo"
        elif stat.S_ISSOCK(mode.st_mode):
            kind = "socket"
        elif stat.S_ISCHR(mode.st_mode) and mode.st_rdev == null and number > 2:
            continue
        else:
            kind = os.path.basename(os.readlink(f"/proc/self/fd/{number}"))
        blocking = not fcntl.fcntl(number, fcntl.F_GETFL) & os.O_NONBLOCK
        name = str(number) if number < 3 else "other"
        found.append([name, kind, blocking, os.get_inheritable(number), number < 1024])
    return sorted(found)


def _stream(stream):
    try:
        number = stream.fileno()
    except OSError:
        number = None
    return [number, stream.encoding, stream.errors]


def _umask():
    found = os.umask(0)
    os.umask(found)
    return found


def _started_since(moment):
    return moment >= os.stat(_path("since")).st_mtime


def _log_handlers():
    logger = logging.getLogger("brz")
    return [
        [type(each).__name__, each.level, os.readlink(f"/proc/self/fd/{fd}")]
        if (fd := getattr(each.stream, "fileno", lambda: 0)()) > 2
        else [type(each).__name__, each.level, fd]
        for each in logger.handlers
    ] + [logger.level]


def state():
    """All that a client, a hook or an administrator could tell a process by."""
    limits = [name for name in dir(resource) if name.startswith("RLIMIT_")]
    suffix = generate_ids._gen_file_id_suffix
    trace.mutter("the log is opened when there is something to log")
    return {
        "signals": {
            str(int(number)): _handler(number) for number in signal.valid_signals()
        },
        "ignored": _mask("SigIgn"),
        "caught": _mask("SigCgt"),
        "blocked": _mask("SigBlk"),
        "threads": len(os.listdir("/proc/self/task")),
        "wakeup": signal.set_wakeup_fd(-1),
        "timer": signal.getitimer(signal.ITIMER_REAL),
        "descriptors": _descriptors(),
        "session": os.getsid(0) == os.getpid(),
        "group": os.getpgrp() == os.getpid(),
        "limits": {
            name: resource.getrlimit(getattr(resource, name)) for name in limits
        },
        "umask": _umask(),
        # Not oom_score_adj: a worker has more than the service.
        "priority": os.nice(0),
        "cwd": os.getcwd(),
        "environ": dict(os.environ),
        "locale": locale.setlocale(locale.LC_ALL),
        "timezone": [time.tzname, time.timezone, time.localtime(0).tm_hour],
        "user encoding": osutils.get_user_encoding(),
        "concurrency": osutils.local_concurrency(),
        "terminal": [
            osutils._terminal_size_state,
            osutils._first_terminal_size,
            callable(osutils._terminal_size),
        ],
        "translations": i18n.gettext("probe"),
        "deprecation": repository._deprecation_warning_done,
        "title": open("/proc/self/comm").read().strip(),
        "streams": [
            _stream(getattr(sys, name))
            for name in ("stdin", "stdout", "stderr")
            + ("__stdin__", "__stdout__", "__stderr__")
        ],
        "ui": [*_before, type(ui.ui_factory).__name__],
        "lock timeout": lockdir._DEFAULT_TIMEOUT_SECONDS,
        "atomic pid": atomicfile._pid == os.getpid(),
        "file ids": [suffix, generate_ids._gen_file_id_serial],
        "config": config.GlobalStack().get("probe"),
        "debug flags": sorted(debug.debug_flags),
        "rules": rules._per_user_searcher.get_items("a.probe"),
        "log": [
            os.readlink(f"/proc/self/fd/{trace._trace_file.fileno()}")
            if trace._trace_file
            else None,
            _log_handlers(),
        ],
        "log time": [
            _started_since(trace._brz_log_start_time),
            _started_since(breezy._start_time),
        ],
        "python": [
            gc.isenabled(),
            gc.get_threshold(),
            sys.getrecursionlimit(),
            socket.getdefaulttimeout(),
            list(map(str, warnings.filters)),
        ],
    }


# -- requests -------------------------------------------------------------------


def _ask_state():
    return json.dumps(state(), default=repr)


def _ask_file_id():
    return generate_ids.gen_file_id("name").decode()


def _ask_print():
    """Whatever a plug-in might write to or read from by mistake."""
    print("printed")
    sys.stdout.write("written\n")
    sys.__stdout__.write("written to the original\n")
    sys.stderr.write("complained\n")
    trace.note("noted")
    ui.ui_factory.show_message("shown")
    try:
        return input("asked")
    except EOFError:
        return "nothing to read"


def _ask_big():
    return "x" * 10_000_000


def _ask_fault():
    raise ValueError("probed")


def _ask_sleep():
    """Leave a process behind, as a hook does; its pid."""
    return str(subprocess.Popen(["sleep", "1000"]).pid)


def _ask_orphan():
    """Leave a process behind whose parent, a shell, is gone; its pid."""
    done = subprocess.run(
        ["sh", "-c", "sleep 1000 >&- 2>&- & echo $!"], stdout=subprocess.PIPE
    )
    return done.stdout.decode().strip()


for _name, _ask in list(globals().items()):
    if _name.startswith("_ask_"):

        class _Request(request.SmartServerRequest):
            def do(self, ask=_ask):
                text = ask().encode("utf-8", "surrogateescape")
                return request.SuccessfulSmartServerResponse((b"ok", text))

        _verb = "probe." + _name[len("_ask_") :]
        request.request_handlers.register(_verb.encode(), _Request, info="read")


def _serve_and_report(*args, original=smartserver.serve_and_report, **options):
    _before.append(type(ui.ui_factory).__name__)
    # A hook of another plug-in could do this at any time.
    if os.path.exists(_path("break")):
        raise ValueError("broken before it served")
    return original(*args, **options)


smartserver.serve_and_report = _serve_and_report
