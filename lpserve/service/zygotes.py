# SPDX-License-Identifier: GPL-2.0-or-later

"""Keeps one zygote running: starts, restarts and replaces it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Protocol

from ..errors import ZygoteError
from .children import Children
from .generation import Generation, LaunchSpec
from .loop import Loop, Timer

log = logging.getLogger("lpserve")

#: Seconds until a zygote that has ended is replaced. The pause doubles up to the
#: second number, until a zygote has forked.
RESTART_AFTER, RESTART_AT_MOST = 0.1, 30.0
#: The same for a zygote whose rehearsal failed; it works, but its workers are slower.
REHEARSE_AFTER, REHEARSE_AT_MOST = 60.0, 3600.0
#: The least seconds between two replacements of an outdated zygote.
RENEW_AFTER = 60.0


class ZygoteObserver(Protocol):
    """Receives the events of `Zygotes`."""

    def zygote_ready(self, new: Generation, old: Generation | None) -> None:
        """*new* is in use now, in place of *old*, if there was one."""

    def zygote_lost(self, generation: Generation) -> None:
        """The zygote in use has ended unexpectedly."""

    def zygote_failed(self, why: str) -> None:
        """A zygote that was started has failed before it was ready."""

    def zygote_ended(self) -> None:
        """A zygote has ended, in any state and for any reason."""

    def forked(self, serial: int, pid: int) -> None:
        """See `generation.GenerationObserver`."""

    def fork_failed(self, serial: int, why: str) -> None:
        """See `generation.GenerationObserver`."""


class Zygotes:
    """Keeps one zygote running.

    :param launch: returns how to start a zygote.
    :param wanted: returns whether there should be a zygote.
    :param careful: whether the rehearsal of the first zygote must succeed.
    :ivar present: the generation in use, or None.
    :ivar successor: the generation that is getting ready, or None.
    """

    def __init__(
        self,
        loop: Loop,
        children: Children,
        launch: Callable[[], LaunchSpec],
        keeper: ZygoteObserver,
        wanted: Callable[[], object],
        careful: bool = False,
    ):
        self.present: Generation | None = None
        self.successor: Generation | None = None
        self._loop = loop
        self._children = children
        self._launch = launch
        self._keeper = keeper
        self._wanted = wanted
        self._careful = careful
        self._urgent = False
        self._started = 0
        self._restart_after = RESTART_AFTER
        self._rehearse_after = REHEARSE_AFTER
        self._rehearsal: Timer | None = None
        self._renewed = -RENEW_AFTER
        self._logged: set[str] = set()

    def replace(self, urgent: bool = False) -> None:
        """Start a successor, unless one is starting already.

        :param urgent: use it even if its rehearsal fails and that of the present one
            did not.
        """
        if self.successor is not None or not self._wanted():
            return
        self._urgent = urgent
        self._started += 1
        try:
            self.successor = Generation(
                self._started, self._loop, self._children, self._launch(), self
            )
        except (ZygoteError, OSError) as error:
            self._failed(str(error))

    def ping(self) -> None:
        """Ping the present zygote."""
        if self.present is not None:
            self.present.ping()

    def rehearsal(self) -> dict[str, object] | None:
        """Why the rehearsal of the present zygote failed, and seconds until a retry.

        None if it has not failed.
        """
        if self.present is None or not self.present.unrehearsed:
            return None
        due = self._rehearsal.due if self._rehearsal else 0.0
        retry = max(0.0, due - time.monotonic())
        return {"why": self.present.unrehearsed, "retry": round(retry, 3)}

    def retire(self) -> None:
        """Retire the present zygote and kill its successor; there is to be no other."""
        self._wanted = lambda: False
        if self.present is not None:
            self.present.retire()
        if self.successor is not None:
            self.successor.kill("the service is stopping")

    def zygote_ready(self, generation: Generation) -> None:
        """See `generation.GenerationObserver`."""
        if generation.unrehearsed and self._needs_rehearsal():
            generation.kill(f"its rehearsal failed: {generation.unrehearsed}")
            return  # `zygote_ended` follows
        self._careful = False
        old, self.present, self.successor = self.present, generation, None
        self._log_once(generation)
        log.info(
            "generation %d is ready (zygote %d, %d modules)",
            generation.number,
            generation.pid,
            generation.modules,
        )
        if old is not None:
            old.retire()
        if generation.unrehearsed:
            log.error(
                "the rehearsal of generation %d failed, so that connections take "
                "longer: %s; trying again in %.0f s",
                generation.number,
                generation.unrehearsed,
                self._rehearse_after,
            )
            self._rehearse_later()
        else:
            self._rehearse_after = REHEARSE_AFTER
            self._cancel_rehearsal()
        self._keeper.zygote_ready(generation, old)

    def _needs_rehearsal(self) -> bool:
        """Whether what serves now is better than a zygote whose rehearsal failed.

        Connections to that one would probably fail as well: of the code that has
        changed, something is missing, or it does not go together.
        """
        if self.present is None:
            return self._careful
        return not (self.present.unrehearsed or self._urgent)

    def _log_once(self, generation: Generation) -> None:
        lines = list(generation.warnings)
        if why := generation.sandbox["why"]:
            lines.append(f"the sandbox (lpserve.sandbox) is off: {why}")
        for line in lines:
            if line not in self._logged:
                self._logged.add(line)
                log.warning("%s", line)

    def zygote_outdated(self, generation: Generation, why: str) -> None:
        """See `generation.GenerationObserver`."""
        now = time.monotonic()
        if generation is not self.present or self.successor is not None:
            return
        if now - self._renewed >= RENEW_AFTER:
            self._renewed = now
            log.info("%s; starting another zygote", why)
            self.replace(urgent=True)

    def zygote_ended(self, generation: Generation, why: str) -> None:
        """See `generation.GenerationObserver`."""
        if generation is self.successor:
            self.successor = None
            if self._wanted():
                self._failed(why)
        elif generation is self.present:
            self.present = None
            self._keeper.zygote_lost(generation)
            if self._wanted():
                log.error("the zygote has ended: %s; starting another", why)
                self._restart_later()
        self._keeper.zygote_ended()

    def forked(self, serial: int, pid: int) -> None:
        """See `generation.GenerationObserver`."""
        self._restart_after = RESTART_AFTER
        self._keeper.forked(serial, pid)

    def fork_failed(self, serial: int, why: str) -> None:
        """See `generation.GenerationObserver`."""
        self._keeper.fork_failed(serial, why)

    def _failed(self, why: str) -> None:
        log.error("generation %d failed: %s", self._started, why)
        self._keeper.zygote_failed(why)
        if self.present is None:
            self._restart_later()
        elif self.present.unrehearsed and self._rehearsal is None:
            self._rehearse_later()

    def _restart_later(self) -> None:
        self._loop.call_later(self._restart_after, self._restart)
        self._restart_after = min(self._restart_after * 2, RESTART_AT_MOST)

    def _restart(self) -> None:
        if self.present is None:
            self.replace()

    def _rehearse_later(self) -> None:
        self._cancel_rehearsal()
        self._rehearsal = self._loop.call_later(self._rehearse_after, self._rehearse)
        self._rehearse_after = min(self._rehearse_after * 2, REHEARSE_AT_MOST)

    def _rehearse(self) -> None:
        self._rehearsal = None
        self.replace()

    def _cancel_rehearsal(self) -> None:
        if self._rehearsal is not None:
            self._rehearsal.cancel()
            self._rehearsal = None
