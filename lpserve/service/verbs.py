# SPDX-License-Identifier: GPL-2.0-or-later

"""Carries out the verbs of the control protocol; see doc/protocol.txt."""

from __future__ import annotations

import json
import logging
import os
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from ..location import LPSERVE_USER
from ..wire import (
    BAD_REQUEST,
    DENIED,
    FAILED,
    OWNER_VERBS,
    STOPPING,
    Request,
    RequestError,
    encode_answer,
    encode_error,
)
from .accesswatch import AccessWatch
from .admission import Admission
from .connection import Connection
from .doors import Reply
from .drain import Drain
from .peers import describe_peer

if TYPE_CHECKING:
    from ..settings import Settings

log = logging.getLogger("lpserve")


class ServiceControl(Protocol):
    """What the verbs need of the service."""

    @property
    def stopping(self) -> bool:
        """Whether the service is stopping and accepts no connections."""

    @property
    def settings(self) -> Settings:
        """The current settings."""

    def reload(self, reply: Reply, asked_by: str) -> None:
        """Read configuration, plug-ins and code afresh; *reply* gets the answer."""

    def shutdown(self, now: bool, asked_by: str) -> None:
        """Stop, when running connections have finished or at once."""

    def status(self) -> dict[str, object]:
        """The answer to ``status``."""

    def reopen(self, asked_by: str) -> None:
        """Open the log anew."""

    def upgrade(self, reply: Reply, asked_by: str) -> None:
        """Have a new process serve; *reply* gets the answer."""


class Verbs:
    """Answers requests.

    :param totals: counts "requests".
    :param refused: counts refused requests, by the code of the error.
    :ivar others: functions that answer the verbs of other modules.
    """

    def __init__(
        self,
        life: ServiceControl,
        admission: Admission,
        drain: Drain,
        access: AccessWatch,
        version: str,
        totals: Counter[str],
        refused: Counter[str],
    ):
        self.others: dict[str, Callable[[Request, Reply], None]] = {}
        self._life = life
        self._admission = admission
        self._drain = drain
        self._version = version
        self._totals = totals
        self._refused = refused
        self._access = access

    def arrived(self, request: Request | RequestError, reply: Reply) -> None:
        """Answer *request*, or the error for an invalid one, by *reply*."""
        try:
            if isinstance(request, RequestError):
                raise request
            self._totals["requests"] += 1
            if request.verb in OWNER_VERBS and not reply.by_owner:
                raise RequestError(
                    DENIED, f"{request.verb} is for root and the service's own user"
                )
            answer = self.others.get(request.verb)
            (answer or getattr(self, "_do_" + request.verb))(request, reply)
        except RequestError as error:
            self._refused[error.code] += 1
            log.warning("refused: %s; %s", error, _asked(request, reply))
            reply.send(encode_error(error.code, error.text))
            reply.close()
        except Exception:
            # The text of the exception may name a path.
            reply.send(encode_error(FAILED, "a fault; the service's log has it"))
            reply.close()
            raise

    def _do_hello(self, request: Request, reply: Reply) -> None:
        reply.send(encode_answer("ok", "lpserve", self._version, f"pid={os.getpid()}"))
        reply.close()

    def _do_spawn(self, request: Request, reply: Reply) -> None:
        if self._life.stopping:
            raise RequestError(STOPPING, "the service is stopping")
        if not (reply.path or reply.attached):
            raise RequestError(BAD_REQUEST, "spawn needs reply=NAME")
        self._drain.check()
        for name in request.env:
            if name not in self._life.settings.environment or name == LPSERVE_USER:
                raise RequestError(DENIED, f"{name} is not in lpserve.environment")
        self._admission.ask(Connection(request.words[0], request.env, reply))

    def _do_status(self, request: Request, reply: Reply) -> None:
        reply.send(encode_answer("ok", json.dumps(self._life.status())))
        reply.close()

    def _do_reload(self, request: Request, reply: Reply) -> None:
        if self._life.stopping:
            raise RequestError(STOPPING, "the service is stopping")
        self._life.reload(reply, describe_peer(reply))

    def _do_upgrade(self, request: Request, reply: Reply) -> None:
        if self._life.stopping:
            raise RequestError(STOPPING, "the service is stopping")
        self._life.upgrade(reply, describe_peer(reply))

    def _do_drain(self, request: Request, reply: Reply) -> None:
        log.info("drain, asked for by %s", describe_peer(reply))
        self._drain.begin(" ".join(request.words).strip())
        reply.send(encode_answer("ok"))
        reply.close()

    def _do_resume(self, request: Request, reply: Reply) -> None:
        log.info("resume, asked for by %s", describe_peer(reply))
        self._drain.end()
        reply.send(encode_answer("ok"))
        reply.close()

    def _do_reopen(self, request: Request, reply: Reply) -> None:
        self._life.reopen(describe_peer(reply))
        reply.send(encode_answer("ok"))
        reply.close()

    def _do_access(self, request: Request, reply: Reply) -> None:
        try:
            answer = self._access.explain(*request.words)
        except ValueError as error:
            raise RequestError(FAILED, str(error)) from None
        reply.send(encode_answer("ok", *answer))
        reply.close()

    def _do_shutdown(self, request: Request, reply: Reply) -> None:
        asked_by = describe_peer(reply)
        reply.send(encode_answer("ok"))
        reply.close()
        self._life.shutdown(request.words == ("now",), asked_by)


def _asked(request: Request | RequestError, reply: Reply) -> str:
    """The request and the requester, for the log."""
    by = f"asked by {describe_peer(reply)}"
    if isinstance(request, RequestError):
        return by
    return f"{by} for {' '.join((request.verb, *request.words))}"
