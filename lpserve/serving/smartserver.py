# SPDX-License-Identifier: GPL-2.0-or-later

"""Serves one connection of the Bazaar smart protocol, and reports its errors.

Workers and ``brz lp-serve --inet`` use this.
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

from breezy import trace
from breezy import ui as _mod_ui
from breezy.bzr.smart import server as _mod_server

from .. import root
from ..access import UserRules
from ..accessfile import AccessFile
from ..errors import ClientError, LpserveError
from ..location import is_remote
from . import adaptation, memorylimit
from .containment import Containment
from .medium import PipeMedium
from .patience import STDERR_PATIENCE, StandardError, write_aside

#: Exit statuses of a connection, as those of ``brz``.
OK, USER_ERROR, INTERNAL_ERROR = 0, 3, 4


class ConnectionServer:
    """Serves connections as ``brz serve --inet`` does, with a `PipeMedium`.

    It is created without any access to files, so that a zygote can do that before there
    is a connection. It may serve more than one.

    :ivar root: the directory that it serves.
    """

    def __init__(self, root: str, allow_writes: bool):
        self.root = root
        self._containment = Containment(root, allow_writes)
        self.transport = self._containment.transport()

    def restrict(self, rules: UserRules) -> None:
        """Let the client do what *rules* say."""
        self._containment.restrict(rules)

    def tear_down(self) -> None:
        """Release its transports."""
        self._containment.close()

    def serve(
        self,
        in_fd: int,
        out_fd: int,
        timeout: float | None,
        patience: float,
        last: bool = False,
    ) -> None:
        """Serve one connection.

        :param timeout, patience: in seconds; see `PipeMedium`.
        :param last: whether the process ends after it: SIGHUP is ignored then.
        """
        medium = PipeMedium(in_fd, out_fd, self.transport, timeout, patience)
        if self._containment.permits is not None:
            medium.begin_request = self._containment.permits.begin_request
        before = adaptation.adapt()
        ui, handler = _mod_ui.ui_factory, None
        try:
            silence_ui()
            if hasattr(signal, "SIGHUP"):
                # The C function: `signal.signal` creates enum members.
                handler = _signal.signal(signal.SIGHUP, medium.hang_up)
            medium.serve()
        finally:
            _mod_ui.ui_factory = ui
            adaptation.restore(before)
            if handler is not None:
                _signal.signal(signal.SIGHUP, _signal.SIG_IGN if last else handler)


def prepare(directory: str | None, allow_writes: bool) -> ConnectionServer | None:
    """Prepare what does not depend on the user of a connection.

    :returns: a value for `serve`; None if *directory* depends on the user.
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
    last: bool = False,
    access: AccessFile | None = None,
) -> None:
    """Serve one connection, until the client closes it or is idle for too long.

    :param client_timeout: in seconds; None for Breezy's ``serve.client_timeout``.
    :param request_timeout: in seconds; see `PipeMedium`.
    :param prepared: the result of `prepare` for the same *directory* and
        *allow_writes*.
    :param last: see `ConnectionServer.serve`.
    :param access: the access rules; None: there are none.
    :raises ConfigurationError: if *directory* cannot be served, or *access* be used.
    """
    if prepared is None:
        server = ConnectionServer(root.find(directory, user), allow_writes)
    else:
        root.check(prepared.root)
        server = prepared
    try:
        if access is not None:
            server.restrict(access.current().for_user(user))
        server.serve(in_fd, out_fd, client_timeout, request_timeout, last)
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
    """Call `serve`, and report an error with `report_error`; the exit status."""
    try:
        serve(user, in_fd, out_fd, **options)
    except BaseException as error:
        return report_error(error)
    return OK


#: What a read or write raises after the client has disconnected.
GONE = (BrokenPipeError, ConnectionResetError)
#: Whether `report_error` has reported one of them.
client_gone = False


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """*error* and the exceptions in whose handlers it was raised."""
    while error is not None:
        yield error
        error = error.__context__


def report_error(error: BaseException) -> int:
    """Report the exception that is being handled; the exit status for it.

    Standard error gets one line, and brz.log the traceback.
    """
    global client_gone
    internal = getattr(error, "internal_error", True)
    # The text of an exception that Breezy cannot format is very long.
    text = (" ".join(str(error).split()) or type(error).__name__)[:1000]
    remote = is_remote(os.environ)
    if any(isinstance(each, GONE) for each in _chain(error)):
        client_gone = True
        internal, text = False, "the client went away"
    elif isinstance(error, KeyboardInterrupt):
        internal, text = False, "interrupted"
    elif isinstance(error, MemoryError):
        internal, text = False, memorylimit.explain()
        # Release memory, which the report needs.
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
    with contextlib.suppress(OSError):  # the client may have gone
        write_aside(f"lp-serve: {text}\n".encode("utf-8", "replace"), STDERR_PATIENCE)
    return INTERNAL_ERROR if internal else USER_ERROR


def _without_paths(error: BaseException) -> str:
    """A text for *error* that names no path of this host."""
    text = type(error).__name__
    if isinstance(error, OSError) and error.errno is not None:
        text = os.strerror(error.errno)
    return f"{text} (brz.log has more)"


def redirect_output() -> None:
    """Keep ``print`` and ``input`` away from the protocol: to stderr, from nothing."""
    # The old stream may have output of plug-ins in its buffer, which goes to stderr.
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
    """Give Breezy a user interface without input and output."""
    _mod_ui.ui_factory = _mod_ui.SilentUIFactory()
