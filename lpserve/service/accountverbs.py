# SPDX-License-Identifier: GPL-2.0-or-later

"""The verbs about connections: who is there, who was there, and to end one."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Mapping

from ..wire import Request, encode_answer
from .accounts import Accounts
from .doors import Reply
from .ending import Ending
from .peers import describe_peer
from .pool import Pool
from .reloads import Reloads
from .streams import Streams
from .upgrades import Upgrades
from .zygotes import Zygotes

log = logging.getLogger("lpserve")

Answer = Callable[[Request, Reply], None]


class AccountVerbs:
    """Answers them; `verbs.Verbs` has seen to it that the owner asks.

    :param totals: counts of what has happened since the service started.
    :param refused: counts of refused requests, by the code of the error.
    :ivar by_verb: what answers each.
    """

    def __init__(
        self,
        accounts: Accounts,
        ending: Ending,
        pool: Pool,
        zygotes: Zygotes,
        reloads: Reloads,
        totals: Mapping[str, int],
        refused: Mapping[str, int],
        upgrades: Upgrades,
        streams: Streams,
    ):
        self._accounts = accounts
        self._ending = ending
        self._pool = pool
        self._zygotes = zygotes
        self._reloads = reloads
        self._totals = totals
        self._refused = refused
        self._upgrades = upgrades
        self._streams = streams
        self.by_verb: dict[str, Answer] = {
            "connections": self._tell_connections,
            "history": self._tell_history,
            "end": self._end,
            "metrics": self._tell_metrics,
            "streams": self._tell_streams,
        }

    def _tell_connections(self, request: Request, reply: Reply) -> None:
        running = self._accounts.running(self._pool.busy.values())

        def tell(answers: list[str]) -> None:
            for each in answers:
                running.extend(json.loads(each))
            _answer(reply, json.dumps(running, ensure_ascii=False))

        self._upgrades.ask(["connections"], tell)

    def _tell_history(self, request: Request, reply: Reply) -> None:
        most = int(request.words[0]) if request.words else None
        _answer(reply, self._accounts.history(most))

    def _end(self, request: Request, reply: Reply) -> None:
        who, now = request.words[0], request.words[1:] == ("now",)
        own = self._ending.end(who, now)
        asked_by = describe_peer(reply)

        def tell(answers: list[str]) -> None:
            count = own + sum(map(int, answers))
            asked = f"{who} now" if now else who
            log.info("end %s, asked for by %s: %d connections", asked, asked_by, count)
            _answer(reply, count)

        self._upgrades.ask(["end", *request.words], tell)

    def _tell_metrics(self, request: Request, reply: Reply) -> None:
        zygote = self._zygotes.present
        found = {
            **self._accounts.metrics(
                os.getpid(), zygote.pid if zygote else None, list(self._pool.busy)
            ),
            "reloads": {"done": self._reloads.done, "failed": self._reloads.failed},
            **self._streams.metrics(),
            "requests": self._totals.get("requests", 0),
            "faults": self._totals.get("faults", 0),
            "refused": dict(self._refused),
            "workers": self._pool.counts(),
            "generation": zygote.number if zygote else None,
        }
        _answer(reply, json.dumps(found))

    def _tell_streams(self, request: Request, reply: Reply) -> None:
        if request.words:
            asked_by = describe_peer(reply)

            def dropped(count: int, size: int) -> None:
                log.info(
                    "%d streams dropped (%d bytes), asked for by %s",
                    *(count, size, asked_by),
                )
                reply.send(encode_answer("ok", count, size))
                reply.close()

            self._streams.store.drop_all(dropped)
            return
        found = self._streams.describe()

        def tell(answers: list[str]) -> None:
            for each in answers:
                other = json.loads(each)
                for name in ("making", "waiting"):
                    found[name].extend(other[name])
            _answer(reply, json.dumps(found, ensure_ascii=False))

        self._upgrades.ask(["streams"], tell)


def _answer(reply: Reply, word: object) -> None:
    reply.send(encode_answer("ok", word))
    reply.close()
