# SPDX-License-Identifier: GPL-2.0-or-later

"""The directory of kept streams, as the service sees it."""

import fcntl
import os
import time

from ...lpserve.service import streamstore
from ...lpserve.service.streamstore import StreamStore
from .test_loop import LoopTestCase


def key(number):
    return f"{number:064x}"


class StoreTestCase(LoopTestCase):
    """A store of at most 100 bytes.

    :ivar free: how many bytes of the disk there are for it.
    """

    def setUp(self):
        super().setUp()
        self.path = os.path.join(self.test_dir, "cache", "streams")
        self.free = 1000
        self.overrideAttr(StreamStore, "_free", lambda store: self.free)
        self.warnings = []
        for name in ("warning", "error"):
            self.overrideAttr(
                streamstore.log,
                name,
                lambda text, *of: self.warnings.append(text % of),
            )
        self.store = self.open()

    def open(self):
        store = StreamStore(self.loop)
        self.addCleanup(store.close)
        store.prepare(self.path, "/srv")
        store.limit = 100
        return store

    def read(self, limit=100):
        """Have the directory read."""
        self.store.use(limit)
        self.run_until(lambda: self.store._scan is None, "the directory is read")

    def put(self, name, size=10, age=0):
        path = os.path.join(self.path, name)
        with open(path, "wb") as file:
            file.write(bytes(size))
        os.utime(path, (time.time() - age,) * 2)
        return path

    def names(self):
        return sorted(os.listdir(self.path))


class TestPrepare(StoreTestCase):
    """A directory that only we can write to, or none; it is said once."""

    def test_made(self):
        for path in (self.path, os.path.dirname(self.path)):
            self.assertEqual(0o700, os.stat(path).st_mode & 0o777)
        self.assertEqual(self.path, self.store.path)
        self.assertEqual([], self.warnings)

    def test_unfit(self):
        served = os.path.join(self.test_dir, "served")
        os.mkdir(served)
        os.mkdir("open", 0o755)
        os.symlink(self.path, "link")
        with open("file", "w"):
            pass
        for path, why in (
            (os.path.join(served, "a", "b"), "is inside"),
            (os.path.abspath("open"), "is open to others (mode 0755)"),
            (os.path.abspath("link"), "is a symbolic link"),
            (os.path.abspath("file"), "is no directory"),
            (os.path.abspath("file/streams"), "exists"),
            ("/proc/streams", "/proc/streams: "),
        ):
            del self.warnings[:]
            for _ in range(2):
                self.assertEqual("", self.store.prepare(path, served), path)
            [line] = self.warnings
            self.assertContainsString(line.replace("Not a", "exists; not a"), why)
            self.assertEqual(0, self.store.room())
        self.assertFalse(os.path.exists(os.path.join(served, "a")))

    def test_off_and_on(self):
        self.put(key(1))
        self.read()
        self.assertEqual("", self.store.prepare("off", "/srv"))
        self.assertEqual((0, 0), (self.store.bytes, self.store.room()))
        self.assertEqual("", self.store.prepare(self.path, "/srv/%u"))
        self.assertEqual([], self.warnings)
        self.store.prepare(self.path, "/srv")
        self.read()
        self.assertEqual([key(1)], [*self.store.kept])


class TestContent(StoreTestCase):
    def test_read(self):
        """What is there is known by its last use; what is not ours stays."""
        self.overrideAttr(streamstore, "LOOKS", 2)
        for number, age in ((1, 10), (2, 30), (3, 20)):
            self.put(key(number), age=age)
        others = [self.put("README"), self.put("1" * 63)]
        os.symlink("README", os.path.join(self.path, key(4)))
        os.mkdir(os.path.join(self.path, key(5)))
        self.read()
        self.assertEqual([key(2), key(3), key(1)], [*self.store.kept])
        self.assertEqual(30, self.store.bytes)
        [line] = self.warnings
        self.assertContainsString(line, "has 4 entries that are no kept streams")
        self.overrideAttr(streamstore, "RESCAN", 0.0)
        os.unlink(os.path.join(self.path, key(2)))
        self.read(limit=5)
        self.run_until(lambda: not self.store.kept, "all are dropped")
        self.assertTrue(all(map(os.path.exists, others)))
        self.assertEqual(
            (4, 0, 1), (len(self.names()), self.store.bytes, len(self.warnings))
        )

    def test_stale(self):
        """What nobody is making any more is removed, and nothing else."""
        self.put(f"{key(1)}.7.tmp")
        made = self.put(f"{key(1)}.8.tmp")
        with open(made) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            self.read()
            self.assertEqual([f"{key(1)}.8.tmp"], self.names())
            self.assertTrue(self.store.is_being_made(key(1), 8))
            self.assertFalse(self.store.is_being_made(key(1), 7))
        self.assertFalse(self.store.is_being_made(key(1), 8))
        self.store.remove_temporary(key(1), 8)
        self.assertEqual([], self.names())

    def test_least_recently_used(self):
        """That one goes first; a use holds over a restart."""
        for number in range(1, 10):
            self.put(key(number), age=1000 - number)
        self.read()
        self.store.used(key(1))
        self.put(key(10), 31)
        self.store.made(key(10))
        expected = [key(5), key(6), key(7), key(8), key(9), key(1), key(10)]
        self.run_until(lambda: [*self.store.kept] == expected, "three are dropped")
        self.assertEqual(sorted(expected), self.names())
        self.assertEqual(91, self.store.bytes)
        self.store = self.open()
        self.read()
        self.assertEqual(set(expected[-2:]), {*list(self.store.kept)[-2:]})

    def test_unknown(self):
        """What another process has kept is known once it is used."""
        self.put(key(1))
        self.store.used(key(1))
        self.store.used(key(2))
        self.store.made(key(3))
        self.assertEqual(([key(1)], 10), ([*self.store.kept], self.store.bytes))

    def test_disk(self):
        """What stays free of the disk is freed."""
        for number in range(8):
            self.put(key(number), age=100 - number)
        self.read()
        self.free = 60
        self.assertEqual((60, 30), (self.store.room(), self.store.room(2)))
        self.free = -45
        self.assertEqual(0, self.store.room())
        self.store.check()
        self.store.check()
        self.run_until(lambda: len(self.store.kept) <= 3, "five are dropped")
        self.free = 0
        [line] = self.warnings
        self.assertContainsString(line, "the disk is nearly full")
        self.assertEqual([key(5), key(6), key(7)], self.names())

    def test_not_ours_to_drop(self):
        """Who finishes connections leaves that to the successor."""
        self.put(key(1), 200)
        self.store._rules = lambda: False
        self.read()
        self.assertEqual([key(1)], self.names())

    def test_drop_all(self):
        """Also while the directory is read."""
        for number in range(10):
            self.put(key(number))
        self.put("README")
        told = []
        self.store.use(1000)
        for _ in range(2):
            self.store.drop_all(lambda *of: told.append(of))
        self.run_until(lambda: len(told) == 2, "all are dropped")
        self.assertEqual([(10, 100)] * 2, told)
        self.assertEqual(
            (["README"], {}, 0), (self.names(), self.store.kept, self.store.bytes)
        )

    def test_vanished(self):
        """It is said once, and nothing breaks."""
        self.put(key(1))
        self.read()
        os.rename(self.path, self.path + ".aside")
        self.store.used(key(1))
        self.overrideAttr(streamstore, "RESCAN", 0.0)
        told = []
        for _ in range(2):
            self.read()
            self.store.drop_all(lambda *of: told.append(of))
        self.assertEqual(({}, [(0, 0)] * 2), (self.store.kept, told))
        [line] = self.warnings
        self.assertContainsString(line, f"{self.path}: No such file")

    def test_cannot_be_removed(self):
        self.put(key(1), 200)
        self.overrideAttr(streamstore.os, "unlink", self.refuse)
        self.read()
        self.store.check()
        [line] = self.warnings
        self.assertContainsString(line, "Permission denied")
        self.assertEqual([key(1)], self.names())

    def refuse(self, path):
        raise PermissionError(13, "Permission denied", path)


class TestFree(LoopTestCase):
    def test_free(self):
        """A part of the disk stays free."""
        store = StreamStore(self.loop)
        store.prepare(os.path.join(self.test_dir, "streams"), "/srv")
        found = os.statvfs(self.test_dir)
        disk = found.f_blocks * found.f_frsize
        kept = found.f_bavail * found.f_frsize - store._free()
        self.assertTrue(min(disk * 0.04, 1 << 29) < kept < (1 << 30) + (1 << 28), kept)
