# SPDX-License-Identifier: GPL-2.0-or-later

"""Kept streams: tells workers which to make, whom to follow, and when to wait.

See `channel` for the messages. Workers go on without an answer, so all here is for
saving work, and nothing for being right: what a worker says may be wrong or late.
"""

from __future__ import annotations

import functools
import os
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from .. import channel
from .connection import Worker
from .loop import Loop
from .moments import time_of_day
from .streamfiles import is_key
from .streamstore import StreamStore
from .turns import count_down, next_in_line

#: The messages of workers that are about streams; the last two a successor is told.
WANTED, MADE, USED = KINDS = ("stream-wanted", "stream-made", "stream-used")
#: How a stream was used that was not made for it.
KEPT, FOLLOWED = ("kept", "followed")
#: Of how many keys is known how often they were asked for, those asked for last.
MOST_SEEN = 10_000
#: Seconds until a worker is told again what it had no room for.
TELL_AGAIN = 0.05
#: Seconds within which the file of a new maker may not be there yet, and until a
#: worker that asks for it meanwhile is answered: it waits for that.
YOUNG, ANSWER_LATER = 0.1, 0.002
#: The largest size that is believed.
_LARGEST = 1 << 50


@dataclass(eq=False)
class _Wish:
    """A stream that a worker makes, or waits to make.

    :ivar waited: whether the worker was told to wait.
    :ivar keep: whether it is to be kept.
    :ivar room: how many bytes it may have as a file; 0: it is no file.
    """

    worker: Worker
    key: str
    pid: int
    user: str
    since: float = field(default_factory=time.monotonic)
    waited: bool = False
    keep: bool = False
    room: int = 0

    def describe(self) -> dict[str, object]:
        """What ``streams`` answers of it."""
        return {
            "key": self.key,
            "pid": self.pid,
            "user": self.user,
            "seconds": round(time.monotonic() - self.since, 3),
        }


class Streams:
    """See the module.

    :param rules: tells whether this process serves new connections: no other one
        decides what is kept and dropped.
    :ivar store: the directory.
    :ivar counts: "kept", "followed" and "made" streams; "kept_bytes" and
        "followed_bytes".
    """

    def __init__(self, loop: Loop, rules: Callable[[], bool] = lambda: True):
        self.store = StreamStore(loop, rules)
        self.counts: Counter[str] = Counter()
        self._loop = loop
        self._rules = rules
        self._most = 0
        self._occurrences = 1
        self._seen: OrderedDict[str, int] = OrderedDict()
        self._making: dict[Worker, _Wish] = {}
        self._users: Counter[str] = Counter()
        # Those of them that others can read along.
        self._makers: dict[str, _Wish] = {}
        # In the order in which they came.
        self._line: dict[Worker, _Wish] = {}
        # Whom each was told to follow.
        self._follows: dict[Worker, _Wish] = {}

    def for_worker(self, settings: Any) -> dict[str, Any]:
        """`settings.Settings.for_worker`, with the directory, which is prepared.

        :param settings: a `settings.Settings`.
        """
        path = self.store.prepare(settings.stream_cache, settings.directory)
        return {**settings.for_worker(), "stream_directory": path}

    def use(self, settings: Any) -> None:
        """Have other sizes and limits from now on; see `for_worker`."""
        self._most = settings.max_streams_at_once
        self._occurrences = settings.stream_cache_occurrences
        self.store.use(settings.stream_cache_size << 20)
        self._go_on()

    # -- what workers say --------------------------------------------------------

    def handle_message(self, worker: Worker, message: dict[str, Any]) -> None:
        """Handle one of `KINDS`."""
        key = _key_of(message)
        if key is None or worker.connection is None or worker.child is None:
            return
        kind = message["kind"]
        if kind == WANTED:
            wish = _Wish(worker, key, worker.child.pid, worker.connection.user)
            self._wanted(wish, bool(message.get("again")))
            return
        if kind == USED:
            kept = message.get("how") == KEPT
            worker.connection.count_stream(
                kept=kept, followed=not kept, size=_size_of(message)
            )
        else:
            self._count_made(worker)
        self._leave(worker)
        self.told(message)
        self._go_on()

    def told(self, message: dict[str, Any]) -> None:
        """What a worker says of a stream; it may be one of another process."""
        key = _key_of(message)
        if key is None:
            return
        size = _size_of(message)
        how = message.get("how")
        if message["kind"] == MADE and size:
            self.store.made(key)
        elif message["kind"] == USED and how in (KEPT, FOLLOWED):
            self.counts[how] += 1
            self.counts[f"{how}_bytes"] += size
            if how == KEPT:
                self.store.used(key)

    def ended(self, worker: Worker) -> None:
        """A worker has ended, and with it what it was making."""
        wish = self._making.get(worker)
        if wish is not None:
            self._count_made(worker)
            self.store.remove_temporary(wish.key, wish.pid)
        if wish is not None or worker in self._line or worker in self._follows:
            self._leave(worker)
            self._go_on()

    def _count_made(self, worker: Worker) -> None:
        """*worker* has made what it was told to make, to the end or not."""
        if worker in self._making:
            self.counts["made"] += 1
            if worker.connection is not None:
                worker.connection.count_stream(made=True)

    def _wanted(self, wish: _Wish, again: bool) -> None:
        """A worker wants a stream that is not kept."""
        told = self._follows.get(wish.worker)
        self._leave(wish.worker)
        if not again:
            self._seen[wish.key] = self._seen.get(wish.key, 0) + 1
            self._seen.move_to_end(wish.key)
            if len(self._seen) > MOST_SEEN:
                self._seen.popitem(last=False)
        maker = self._makers.get(wish.key)
        if again and maker is not None and told in (maker, None):
            if self.store.is_being_made(wish.key, maker.pid):
                self._make(wish, alone=True)  # its maker is there, and too slow
                return
            if time.monotonic() - maker.since < YOUNG:
                self._follows[wish.worker] = maker
                again_told = functools.partial(self._follow_again, wish, maker)
                self._loop.call_later(ANSWER_LATER, again_told)
                return
            # We have not heard yet that it is over.
            del self._makers[wish.key]
            maker = None
        if maker is not None:
            self._follow(wish, maker)
        elif not again and wish.key in self.store.kept:
            # It was published since the worker has looked: where its maker would have
            # its file there is none, so the worker looks for the kept one again.
            self._tell(wish, do="follow", pid=os.getpid())
        elif again or self._has_place:
            # Who had begun does not wait: its client would.
            self._make(wish)
        elif self._tell(wish, do="wait"):
            wish.waited = True
            self._line[wish.worker] = wish

    @property
    def _has_place(self) -> bool:
        return not self._most or len(self._making) < self._most

    def _make(self, wish: _Wish, alone: bool = False) -> None:
        """Have *wish* made.

        :param alone: not as a file.
        """
        if not alone:
            promised = sum(each.room for each in self._making.values())
            wish.room = self.store.room(len(self._making) + 1, promised)
        seen = self._seen.get(wish.key, 0) >= self._occurrences
        wish.keep = seen and wish.room > 0 and self._rules()
        self._making[wish.worker] = wish
        self._users[wish.user] += 1
        self._tell(wish, do="make", keep=wish.keep, room=wish.room)
        if wish.room:
            self._makers[wish.key] = wish
            for each in [each for each in self._line.values() if each.key == wish.key]:
                del self._line[each.worker]
                self._follow(each, wish)

    def _follow_again(self, wish: _Wish, maker: _Wish) -> None:
        """Tell a worker again whom to follow; it asks once more if that is over."""
        if self._follows.get(wish.worker) is maker:
            self._follow(wish, self._makers.get(wish.key, maker))

    def _follow(self, wish: _Wish, maker: _Wish) -> None:
        self._follows[wish.worker] = maker
        self._tell(wish, do="follow", pid=maker.pid)

    def _leave(self, worker: Worker) -> None:
        """*worker* makes, follows and waits for nothing."""
        self._follows.pop(worker, None)
        self._line.pop(worker, None)
        wish = self._making.pop(worker, None)
        if wish is not None:
            count_down(self._users, wish.user)
            if self._makers.get(wish.key) is wish:
                del self._makers[wish.key]

    def _go_on(self) -> None:
        """Have those make theirs who wait, as long as there are places."""
        while self._line and self._has_place:
            wish = next_in_line(self._line.values(), self._users)
            assert wish is not None
            del self._line[wish.worker]
            self._make(wish)

    def _tell(self, wish: _Wish, **fields: Any) -> bool:
        """Answer a worker, which does without unless it waits; whether it is told."""
        try:
            channel.send(wish.worker.channel, "stream", key=wish.key, **fields)
        except BlockingIOError:
            if wish.waited:
                again = functools.partial(self._tell, wish, **fields)
                self._loop.call_later(TELL_AGAIN, again)
            return False
        except OSError:
            return False  # it has gone: `ended` follows
        return True

    # -- what is told of them ----------------------------------------------------

    def status(self) -> dict[str, object]:
        """What ``status`` says."""
        store = self.store
        return {
            "directory": store.path or None,
            "off": store.off,
            "fault": store.fault,
            "kept": len(store.kept),
            "bytes": store.bytes,
            "limit": store.limit,
            "making": len(self._making),
            "waiting": len(self._line),
            "hits": self.counts[KEPT],
            "misses": self.counts["made"],
            "followed": self.counts[FOLLOWED],
            "bytes_served": self.counts["kept_bytes"],
        }

    def metrics(self) -> dict[str, object]:
        """What ``metrics`` says."""
        return {
            "streams": {name: self.counts[name] for name in (KEPT, FOLLOWED, "made")},
            "stream_bytes": {
                name: self.counts[f"{name}_bytes"] for name in (KEPT, FOLLOWED)
            },
        }

    def describe(self) -> dict[str, list[dict[str, object]]]:
        """What ``streams`` says; the kept ones that were used last come first."""
        followers = Counter(self._follows.values())
        return {
            "kept": [
                {
                    "key": key,
                    "bytes": kept.size,
                    "last_used": time_of_day(kept.used),
                    "uses": kept.uses,
                }
                for key, kept in reversed(self.store.kept.items())
            ],
            "making": [
                {**each.describe(), "keep": each.keep, "followers": followers[each]}
                for each in self._making.values()
            ],
            "waiting": [each.describe() for each in self._line.values()],
        }


def _key_of(message: dict[str, Any]) -> str | None:
    key = message.get("key")
    return key if isinstance(key, str) and is_key(key) else None


def _size_of(message: dict[str, Any]) -> int:
    size = message.get("size")
    return size if isinstance(size, int) and 0 <= size <= _LARGEST else 0
