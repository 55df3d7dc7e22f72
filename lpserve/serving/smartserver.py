# SPDX-License-Identifier: GPL-2.0-or-later

"""Serve one connection of the Bazaar smart protocol on two descriptors.

What ``brz lp-serve --inet`` and a worker have in common.
"""

from __future__ import annotations

import _signal
import contextlib
import io
import os
import signal
import sys
import traceback
from collections.abc import Iterator
from typing import Any

from breezy import config, lockdir, trace, transport
from breezy import ui as _mod_ui
from breezy.bzr.smart import medium as smart_medium
from breezy.bzr.smart import repository, request
from breezy.bzr.smart import server as _mod_server

from .. import root
from ..errors import ClientError, LpserveError
from ..location import is_remote
from . import answers, memorylimit
from .containment import BranchSection, Containment, local_transport
from .medium import PipeMedium
from .patience import STDERR_PATIENCE, StandardError, write_aside

#: Exit statuses of a connection, as those of ``brz``.
OK, USER_ERROR, INTERNAL_ERROR = 0, 3, 4


class ConnectionServer:
    """What Breezy's ``serve --inet`` does, around a `PipeMedium`.

    It is made without touching a file, so it may be made before there is a
    connection; and used more than once.

    :ivar root: the directory that it serves.
    """

    def __init__(self, root: str, allow_writes: bool):
        self.root = root
        self._containment = Containment(root, allow_writes)
        self.transport = self._containment.transport()

    def tear_down(self) -> None:
        """It is not used any more."""
        self._containment.close()

    def serve(
        self, in_fd: int, out_fd: int, timeout: float | None, patience: float
    ) -> None:
        """Serve one connection; the numbers of seconds are those of `PipeMedium`."""
        medium = PipeMedium(in_fd, out_fd, self.transport, timeout, patience)
        before = _adapt()
        ui, handler = _mod_ui.ui_factory, None
        try:
            silence_ui()
            if hasattr(signal, "SIGHUP"):
                # The C function: the one around it makes enums.
                handler = _signal.signal(signal.SIGHUP, medium.hang_up)
            medium.serve()
        finally:
            _mod_ui.ui_factory = ui
            for owner, name, value in before:
                setattr(owner, name, value)
            if handler is not None:
                _signal.signal(signal.SIGHUP, handler)


#: What is different in Breezy while a connection is served: no lock is waited for,
#: every error becomes an answer, what writes is refused before it begins, and no path
#: of the host that a client wrote is opened.
_ADAPTED: tuple[tuple[Any, str, Any], ...] = (
    (lockdir, "_DEFAULT_TIMEOUT_SECONDS", 0),
    (smart_medium, "_get_protocol_factory_for_bytes", answers.protocol_of),
    (request, "_translate_error", answers.translate),
    *(
        (owner, name, answers.unless_readonly(getattr(owner, name)))
        for owner, name in (
            (repository.SmartServerRepositoryLockWrite, "do_repository_request"),
            (
                repository.SmartServerRepositoryInsertStreamLocked,
                "do_insert_stream_request",
            ),
        )
    ),
    (transport, "get_transport_from_path", local_transport),
    (config.BranchStore, "readonly_section_class", BranchSection),
)


def _adapt() -> list[tuple[Any, str, Any]]:
    """Have Breezy as `_ADAPTED` says; what has changed, as it was before."""
    changed = []
    for owner, name, value in _ADAPTED:
        if (found := getattr(owner, name)) is not value:
            changed.append((owner, name, found))
            setattr(owner, name, value)
    return changed


def adapt_breezy() -> None:
    """Have Breezy as connections need it, for ever.

    For a zygote: to change a class takes back what Python has specialized for it, in
    each worker anew.
    """
    _adapt()


def prepare(directory: str | None, allow_writes: bool) -> ConnectionServer | None:
    """What can be made of a connection before it is known whose it is.

    :returns: something for `serve`; None if *directory* depends on the user.
    """
    if not directory or not root.is_shared(directory):
        return None
    return ConnectionServer(root.expand(directory, ""), allow_writes)


def serve(
    user: str,
    in_fd: int,
    out_fd: int,
    directory: str | None,
    allow_writes: bool,
    client_timeout: float | None,
    request_timeout: float,
    prepared: ConnectionServer | None = None,
) -> None:
    """Serve one connection until the client closes it or stays idle too long.

    :param client_timeout: in seconds; None for Breezy's ``serve.client_timeout``.
    :param request_timeout: in seconds; see `PipeMedium`.
    :param prepared: by `prepare` from the same *directory* and *allow_writes*.
    :raises ConfigurationError: if *directory* cannot be served.
    """
    if prepared is None:
        server = ConnectionServer(root.find(directory, user), allow_writes)
    else:
        root.check(prepared.root)
        server = prepared
    try:
        server.serve(in_fd, out_fd, client_timeout, request_timeout)
    except BaseException:
        caught = False
        for hook in _mod_server.SmartTCPServer.hooks["server_exception"]:
            caught = hook(sys.exc_info())
        if not caught:
            raise
    finally:
        if prepared is None:
            server.tear_down()


def serve_and_report(user: str, in_fd: int, out_fd: int, **options: Any) -> int:
    """`serve`; an error becomes one line on standard error and the exit status.

    The traceback goes to the log.
    """
    try:
        serve(user, in_fd, out_fd, **options)
    except BaseException as error:
        return report_error(error)
    return OK


#: What is raised where nobody reads any more, or nobody writes.
GONE = (BrokenPipeError, ConnectionResetError)
#: Whether `report_error` has seen that: a worker has one connection.
client_gone = False


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """*error* and what it was raised in the handling of."""
    while error is not None:
        yield error
        error = error.__context__


def report_error(error: BaseException) -> int:
    """Tell of the exception that is being handled; the exit status for it."""
    global client_gone
    internal = getattr(error, "internal_error", True)
    # Of one that Breezy cannot print it makes a very long line.
    text = (" ".join(str(error).split()) or type(error).__name__)[:1000]
    remote = is_remote(os.environ)
    if any(isinstance(each, GONE) for each in _chain(error)):
        client_gone = True
        internal, text = False, "the client went away"
    elif isinstance(error, KeyboardInterrupt):
        internal, text = False, "interrupted"
    elif isinstance(error, MemoryError):
        internal, text = False, memorylimit.explain()
        # What it was needed for is still there, and a line needs some too.
        traceback.clear_frames(error.__traceback__)
    elif isinstance(error, LpserveError):
        internal, text = False, error.public if remote else text
    else:
        internal = internal and not isinstance(error, OSError)
        if remote:
            text = _without_paths(error)
        elif internal:
            text = f"{type(error).__name__}: {text} (the traceback is in brz.log)"
    if isinstance(error, (ClientError, MemoryError)):
        trace.mutter(text)
    else:
        trace.log_exception_quietly()
    with contextlib.suppress(OSError):  # the client may not be there to read it
        write_aside(f"lp-serve: {text}\n".encode("utf-8", "replace"), STDERR_PATIENCE)
    return INTERNAL_ERROR if internal else USER_ERROR


def _without_paths(error: BaseException) -> str:
    """*error* in words that cannot name a path of this host."""
    text = type(error).__name__
    if isinstance(error, OSError) and error.errno is not None:
        text = os.strerror(error.errno)
    return f"{text} (brz.log has more)"


def protect_protocol() -> None:
    """Keep ``print`` and ``input`` off the protocol: to stderr, from nothing."""
    # What plug-ins have printed so far is flushed when the stream is dropped.
    protocol = os.dup(1)
    os.dup2(2, 1)
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
    os.dup2(protocol, 1)
    os.close(protocol)
    sys.stderr = io.TextIOWrapper(
        StandardError(),
        encoding="utf-8",
        errors="backslashreplace",
        write_through=True,
    )
    sys.stdout = sys.__stdout__ = sys.__stderr__ = sys.stderr
    sys.stdin = sys.__stdin__ = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")


def silence_ui() -> None:
    """Have Breezy ask nothing and show nothing."""
    _mod_ui.ui_factory = _mod_ui.SilentUIFactory()
