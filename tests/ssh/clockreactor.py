# SPDX-License-Identifier: GPL-2.0-or-later

"""A reactor for tests: time passes when it is told, and events are counted."""

import select

from twisted.internet.task import Clock

from ..waiting import wait_until


class Reactor(Clock):
    """Does what is told, and nothing by itself.

    :ivar readers: by descriptor, what is watched.
    :ivar reads: how many events there were.
    """

    def __init__(self):
        super().__init__()
        self.readers = {}
        self.reads = 0

    def addReader(self, reader):
        self.readers[reader.fileno()] = reader

    def removeReader(self, reader):
        self.readers.pop(reader.fileno(), None)

    removeWriter = removeReader

    def turn(self):
        """Call the readers of what is readable now."""
        poller = select.poll()
        for descriptor in self.readers:
            poller.register(descriptor, select.POLLIN)
        for descriptor, _ in poller.poll(0):
            if descriptor in self.readers:
                self.reads += 1
                self.readers[descriptor].doRead()
        self.advance(0)

    def run_until(self, ready):
        """Turn until something is so, which is returned."""

        def turn():
            self.turn()
            return ready()

        return wait_until(turn, "the reactor has come to that")
