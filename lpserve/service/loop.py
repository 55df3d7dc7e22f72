# SPDX-License-Identifier: GPL-2.0-or-later

"""The one loop of the service: descriptors, timers and signals."""

from __future__ import annotations

import heapq
import itertools
import os
import select
import signal
import time
from collections.abc import Callable

Callback = Callable[[], object]


#: Timers, cancelled ones included, that are kept without looking through them.
FEW = 64


def _noop() -> None:
    """What a cancelled timer calls back."""


class Timer:
    """A callback that is due at a time; see `Loop.call_later`."""

    __slots__ = ("callback", "cancelled", "due")

    def __init__(self, due: float, callback: Callback):
        self.due = due
        self.callback = callback
        self.cancelled = False

    def cancel(self) -> None:
        """Do not call it; harmless when it has been called."""
        self.cancelled = True
        self.callback = _noop  # what it knows need not wait until it is due


class Loop:
    """Calls back when descriptors are ready, timers due or signals received.

    A callback that raises does not end the loop: *failed* is called with the
    exception. Signal handlers do nothing: Python's C code writes the number to
    a descriptor that the loop watches, and the callback runs from there.
    """

    def __init__(self, failed: Callable[[Exception], None]):
        self._failed = failed
        # Not `selectors`: it makes objects for each event, and cannot watch for
        # a hang-up alone.
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callback] = {}
        self._timers: list[tuple[float, int, Timer]] = []
        self._room = FEW
        self._order = itertools.count()
        self._signals: dict[int, Callback] = {}
        self._wakeup, self._wakeup_writer = os.pipe()
        os.set_blocking(self._wakeup, False)
        os.set_blocking(self._wakeup_writer, False)
        self.watch(self._wakeup, self._wake)
        self._running = False

    def watch(self, descriptor: int, readable: Callback) -> None:
        """Call *readable* whenever *descriptor* can be read or has ended."""
        self._register(descriptor, select.EPOLLIN, readable)

    def watch_writable(self, descriptor: int, writable: Callback) -> None:
        """Call *writable* whenever *descriptor* can be written."""
        self._register(descriptor, select.EPOLLOUT, writable)

    def watch_hang_up(self, descriptor: int, gone: Callback) -> None:
        """Call *gone* when the other end of *descriptor* has closed it for good."""
        self._register(descriptor, 0, gone)  # EPOLLHUP is always told

    def _register(self, descriptor: int, events: int, callback: Callback) -> None:
        self._epoll.register(descriptor, events)
        self._callbacks[descriptor] = callback

    def forget(self, descriptor: int) -> None:
        """Stop watching *descriptor*; before it is closed."""
        del self._callbacks[descriptor]
        self._epoll.unregister(descriptor)

    def call_later(self, seconds: float, callback: Callback) -> Timer:
        """Call *callback* once, *seconds* from now."""
        if len(self._timers) >= self._room:
            self._sweep()
        timer = Timer(time.monotonic() + seconds, callback)
        heapq.heappush(self._timers, (timer.due, next(self._order), timer))
        return timer

    def _sweep(self) -> None:
        """Leave out the cancelled ones: most are, long before they are due."""
        self._timers = [each for each in self._timers if not each[2].cancelled]
        heapq.heapify(self._timers)
        self._room = max(FEW, 2 * len(self._timers))

    def on_signal(self, number: int, callback: Callback) -> None:
        """Call *callback* from the loop after signal *number*."""
        self._signals[number] = callback
        signal.set_wakeup_fd(self._wakeup_writer, warn_on_full_buffer=False)
        signal.signal(number, lambda number, frame: None)

    def run(self) -> None:
        """Run until `stop` is called."""
        self._running = True
        while self._running:
            ready = self._epoll.poll(self._timeout())
            for descriptor, callback in [
                (descriptor, self._callbacks[descriptor]) for descriptor, _ in ready
            ]:
                # An earlier callback of this round may have forgotten it.
                if self._callbacks.get(descriptor) is callback:
                    self.call(callback)
            self._run_timers()

    def stop(self) -> None:
        """Make `run` return after the callbacks of this round."""
        self._running = False

    def close(self) -> None:
        """Release the descriptors of the loop itself."""
        signal.set_wakeup_fd(-1)
        self._epoll.close()
        os.close(self._wakeup)
        os.close(self._wakeup_writer)

    def _timeout(self) -> float | None:
        while self._timers and self._timers[0][2].cancelled:
            heapq.heappop(self._timers)
        if not self._timers:
            return None
        return max(0.0, self._timers[0][0] - time.monotonic())

    def _run_timers(self) -> None:
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            timer = heapq.heappop(self._timers)[2]
            if not timer.cancelled:
                self.call(timer.callback)

    def _wake(self) -> None:
        for number in os.read(self._wakeup, 512):
            if number in self._signals:
                self.call(self._signals[number])

    def call(self, callback: Callback) -> None:
        """Call *callback*; what it raises is told, and does no other harm."""
        try:
            callback()
        except Exception as error:
            self._failed(error)
