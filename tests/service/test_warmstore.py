# SPDX-License-Identifier: GPL-2.0-or-later

"""What of the warm set outlives the service: descriptors that systemd passes back."""

import fcntl
import os

from breezy.tests import TestCaseInTempDir

from ...lpserve import system
from ...lpserve.service import warmstore
from ...lpserve.service.warmstore import WarmStore
from ...lpserve.systemd import Passed

SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


def memfd(data=b"data", seals=SEALS):
    """A descriptor of a file in memory, as loaders make it."""
    descriptor = os.memfd_create("test", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.write(descriptor, data)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    return descriptor


class Store:
    """Plays systemd: takes notes of what is kept."""

    def __init__(self):
        self.kept = {}

    def store(self, name, descriptor):
        if name in self.kept:
            raise AssertionError(name)
        self.kept[name] = descriptor

    def remove(self, name):
        self.kept.pop(name, None)

    def pass_back(self):
        """What the next service is passed."""
        return [Passed(name, memfd()) for name in self.kept]


class TestWarmStore(TestCaseInTempDir):
    def setUp(self):
        super().setUp()
        self.store = Store()
        self.before = system.open_descriptors()

    def make(self, passed=(), version="1"):
        return WarmStore("warm", version, self.store, passed)

    def take_back(self, passed, paths, version="1"):
        """What is taken back; descriptors are closed."""
        found = list(self.make(passed, version).take_back(paths))
        for each in found:
            os.close(each.descriptor)
        self.assertEqual(self.before, system.open_descriptors())
        return [(e.path, e.size, e.revisions, e.seconds) for e in found]

    def test_kept(self):
        """By names that systemd takes, and of each path what is newest."""
        made = self.make()
        for path in ("/a", "/b b:\u00e9", "/a", "/" + "c" * 4000):
            made.keep(path, 0, 12345, 1.5)
        made.forget("/b b:\u00e9")
        made.forget("/never")
        self.assertEqual(2, len(self.store.kept))
        for name in self.store.kept:
            self.assertContainsRe(name, r"^warm\.[0-9a-f.-]{1,200}$")

    def test_taken_back(self):
        made = self.make()
        for number, path in enumerate(("/a", "/b")):
            made.keep(path, 0, number, 0.5)
        found = self.take_back(self.store.pass_back(), ["/b", "/c", "/a"])
        self.assertEqual([("/a", 4, 0, 0.5), ("/b", 4, 1, 0.5)], found)
        self.assertEqual(2, len(self.store.kept))

    def test_once(self):
        made = self.make()
        made.keep("/a", 0, 1, 0.5)
        again = self.make(self.store.pass_back())
        (kept,) = again.take_back(["/a"])
        os.close(kept.descriptor)
        self.assertEqual([], list(again.take_back(["/a"])))
        again.keep("/a", 0, 2, 0.5)
        (name,) = self.store.kept
        self.assertContainsString(name, ".2.")

    def test_of_no_use(self):
        """Systemd is told to close what nobody knows."""
        made = self.make()
        made.keep("/a", 0, 1, 0.5)
        (name,) = self.store.kept
        for paths, version in ((["/b"], "1"), (["/a"], "2")):
            self.store.kept = {name: 0}
            self.assertEqual(
                [], self.take_back([Passed(name, memfd())], paths, version)
            )
            self.assertEqual({}, self.store.kept)
        self.store.kept = {"warm.rubbish": 0}
        self.assertEqual([], self.take_back([Passed("warm.rubbish", memfd())], ["/a"]))
        self.assertEqual({}, self.store.kept)

    def test_twice(self):
        """One is enough."""
        made = self.make()
        made.keep("/a", 0, 1, 0.5)
        back = self.store.pass_back() + self.store.pass_back()
        self.assertEqual(1, len(self.take_back(back, ["/a"])))

    def test_not_trusted(self):
        """What somebody could change, or made for us, is not looked at."""
        made = self.make()
        made.keep("/a", 0, 1, 0.5)
        (name,) = self.store.kept
        with open("file", "wb") as file:
            file.write(b"data")
        for make in (
            lambda: os.open("file", os.O_RDONLY),
            lambda: os.open("/dev/null", os.O_RDWR),
            lambda: memfd(seals=0),
            lambda: memfd(seals=SEALS & ~fcntl.F_SEAL_WRITE),
            lambda: memfd(seals=SEALS & ~fcntl.F_SEAL_SHRINK),
            lambda: memfd(b""),
        ):
            self.store.kept = {name: 0}
            self.assertEqual([], self.take_back([Passed(name, make())], ["/a"]))
            self.assertEqual({}, self.store.kept)

    def test_of_another_user(self):
        descriptor = memfd()
        self.addCleanup(os.close, descriptor)
        self.assertIs(None, warmstore.memory_fault(descriptor))
        self.overrideAttr(os, "geteuid", lambda: 4711)
        self.assertEqual("which belongs to uid 0", warmstore.memory_fault(descriptor))
