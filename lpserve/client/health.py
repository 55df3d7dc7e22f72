# SPDX-License-Identifier: GPL-2.0-or-later

"""Ask for a worker and greet it, as a client would: ``lp-serve-control health``."""

import os
import select
import time

from ..location import HEALTH_USER
from .conversation import NoService
from .relay import wait
from .socketconversation import SocketConversation

#: Seconds that a worker has to answer.
PATIENCE = 1.0

#: A greeting in the first version of the smart protocol, and what answers it.
_HELLO, _ANSWER = b"hello\n", b"ok\x012\n"


def health_fault(directory, service_user=None, patience=PATIENCE):
    """Why no worker of the service in *directory* answers a greeting; None if one does.

    :param service_user: whose service is trusted beside our own and root's.
    :param patience: in seconds.
    """
    deadline = time.monotonic() + patience
    talk, ends = None, []
    try:
        talk = SocketConversation(directory, None, service_user)
        for _ in range(3):
            ends.extend(os.pipe())
        return _greet(talk, ends, deadline)
    except NoService as error:
        return str(error)
    except OSError as error:
        return f"cannot ask: {error.strerror}"
    finally:
        for end in ends:
            if end >= 0:
                os.close(end)
        if talk is not None:
            talk.close()


def _greet(talk, ends, deadline):
    """`health_fault` of a service that is there; closes those of *ends* that it sends.

    :param ends: three pipes, each as the descriptors of its read and write ends.
    """
    talk.send(["spawn", HEALTH_USER], deadline, stdio=(ends[0], ends[3], ends[5]))
    for number in (0, 3, 5):
        os.close(ends[number])
        ends[number] = -1
    answer = talk.wait_answer(deadline)
    if answer[0] != "ok":
        return " ".join(answer[2:]) or "the service gives a strange answer"
    try:
        os.write(ends[1], _HELLO)
    except BrokenPipeError:
        pass  # it says why it ended
    received = b""
    while len(received) < len(_ANSWER):
        left = deadline - time.monotonic()
        if left <= 0 or ends[2] not in wait({ends[2]: select.POLLIN}, left):
            return "a worker does not answer"
        data = os.read(ends[2], 4096)
        if not data:
            return _last_words(ends[4], deadline) or "a worker ended without an answer"
        received += data
    return None if received == _ANSWER else "a worker gives a strange answer"


def _last_words(descriptor, deadline):
    """What the worker has written to standard error, which it may hold open."""
    left = max(0, deadline - time.monotonic())
    if descriptor not in wait({descriptor: select.POLLIN}, left):
        return ""
    said = os.read(descriptor, 1024).decode("utf-8", "replace").strip()
    return said.removeprefix("lp-serve: ")
