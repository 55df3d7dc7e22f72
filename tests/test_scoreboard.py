# SPDX-License-Identifier: GPL-2.0-or-later

"""What a worker writes about itself, and what a reader makes of it."""

import random

from breezy.tests import TestCase

from ..lpserve import scoreboard
from ..lpserve.scoreboard import (
    SIZE,
    Entry,
    Slot,
    decode,
    first_byte_of,
    take_snapshot,
)


class TestSlot(TestCase):
    def setUp(self):
        super().setUp()
        self.memory = bytearray(SIZE)
        self.slot = Slot(memoryview(self.memory), 7)

    def read(self, serial=7):
        return decode(take_snapshot(self.memory, serial))

    def test_connection(self):
        self.slot.begin()
        self.assertEqual(Entry(), self.read())
        numbers = self.slot.numbers
        numbers[scoreboard.BYTES_IN] += 5
        self.slot.request(b"hello", None)
        self.assertEqual(("busy", "hello", ""), self.now())
        numbers[scoreboard.BYTES_OUT] += 7
        numbers[scoreboard.FIRST_BYTE] = 1_500_000_000
        numbers[scoreboard.STATE] = scoreboard.WAITING
        self.slot.request(b"get", b"a/b\xc3\xa9")
        self.slot.request(b"get", b"/")
        self.assertEqual(("busy", "get", "/"), self.now())
        numbers[scoreboard.STATE] = scoreboard.WAITING
        found = self.read()
        self.assertEqual(("idle", 3, 5, 7), (found.state, *self.amounts(found)))
        self.assertEqual({"hello": 1, "get": 2}, found.verbs)
        self.assertEqual(["/a/bé", "/"], found.repositories)
        self.assertEqual(1.5, first_byte_of(take_snapshot(self.memory, 7)))
        self.slot.begin()  # another one, after a rehearsed one
        self.assertEqual(Entry(), self.read())

    def now(self):
        found = self.read()
        return found.state, found.verb, found.repository

    @staticmethod
    def amounts(found):
        return found.requests, found.bytes_in, found.bytes_out

    def test_of_another_worker(self):
        """A slot that was used before tells nothing until it is written anew."""
        self.slot.begin()
        self.slot.request(b"hello", None)
        self.assertEqual(Entry(), self.read(8))

    def test_more_than_there_is_room_for(self):
        """What has no place of its own is counted all the same."""
        self.slot.begin()
        for number in range(100):
            for _ in range(2):
                self.slot.request(b"%d-" % number * 99, b"%d" % number * 400)
        found = self.read()
        self.assertEqual(200, sum(found.verbs.values()))
        self.assertEqual(32, len(found.verbs))
        self.assertEqual(200 - 2 * 31, found.verbs["other"])
        self.assertEqual(6, len(found.repositories))
        self.assertTrue(all(len(each) <= 256 for each in found.repositories))

    def test_rubbish(self):
        """A worker that was taken over: whatever it writes can be shown."""
        chooser = random.Random(20261121)
        for _ in range(500):
            memory = bytearray(chooser.randbytes(SIZE))
            memory[:8] = (7).to_bytes(8, "little")
            found = decode(take_snapshot(memory, 7))
            texts = [found.verb, found.repository, *found.verbs, *found.repositories]
            for text in texts:
                self.assertTrue(text.isprintable(), repr(text))
                self.assertLessEqual(len(text), 256)
            self.assertIn(found.state, scoreboard.STATES)

    def test_being_written(self):
        """Who comes at the wrong moment looks again; not for ever."""
        self.slot.begin()
        self.slot.request(b"hello", None)
        before = bytes(self.memory)
        self.slot.request(b"get", b"a")
        half = bytearray(before)
        half[8], half[64:70] = 3, b"\5halfo"
        for times, verb in ((1, "get"), (100, "halfo")):
            found = take_snapshot(_Written(self.memory, half, times), 7)
            self.assertEqual(verb, decode(found).verb)


class _Written(bytearray):
    """A slot that is found half written the first *times*."""

    def __new__(cls, *words):
        return super().__new__(cls)

    def __init__(self, memory, half, times):
        super().__init__(memory)
        self.half, self.times = half, times

    def __getitem__(self, key):
        self.times -= 1
        return bytes(self.half) if self.times >= 0 else super().__getitem__(key)
