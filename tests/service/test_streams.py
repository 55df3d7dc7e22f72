# SPDX-License-Identifier: GPL-2.0-or-later

"""Which worker makes which stream, with workers that only talk."""

import fcntl
import os
from types import SimpleNamespace

from ...lpserve import channel
from ...lpserve.service import streams
from ...lpserve.service.connection import Connection, Streamed, Worker
from ...lpserve.service.doors import Reply
from ...lpserve.service.streams import Streams
from .test_loop import LoopTestCase

ONE, TWO, THREE = ("1" * 64, "2" * 64, "3" * 64)


class StreamsTestCase(LoopTestCase):
    def setUp(self):
        super().setUp()
        self.path = os.path.join(self.test_dir, "streams")
        self.rules = True
        self.streams = Streams(self.loop, lambda: self.rules)
        self.addCleanup(self.streams.store.close)
        self.settings = SimpleNamespace(
            stream_cache=self.path,
            directory="/srv",
            stream_cache_size=1,
            stream_cache_occurrences=2,
            max_streams_at_once=0,
            for_worker=lambda: {"other": 1},
        )
        self.apply()

    def apply(self, **changed):
        vars(self.settings).update(changed)
        told = self.streams.for_worker(self.settings)
        self.streams.use(self.settings)
        return told

    def worker(self, pid, user="alice"):
        ours, theirs = channel.pair()
        for each in (ours, theirs):
            self.addCleanup(each.close)
            each.setblocking(False)
        worker = Worker(1, ours, pid)
        worker.connection = Connection(user, {}, Reply())
        worker.child = SimpleNamespace(pid=pid)
        worker.theirs = theirs
        return worker

    def say(self, worker, kind, key, **fields):
        self.streams.handle_message(worker, {"kind": kind, "key": key, **fields})

    def heard(self, worker, key=ONE):
        """The next message to *worker*, without what all have."""
        message, _ = channel.receive(worker.theirs)
        self.assertEqual(("stream", key), (message.pop("kind"), message.pop("key")))
        return message

    def ask(self, worker, key=ONE, again=False):
        self.say(worker, "stream-wanted", key, again=again)
        return self.heard(worker, key)

    def assertSilent(self, *workers):
        for each in workers:
            self.assertRaises(BlockingIOError, channel.receive, each.theirs)

    def make(self, worker, key=ONE, again=False):
        """Have *worker* told to make a stream; whether it is kept."""
        found = self.ask(worker, key, again)
        self.assertEqual("make", found["do"])
        self.assertTrue(0 < found["room"] <= 1 << 20)
        return found["keep"]

    def file(self, name):
        """A file that is being made; its path."""
        path = os.path.join(self.path, name)
        number = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        self.addCleanup(os.close, number)
        fcntl.flock(number, fcntl.LOCK_EX)
        os.write(number, b"12345")
        return path


class TestStreams(StreamsTestCase):
    def test_kept_at_the_second(self):
        one, two = self.worker(1), self.worker(2)
        self.assertFalse(self.make(one))
        self.say(one, "stream-made", ONE, size=0)
        self.assertTrue(self.make(two))
        self.file(ONE)
        self.say(two, "stream-made", ONE, size=5)
        for _ in range(2):
            self.say(one, "stream-used", ONE, size=5, how="kept")
        self.assertEqual(Streamed(1, 2, 0, 10), one.connection.streams)
        status = self.streams.status()
        names = ("kept", "bytes", "making", "hits", "misses", "bytes_served", "off")
        self.assertEqual([1, 5, 0, 2, 2, 10, ""], [status[name] for name in names])
        [kept] = self.streams.describe()["kept"]
        self.assertEqual((ONE, 5, 2), (kept["key"], kept["bytes"], kept["uses"]))

    def test_follow(self):
        """Who asks meanwhile follows; the first of them takes over when it dies."""
        maker, one, two, three = map(self.worker, range(1, 5))
        self.make(maker)
        for each in (one, two, three):
            self.assertEqual({"do": "follow", "pid": 1}, self.ask(each))
        temporary = self.file(f"{ONE}.1.tmp")
        [making] = self.streams.describe()["making"]
        self.assertEqual((1, 3), (making["pid"], making["followers"]))
        self.streams.ended(maker)
        self.assertFalse(os.path.exists(temporary))
        self.assertTrue(self.make(one, again=True))
        for each in (two, three):
            self.assertEqual({"do": "follow", "pid": 2}, self.ask(each, again=True))
        self.say(two, "stream-used", ONE, size=5, how="followed")
        self.assertEqual(Streamed(0, 0, 1, 0), two.connection.streams)
        self.assertEqual(1, self.streams.status()["followed"])

    def test_slow_maker(self):
        """Its followers make their own; others go on following."""
        maker, one, two = map(self.worker, range(1, 4))
        self.make(maker)
        self.ask(one)
        self.file(f"{ONE}.1.tmp")
        alone = {"do": "make", "keep": False, "room": 0}
        self.assertEqual(alone, self.ask(one, again=True))
        self.assertEqual({"do": "follow", "pid": 1}, self.ask(two))
        self.assertEqual(2, self.streams.status()["making"])

    def test_no_file(self):
        """A new maker may not have its file yet; one that never has is no maker."""
        maker, one, two = map(self.worker, range(1, 4))
        self.make(maker)
        for each in (one, two):
            self.ask(each)
        self.say(one, "stream-wanted", ONE, again=True)
        self.assertSilent(one)
        self.run_until(lambda: channel_has(one), "an answer")
        self.assertEqual({"do": "follow", "pid": 1}, self.heard(one))
        self.overrideAttr(streams, "YOUNG", 0.0)
        self.assertTrue(self.make(one, again=True))
        self.assertEqual({"do": "follow", "pid": 2}, self.ask(two, again=True))

    def test_not_heard_yet(self):
        """The maker is over, and another one has been found."""
        maker, one = self.worker(1), self.worker(2)
        self.make(maker)
        self.ask(one)
        self.say(one, "stream-wanted", ONE, again=True)
        self.say(maker, "stream-made", ONE, size=0)
        self.run_until(lambda: channel_has(one), "an answer")
        self.assertEqual({"do": "follow", "pid": 1}, self.heard(one))
        self.make(one, again=True)

    def test_just_kept(self):
        """It was published between the look for it and the question."""
        maker, one = self.worker(1), self.worker(2)
        self.make(maker)
        self.file(ONE)
        self.say(maker, "stream-made", ONE, size=5)
        self.assertEqual({"do": "follow", "pid": os.getpid()}, self.ask(one))
        self.make(one, again=True)
        # Others have kept it while this one has waited.
        self.say(one, "stream-used", ONE, size=5, how="kept")
        self.say(one, "stream-made", ONE, size=0)
        self.assertEqual(Streamed(0, 1, 0, 5), one.connection.streams)
        self.assertEqual(1, self.streams.counts["made"])

    def test_line(self):
        """A place goes to the user for whom the fewest are made."""
        self.apply(max_streams_at_once=2)
        alices = [self.worker(number) for number in range(1, 5)]
        bob, same = self.worker(5, "bob"), self.worker(6, "carol")
        keys = [f"{number:064x}" for number in range(4)]
        for each, key in zip(alices, keys, strict=True):
            self.ask(each, key)
        self.assertEqual({"do": "wait"}, self.ask(bob, TWO))
        self.assertEqual({"do": "wait"}, self.ask(same, TWO))
        self.assertSilent(*alices)
        self.say(alices[0], "stream-made", keys[0], size=0)
        self.assertEqual("make", self.heard(bob, TWO)["do"])
        self.assertEqual({"do": "follow", "pid": 5}, self.heard(same, TWO))
        self.streams.ended(alices[2])
        self.streams.ended(alices[1])
        self.assertEqual("make", self.heard(alices[3], keys[3])["do"])
        self.assertSilent(alices[2])
        status = self.streams.status()
        self.assertEqual((2, 0), (status["making"], status["waiting"]))
        late = self.worker(7)
        self.assertEqual({"do": "wait"}, self.ask(late, THREE))
        self.apply(max_streams_at_once=0)
        self.assertEqual("make", self.heard(late, THREE)["do"])

    def test_follower_does_not_wait(self):
        """Its client would, in the middle of a stream."""
        self.apply(max_streams_at_once=1)
        maker, one, two = map(self.worker, range(1, 4))
        self.make(maker)
        self.ask(one)
        self.ask(two, TWO)
        self.file(f"{ONE}.1.tmp")
        self.assertEqual("make", self.ask(one, again=True)["do"])
        self.streams.ended(maker)
        self.assertSilent(two)

    def test_full_channel(self):
        """Who waits is told later; who does not wait does without."""
        self.apply(max_streams_at_once=1)
        self.overrideAttr(streams, "TELL_AGAIN", 0.001)
        one, two, three = map(self.worker, range(1, 4))
        self.make(one)
        self.ask(two, TWO)
        fill(two)
        fill(three)
        self.say(three, "stream-wanted", THREE)
        self.assertEqual(1, self.streams.status()["waiting"])
        self.streams.ended(one)
        self.run_until(lambda: drain(two) == "stream", "two is told")
        drain(three)
        self.assertSilent(three)

    def test_gone(self):
        one = self.worker(1)
        one.theirs.close()
        self.say(one, "stream-wanted", ONE)
        self.streams.ended(one)
        self.streams.ended(one)
        self.assertEqual(0, self.streams.status()["making"])

    def test_rooms(self):
        """All that are made at once have no more than what is free."""
        free = 1 << 20
        self.overrideAttr(self.streams.store, "_free", lambda: free)
        rooms = [
            self.ask(self.worker(number), f"{number:064x}")["room"]
            for number in range(1, 5)
        ]
        self.assertGreaterEqual(free, sum(rooms))
        self.overrideAttr(self.streams.store, "_free", lambda: 10 * free)
        self.assertLess(0, self.ask(self.worker(9), THREE)["room"])

    def test_room(self):
        """Without it there is no file, and nothing to follow."""
        self.apply(stream_cache_size=0)
        for each in map(self.worker, range(1, 4)):
            alone = {"do": "make", "keep": False, "room": 0}
            self.assertEqual(alone, self.ask(each))

    def test_off(self):
        told = self.apply(stream_cache="off")
        self.assertEqual({"other": 1, "stream_directory": ""}, told)
        self.assertEqual(0, self.ask(self.worker(1))["room"])
        self.assertEqual("lpserve.stream_cache says so", self.streams.status()["off"])
        told = self.apply(stream_cache=self.path)
        self.assertEqual(self.path, told["stream_directory"])
        self.make(self.worker(2), TWO)

    def test_bounded(self):
        """Keys that were asked for long ago are forgotten."""
        self.overrideAttr(streams, "MOST_SEEN", 2)
        one = self.worker(1)
        for key, kept in ((ONE, 0), (TWO, 0), (ONE, 1), (THREE, 0), (TWO, 0), (ONE, 0)):
            self.assertEqual(bool(kept), self.make(one, key), key)

    def test_nonsense(self):
        """What a worker says may be anything."""
        one = self.worker(1)
        odds = (None, 1, "", "x" * 64, "../" + ONE, ONE + "\n", [], -1, 1 << 60, True)
        for odd in odds:
            for kind in ("stream-wanted", "stream-made", "stream-used"):
                self.say(one, kind, odd, size=5, how="kept")
        self.assertSilent(one)
        for odd in odds:
            self.say(one, "stream-used", ONE, size=odd, how=odd)
            self.say(one, "stream-made", ONE, size=odd)
            self.say(one, "stream-used", ONE, size=odd, how="kept")
        self.assertEqual(2, self.streams.status()["bytes_served"])
        self.assertEqual({}, self.streams.store.kept)

    def test_upgrade(self):
        """Who finishes connections keeps nothing more, and tells the successor."""
        self.rules = False
        one, two = self.worker(1), self.worker(2)
        for _ in range(3):
            self.assertFalse(self.make(one))
        self.assertEqual("follow", self.ask(two)["do"])
        self.file(TWO)
        self.streams.told({"kind": "stream-made", "key": TWO, "size": 5})
        told = {"kind": "stream-used", "key": TWO, "size": 5, "how": "kept"}
        self.streams.told(told)
        self.assertEqual(1, self.streams.status()["hits"])
        self.assertEqual([TWO], [*self.streams.store.kept])


def channel_has(worker):
    """Whether there is a message for *worker*."""
    try:
        return bool(worker.theirs.recv(1, 2))  # MSG_PEEK
    except BlockingIOError:
        return False


def fill(worker):
    try:
        while True:
            channel.send(worker.channel, "ping", text="x" * 1000)
    except BlockingIOError:
        pass


def drain(worker):
    """Read what there is for *worker*; the kind of the last message."""
    kind = None
    for message, _ in channel.receive_all(worker.theirs):
        kind = message["kind"]
    return kind
