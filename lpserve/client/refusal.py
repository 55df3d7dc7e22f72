# SPDX-License-Identifier: GPL-2.0-or-later

"""Answers the first request of a connection that is refused.

Breezy adds an error of its own, and the advice to report a bug, to what a server
writes to standard error before it closes a connection. An answer of the smart
protocol it shows as its one line.

Part of the stand-alone client: imports the standard library only (see ``client.py``).
"""

import os
import select
import time

from .relay import wait, writer

#: Seconds for the request to arrive and for the answer to be written.
SECONDS = 2.0
#: The longest request that is answered, in bytes.
LONGEST = 4096
#: The most bytes of the text, so that a pipe takes the whole answer (PIPE_BUF).
_LONGEST_TEXT = 2048
#: What messages of version 3 of the smart protocol begin with.
_MARKER = b"bzr message 3 (bzr 1.6)\n"
#: The error that Breezy shows, wherever it occurs, as "Cannot lock PLACE: TEXT".
_ERROR, _PLACE = b"LockFailed", b"a place on the server"


def is_request(data):
    """Whether *data*, the first bytes of a client, contain a request of version 3.

    :returns: None if more bytes have to arrive to tell.
    """
    if not data.startswith(_MARKER):
        return None if _MARKER.startswith(data) else False
    more = None if len(data) < LONGEST else False
    # The headers are a part without a kind.
    at, kind = len(_MARKER), b"s"
    while kind != b"e":
        if kind == b"o":
            at += 1
        elif kind in (b"s", b"b"):
            size = data[at : at + 4]
            if len(size) < 4:
                return more
            at += 4 + int.from_bytes(size, "big")
        else:
            return False
        if at >= LONGEST:
            return False
        if at >= len(data):
            return more
        kind = data[at : at + 1]
        at += 1
    return True


def error_response(text):
    """The answer of version 3 that has Breezy show *text*; at most PIPE_BUF bytes."""
    line = text.encode("utf-8", "replace")[:_LONGEST_TEXT]
    line = line.decode("utf-8", "ignore").encode("utf-8")
    words = b"".join(b"%d:%s" % (len(each), each) for each in (_ERROR, _PLACE, line))
    return _MARKER + _part(b"de") + b"oEs" + _part(b"l" + words + b"e") + b"e"


def _part(data):
    return len(data).to_bytes(4, "big") + data


def answer(text, signals):
    """Answer the request on standard input with an error that has *text*.

    No other process may use our stdio. A terminal is not answered.

    :param signals: a `relay.ForwardedSignals` that ends the waiting.
    :returns: whether it is answered; if not, standard error has to tell.
    """
    if os.isatty(0) or os.isatty(1):
        return False
    deadline = time.monotonic() + SECONDS
    data, found = b"", None
    try:
        while found is None:
            if not _is_ready(0, select.POLLIN, signals, deadline):
                return False
            received = os.read(0, LONGEST)
            data += received
            found = is_request(data) if received else False
        if not found or not _is_ready(1, select.POLLOUT, signals, deadline):
            return False
        response = error_response(text)
        return writer(1)(response) == len(response)
    except OSError:
        return False


def _is_ready(descriptor, events, signals, deadline):
    """Wait until *descriptor* is ready; False at the *deadline* or after a signal."""
    wanted = {descriptor: events, signals.descriptor: select.POLLIN}
    return descriptor in wait(wanted, deadline - time.monotonic())
