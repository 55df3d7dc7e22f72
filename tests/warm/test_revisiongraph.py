# SPDX-License-Identifier: GPL-2.0-or-later

"""The compact revision graph, against dictionaries."""

import mmap
import random

from breezy.tests import TestCase

from ...lpserve.warm.revisiongraph import BadGraph, RevisionGraph, build, heads

#: A mainline a b d, a line c merged in d, and a ghost.
SMALL = {
    b"a": (),
    b"b": (b"a",),
    b"c": (b"a", b"ghost"),
    b"d": (b"b", b"c"),
    b"other": (b"ghost",),
}


def ancestors(parent_map, revision):
    """The naive way."""
    found, pending = set(), [revision]
    while pending:
        each = pending.pop()
        if each in parent_map and each not in found:
            found.add(each)
            pending.extend(parent_map[each])
    return found


def lines_of(parent_map, revision):
    """What `RevisionGraph.ancestry` says, as a set, the naive way."""
    return {
        b" ".join((each, *(p for p in parent_map[each] if p in parent_map)))
        for each in ancestors(parent_map, revision)
    }


def random_graph(source, count, ghosts=0.0):
    """A graph of *count* revisions, with one, none or several parents."""
    graph = {}
    names = []
    for _ in range(count):
        name = b"r%x" % source.getrandbits(64)
        number = min(len(names), source.choice((0, 1, 1, 1, 1, 1, 2, 2, 3)))
        # Near ones, as in a history.
        parents = source.sample(names[-9:], min(number, len(names[-9:])))
        if source.random() < ghosts:
            parents.insert(
                source.randint(0, len(parents)), b"g%x" % source.getrandbits(8)
            )
        graph[name] = tuple(parents)
        names.append(name)
    source.shuffle(names)
    return {name: graph[name] for name in names}


class TestRevisionGraph(TestCase):
    def check(self, parent_map, graph):
        self.assertEqual(len(parent_map), len(graph))
        for revision, parents in parent_map.items():
            self.assertEqual(parents, graph.parents(revision))
            text = graph.ancestry(revision)
            lines = text.split(b"\n")
            self.assertEqual(len(set(lines)), len(lines))
            self.assertEqual(lines_of(parent_map, revision), set(lines))

    def test_small(self):
        graph = RevisionGraph(build(SMALL))
        self.check(SMALL, graph)
        self.assertIs(None, graph.parents(b"ghost"))
        self.assertIs(None, graph.ancestry(b"ghost"))
        self.assertIs(None, graph.parents(b""))
        self.assertIs(None, graph.parents(b"a b"))

    def test_random(self):
        seed = random.randrange(1 << 32)
        source = random.Random(seed)
        for count in (1, 2, 3, 5, 8, 40, 200):
            for ghosts in (0.0, 0.1):
                parent_map = random_graph(source, count, ghosts)
                try:
                    self.check(parent_map, RevisionGraph(build(parent_map)))
                except AssertionError as error:
                    raise AssertionError(f"seed {seed}: {error}") from error

    def test_parents_first(self):
        """A client that reads line by line knows the parents."""
        source = random.Random(5)
        parent_map = random_graph(source, 300)
        graph = RevisionGraph(build(parent_map))
        for head in heads(parent_map):
            seen = set()
            for line in graph.ancestry(head).split(b"\n"):
                name, *parents = line.split(b" ")
                self.assertTrue(seen.issuperset(parents), line)
                seen.add(name)

    def test_heads(self):
        self.assertEqual([b"d", b"other"], sorted(heads(SMALL)))
        graph = RevisionGraph(build(SMALL))
        self.assertEqual([b"d", b"other"], graph.deepest_heads())
        empty = RevisionGraph(build({}))
        self.assertEqual((0, []), (len(empty), empty.deepest_heads()))
        self.assertIs(None, empty.parents(b"a"))
        self.assertIs(None, empty.answer(b"a"))

    def test_deep(self):
        """No recursion: a mainline is longer than any stack."""
        parent_map = {b"%d" % n: (b"%d" % (n - 1),) for n in range(1, 5000)}
        parent_map[b"0"] = ()
        graph = RevisionGraph(build(parent_map))
        self.assertEqual(5000, graph.ancestry(b"4999").count(b"\n") + 1)
        self.assertEqual(b"0\n1 0\n2 1", graph.ancestry(b"2"))

    def test_answers_and_facts(self):
        answers = {b"d": b"first\0\xff", b"other": b"", b"a": b"last"}
        graph = RevisionGraph(build(SMALL, answers, {"packs": [["x", 1]]}))
        for revision, body in answers.items():
            self.assertEqual(body, graph.answer(revision))
        self.assertIs(None, graph.answer(b"b"))
        self.assertIs(None, graph.answer(b"ghost"))
        self.assertEqual({"packs": [["x", 1]]}, graph.facts)

    def test_in_a_mapping(self):
        """Nothing of it is copied, and it can be let go."""
        data = build(SMALL)
        mapping = mmap.mmap(-1, len(data))
        mapping.write(data)
        graph = RevisionGraph(mapping)
        self.check(SMALL, graph)
        graph.close()
        mapping.close()

    def test_same_hash(self):
        """Two ids at one place of the table (crc32 is easily met)."""
        # https://en.wikipedia.org/wiki/Cyclic_redundancy_check: "plumless" and
        # "buckeroo" have the same CRC-32.
        parent_map = {b"plumless": (), b"buckeroo": (b"plumless",)}
        self.check(parent_map, RevisionGraph(build(parent_map)))
        graph = RevisionGraph(build({b"plumless": ()}))
        self.assertIs(None, graph.parents(b"buckeroo"))


class TestRefused(TestCase):
    """What is not kept; such a repository is served cold."""

    def assert_bad(self, parent_map):
        self.assertRaises(BadGraph, build, parent_map)

    def test_ids(self):
        for bad in (b"a b", b"a\nb", b"a\0b", b""):
            self.assert_bad({bad: ()})
            self.assert_bad({b"a": (bad,)})

    def test_cycles(self):
        self.assert_bad({b"a": (b"a",)})
        self.assert_bad({b"a": (b"b",), b"b": (b"a",)})
        self.assert_bad({b"head": (b"a",), b"a": (b"b",), b"b": (b"a",)})

    def test_something_else(self):
        good = build(SMALL)
        for bad in (b"", b"rubbish", bytes(200), good[:60], b"x" + good[1:]):
            self.assertRaises(BadGraph, RevisionGraph, bad)
