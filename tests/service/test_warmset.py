# SPDX-License-Identifier: GPL-2.0-or-later

"""Which repositories are kept. The test sets the clock."""

import json

from breezy.tests import TestCase

from ...lpserve.channel import COLD, HIT, STALE
from ...lpserve.service import warmset
from ...lpserve.service.warmset import WarmSet, is_path


class WarmSetCase(TestCase):
    def setUp(self):
        super().setUp()
        self.now = 1000.0
        self.set = self.new_set()

    def new_set(self):
        made = WarmSet(lambda: self.now)
        made.resize(2, 100)
        return made

    def use(self, *paths, outcome=COLD):
        for path in paths:
            self.set.used(path, outcome)
            self.now += 1

    def load(self, size=10):
        """Load what is wanted next; its path, whether it is kept, what is not."""
        entry = self.set.next_wanted()
        self.set.begin(entry)
        return (entry.path, *self.set.loaded(entry.path, size, 7, 0.5))

    def wanted(self):
        entry = self.set.next_wanted()
        return entry and entry.path

    def states(self):
        return {each["path"]: each["state"] for each in self.set.describe()}


class TestUse(WarmSetCase):
    def test_loaded_once(self):
        self.use("/a")
        self.assertEqual("/a", self.wanted())
        self.assertEqual(("/a", True, []), self.load())
        self.assertIs(None, self.wanted())
        self.use("/a", outcome=HIT)
        self.assertIs(None, self.wanted())
        found = self.set.describe()[0]
        self.assertEqual((2, 1), (found["uses"], found["hits"]))

    def test_loaded_again(self):
        """A repository that has changed, as its users report."""
        for outcome in (STALE, COLD):
            self.use("/a")
            self.load()
            self.use("/a", outcome=outcome)
            self.assertEqual("/a", self.wanted())

    def test_used_while_it_is_loaded(self):
        """A repository used meanwhile may be newer than what was loaded."""
        self.use("/a")
        self.set.begin(self.set.next_wanted())
        self.assertIs(None, self.wanted())
        self.use("/a", outcome=STALE)
        self.set.loaded("/a", 10, 7, 0.5)
        self.assertEqual("/a", self.wanted())

    def test_newest_first(self):
        self.use("/a", "/b", "/a")
        self.assertEqual("/a", self.wanted())
        self.assertEqual("/b", self.set.next_wanted({"/a"}).path)
        self.assertIs(None, self.set.next_wanted({"/a", "/b"}))

    def test_only_so_many(self):
        self.use("/a", "/b", "/c")
        self.assertEqual("/c", self.load()[0])
        self.assertEqual("/b", self.load()[0])
        self.assertIs(None, self.wanted())
        self.use("/a")
        self.assertEqual(("/a", True, ["/b"]), self.load())
        self.assertEqual({"/a": "warm", "/c": "warm", "/b": "cold"}, self.states())

    def test_forgotten(self):
        """Of many paths few are remembered, and those that are in memory."""
        self.use("/a")
        self.load()
        self.use(*(f"/{number}" for number in range(100)))
        self.assertEqual(2 * warmset.REMEMBERED, len(self.states()))
        self.assertEqual("warm", self.states()["/a"])

    def test_off(self):
        """With no repositories, or no memory, nothing is kept or loaded."""
        for limits in ((0, 100), (2, 0)):
            self.set = self.new_set()
            self.use("/a")
            self.load()
            self.assertEqual(["/a"], self.set.resize(*limits))
            self.assertIs(None, self.set.used("/a", COLD))
            self.assertIs(None, self.wanted())


class TestMemory(WarmSetCase):
    def test_room(self):
        self.use("/a")
        self.load(60)
        self.use("/b")
        self.assertEqual(("/b", True, ["/a"]), self.load(60))
        self.assertEqual(60, self.set.size)

    def test_not_loaded_again_at_once(self):
        """A repository that made room is wanted again when it is used."""
        self.test_room()
        self.assertIs(None, self.wanted())
        self.use("/a")
        self.assertEqual("/a", self.wanted())

    def test_gone(self):
        """FAULT 66: a missing repository is forgotten until it is used again."""
        self.use("/a", "/b")
        self.load()
        self.load()
        self.use("/b")
        self.assertTrue(self.set.mark_missing("/b"))
        self.assertFalse(self.set.mark_missing("/b"))
        self.assertEqual({"/a": "warm"}, self.states())
        self.assertEqual(10, self.set.size)
        self.assertIs(None, self.wanted())
        self.use("/b")
        self.assertEqual("/b", self.wanted())

    def test_gone_although_preloaded(self):
        """A preloaded one is put aside; that it is missing is new once."""
        self.set.preload(["/a"])
        self.assertTrue(self.set.mark_missing("/a"))
        self.assertFalse(self.set.mark_missing("/a"))
        self.assertEqual({"/a": "aside"}, self.states())
        self.assertEqual(2 * warmset.ASIDE, self.set.next_retry())

    def test_too_large(self):
        self.use("/a")
        self.assertEqual(("/a", False, []), self.load(101))
        self.assertEqual({"/a": "aside"}, self.states())
        self.assertEqual(0, self.set.size)
        self.assertEqual([], self.set.resize(2, 90))
        self.assertIs(None, self.wanted())
        self.set.resize(2, 101)
        self.assertEqual(("/a", True, []), self.load(101))

    def test_no_longer_fits(self):
        """What was kept of a repository that grew too large is dropped."""
        self.use("/a")
        self.load(90)
        self.use("/a", outcome=STALE)
        self.assertEqual(("/a", False, []), self.load(101))
        self.assertEqual(0, self.set.size)

    def test_grows(self):
        """What was kept of a repository that grew is replaced, and does not count."""
        self.use("/a", "/b")
        self.load(40)
        self.load(40)
        self.use("/a", outcome=STALE)
        self.assertEqual(("/a", True, []), self.load(60))
        self.use("/a", outcome=STALE)
        self.assertEqual(("/a", True, ["/b"]), self.load(61))

    def test_less(self):
        self.use("/a", "/b")
        self.load(40)
        self.load(40)
        self.assertEqual(["/a"], self.set.resize(2, 50))
        self.assertEqual(["/b"], self.set.resize(2, 0))


class TestAside(WarmSetCase):
    def fail_once(self, path="/a"):
        self.set.begin(self.set.next_wanted())
        return self.set.failed(path, "no such luck")

    def test_growing(self):
        self.use("/a")
        for seconds in (60.0, 120.0, 240.0):
            self.assertEqual(seconds, self.fail_once())
            found = self.set.describe()[0]
            self.assertEqual(("aside", "no such luck"), (found["state"], found["why"]))
            self.assertEqual(seconds, found["retry"])
            self.use("/a")
            self.assertIs(None, self.wanted())
            self.assertEqual(seconds - 1, self.set.next_retry())
            self.now += seconds
        for _ in range(2000):
            seconds = self.fail_once()
            self.now += seconds
        self.assertEqual(warmset.ASIDE_AT_MOST, seconds)

    def test_good_again(self):
        self.use("/a")
        self.fail_once()
        self.now += 60
        self.load()
        self.assertEqual({"/a": "warm"}, self.states())
        self.use("/a")
        self.assertEqual(60.0, self.fail_once())

    def test_interrupted(self):
        """A repository whose loader was never forked is not put aside."""
        self.use("/a")
        self.set.begin(self.set.next_wanted())
        self.set.postpone("/a")
        self.assertEqual("/a", self.wanted())

    def test_forgotten_meanwhile(self):
        for path in ("/a", "/b"):
            self.assertEqual((False, []), self.set.loaded(path, 1, 1, 0.1))
            self.assertEqual(0.0, self.set.failed(path, "no"))
            self.set.postpone(path)
        self.assertIs(None, self.set.next_retry())


class TestDescribe(WarmSetCase):
    def test_not_all(self):
        """What does not fit into an answer is left out."""
        self.set.resize(1000, 1 << 30)
        self.use(*(f"/{number:04000d}" for number in range(100)))
        found = self.set.describe()
        self.assertTrue(len(json.dumps(found)) < 50_000)
        self.assertTrue(len(found) >= 5)
        self.assertTrue(found[0]["path"].endswith("99"))


class TestPreload(WarmSetCase):
    def test_stays(self):
        """A preloaded repository is wanted unused, and stays among others."""
        self.set.preload(["/p"])
        self.assertEqual(("/p", True, []), self.load())
        for path in ("/a", "/b", "/c"):
            self.use(path)
            self.load()
        self.assertEqual("warm", self.states()["/p"])
        self.assertEqual("cold", self.states()["/b"])

    def test_comes_back(self):
        """It is wanted when there is room again."""
        self.set.preload(["/p"])
        self.load()
        self.assertEqual(["/p"], self.set.resize(0, 100))
        self.set.resize(2, 100)
        self.set.preload(["/p"])
        self.assertEqual("/p", self.wanted())

    def test_not_any_more(self):
        self.set.preload(["/p"])
        self.load()
        self.set.preload([])
        for path in ("/a", "/b"):
            self.use(path)
            self.load()
        self.assertEqual("cold", self.states()["/p"])


class TestRestore(WarmSetCase):
    def test_order(self):
        self.use("/a", "/b", "/a")
        text = self.set.dump()
        self.assertEqual(["/a", "/b"], json.loads(text))
        self.set = self.new_set()
        self.set.restore(text)
        self.assertEqual("/a", self.load()[0])
        self.assertEqual("/b", self.load()[0])
        self.assertEqual(text, self.set.dump())

    def test_before_the_limits(self):
        """It is read before the settings are."""
        self.use("/a")
        self.set, text = WarmSet(lambda: self.now), self.set.dump()
        self.set.restore(text)
        self.assertIs(None, self.wanted())
        self.set.resize(2, 100)
        self.assertEqual("/a", self.wanted())

    def test_not_what_nobody_used(self):
        self.set.preload(["/p"])
        self.assertEqual("[]", self.set.dump())

    def test_rubbish(self):
        for text in (
            "",
            "x",
            "{}",
            "7",
            '[1, null, [], {}, "a", "/\\n", ""]',
            "[" * 99999,
        ):
            self.set.restore(text)
            self.assertEqual([], self.set.describe())
        self.set.restore(json.dumps([f"/{n}" for n in range(99999)]))
        self.assertTrue(len(self.set.describe()) <= warmset.MOST_RESTORED)


class TestPaths(TestCase):
    def test_paths(self):
        for good in ("/", "/a b/c", "/\u00e4"):
            self.assertTrue(is_path(good), good)
        for bad in ("", "a", "/\n", "/\0", "/" + "a" * 5000, None, 7, b"/a", "/\udc80"):
            self.assertFalse(is_path(bad), bad)
