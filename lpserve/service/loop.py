# SPDX-License-Identifier: GPL-2.0-or-later

"""The event loop of the service: epoll, timers and signals."""

from __future__ import annotations

import heapq
import itertools
import os
import select
import signal
import time
from collections.abc import Callable

Callback = Callable[[], object]


#: Timers, cancelled ones included, up to which the cancelled ones are not removed.
FEW = 64


def _noop() -> None:
    """The callback of a cancelled timer."""


class Timer:
    """A callback and the time at which it is due; see `Loop.call_later`."""

    __slots__ = ("callback", "cancelled", "due")

    def __init__(self, due: float, callback: Callback):
        self.due = due
        self.callback = callback
        self.cancelled = False

    def cancel(self) -> None:
        """Do not call the callback; no effect after it was called."""
        self.cancelled = True
        self.callback = _noop  # release what the callback refers to


class Loop:
    """Calls callbacks when descriptors are ready, timers due or signals received.

    A callback that raises does not end the loop: *failed* is called with the
    exception. Signal handlers do nothing. Python's C code writes the number of the
    signal to a pipe that the loop watches (`signal.set_wakeup_fd`), and the loop
    calls the callback.
    """

    def __init__(self, failed: Callable[[Exception], None]):
        self._failed = failed
        # Not `selectors`: it creates objects for each event, and cannot watch for a
        # hang-up alone.
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
        """Call *readable* whenever *descriptor* is readable or at its end."""
        self._register(descriptor, select.EPOLLIN, readable)

    def watch_writable(self, descriptor: int, writable: Callback) -> None:
        """Call *writable* whenever *descriptor* is writable."""
        self._register(descriptor, select.EPOLLOUT, writable)

    def watch_hang_up(self, descriptor: int, gone: Callback) -> None:
        """Call *gone* when the other end of *descriptor* is closed.

        That is EPOLLHUP, and EPOLLERR if we write to it.
        """
        self._register(descriptor, 0, gone)  # they are always reported

    def _register(self, descriptor: int, events: int, callback: Callback) -> None:
        self._epoll.register(descriptor, events)
        self._callbacks[descriptor] = callback

    def forget(self, descriptor: int) -> None:
        """Stop watching *descriptor*; to be called before it is closed."""
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
        """Remove cancelled timers; most are cancelled long before they are due."""
        self._timers = [each for each in self._timers if not each[2].cancelled]
        heapq.heapify(self._timers)
        self._room = max(FEW, 2 * len(self._timers))

    def on_signal(self, number: int, callback: Callback) -> None:
        """Call *callback* from the loop whenever signal *number* has arrived."""
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
                # An earlier callback of this iteration may have called `forget`.
                if self._callbacks.get(descriptor) is callback:
                    self.call(callback)
            self._run_timers()

    def stop(self) -> None:
        """Make `run` return after this iteration."""
        self._running = False

    def close(self) -> None:
        """Close the descriptors of the loop itself."""
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
        """Call *callback*; pass an exception that it raises to *failed*."""
        try:
            callback()
        except Exception as error:
            self._failed(error)
