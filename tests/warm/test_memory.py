# SPDX-License-Identifier: GPL-2.0-or-later

"""What a worker knows of a repository that is kept in memory."""

import os
import shutil
import socket

from breezy import transport as _mod_transport
from breezy import urlutils
from breezy.branch import Branch
from breezy.controldir import ControlDir, format_registry
from breezy.tests import TestCaseInTempDir
from breezy.transport.memory import MemoryTransport

from ...lpserve import channel
from ...lpserve.channel import COLD, HIT, STALE
from ...lpserve.serving.containment import Containment
from ...lpserve.warm import loader, memory
from ...lpserve.warm.memory import RepositoryCache, RepositoryView
from ..live.warm.warmcase import commit


class TestLocalPath(TestCaseInTempDir):
    """`memory.local_path`."""

    def test_served(self):
        """What a connection has, with a home directory below the root."""
        os.makedirs("root/a b")
        self.overrideEnv("HOME", os.path.join(self.test_dir, "root", "a b"))
        containment = Containment(os.path.join(self.test_dir, "root"), False)
        self.addCleanup(containment.close)
        wanted = os.path.join(self.test_dir, "root", "a b", "c")
        served = containment.transport()
        self.assertEqual(wanted, memory.local_path(served.clone("~/c")))
        self.assertEqual(wanted, memory.local_path(served.clone("a%20b").clone("c")))

    def test_local(self):
        """What a loader has."""
        url = urlutils.local_path_to_url(self.test_dir)
        local = _mod_transport.get_transport_from_url(url)
        wanted = os.path.join(self.test_dir, "a b")
        self.assertEqual(wanted, memory.local_path(local.clone("a%20b")))

    def test_elsewhere(self):
        self.assertIs(None, memory.local_path(MemoryTransport()))


class TestIdentity(TestCaseInTempDir):
    """`memory.identity`: it changes with the content."""

    def test_same_size_and_time(self):
        """Somebody who hides a change; the time of that cannot be set."""
        self.build_tree_contents([("file", b"one")])
        found = os.stat("file")
        before = memory.identity("file")
        while True:  # until the kernel's clock has moved
            with open("file", "r+b") as file:
                file.write(b"two")
            os.utime("file", ns=(found.st_atime_ns, found.st_mtime_ns))
            if os.stat("file").st_ctime_ns != found.st_ctime_ns:
                break
        self.assertNotEqual(before, memory.identity("file"))

    def test_replaced(self):
        self.build_tree_contents([("file", b"one"), ("other", b"one")])
        before = memory.identity("file")
        os.rename("other", "file")
        self.assertNotEqual(before, memory.identity("file"))


class RepositoryCase(TestCaseInTempDir):
    """A repository at ``a``, and what is loaded of it."""

    def setUp(self):
        super().setUp()
        self.branch = self.make("a")
        self.disable_directory_isolation()  # a loader opens by URLs of its own
        self.memory = RepositoryCache()

    def make(self, name):
        branch = ControlDir.create_branch_convenience(name, force_new_tree=False)
        commit(branch, 3)
        return branch

    def path(self, name="a"):
        return os.path.join(self.test_dir, name)

    def load(self, name="a"):
        data, _ = loader.load(self.path(name))
        self.memory.keep(self.path(name), data)

    def names_read(self, name="a"):
        branch = Branch.open(name)
        with branch.lock_read():
            packs = branch.repository._pack_collection
            packs.ensure_loaded()
            sizes = {each: list(found) for each, found in packs._names.items()}
        directory = self.path(name) + memory.INDICES + "/"
        return self.memory.names_read(directory, sizes)

    def outcome(self, name="a"):
        """What it would report after the names were read."""
        self.names_read(name)
        return self.memory._used.get(self.path(name))


class TestMemory(RepositoryCase):
    def test_outcomes(self):
        self.assertEqual(COLD, self.outcome())
        self.load()
        self.assertEqual(HIT, self.outcome())
        commit(self.branch, 1)
        self.assertEqual(STALE, self.outcome())
        self.load()
        self.assertEqual(HIT, self.outcome())
        self.branch.repository.lock_write()
        self.branch.repository.pack()
        self.branch.repository.unlock()
        self.assertEqual(COLD, self.outcome())

    def test_known(self):
        tip = self.branch.last_revision()
        self.assertIs(None, self.names_read().graph)
        self.load()
        known = self.names_read()
        self.assertTrue(known.exact)
        parent = known.parents(tip)[0]
        (first,) = known.parents(parent)
        self.assertEqual((b"null:",), known.parents(first))
        for odd in (b"null:", b"x", None, "x", 7):
            self.assertIs(None, known.parents(odd))

    def test_learnt(self):
        """What a connection has read it knows until something changes."""
        known = self.names_read()
        known.learn({b"x": (b"y",), b"null:": ()})
        again = self.names_read()
        self.assertEqual((b"y",), again.parents(b"x"))
        self.assertIs(None, again.parents(b"null:"))
        commit(self.branch, 1)
        self.assertIs(None, self.names_read().parents(b"x"))

    def test_packs_that_disagree(self):
        """Parents that contradict what is known are told, and not learnt."""
        tip = self.branch.last_revision()
        self.load()
        known = self.names_read()
        parents = known.parents(tip)
        self.assertTrue(known.compare({b"x": (b"y",), tip: parents}))
        self.assertEqual((b"y",), known.parents(b"x"))
        self.assertFalse(known.compare({tip: (b"y",)}))
        self.assertEqual(parents, known.parents(tip))

    def test_not_everything_is_learnt(self):
        self.overrideAttr(memory, "MOST_REVISIONS", 2)
        known = RepositoryView(frozenset(), None, False, memory.ConnectionCache())
        for name in (b"a", b"b", b"c"):
            known.learn({name: ()})
        self.assertEqual({b"a": (), b"b": ()}, known.read.found)

    def test_index_was_touched(self):
        """The same name, the same size, and perhaps other content; or it is gone."""
        indices = self.path() + memory.INDICES
        name = next(each for each in os.listdir(indices) if each.endswith(".rix"))
        for change in (lambda path: os.chmod(path, 0o400), os.unlink):
            self.load()
            change(f"{indices}/{name}")
            self.assertEqual(COLD, self.outcome())

    def test_another_in_its_place(self):
        self.load()
        self.make("b")
        shutil.move("a", "c")
        shutil.move("b", "a")
        self.assertEqual(COLD, self.outcome("a"))
        # It is where the other one was now, and the same.
        self.assertEqual(HIT, self.outcome("c"))

    def test_dropped(self):
        """By the service, and by a connection that asks nothing for long."""
        for drop in (lambda: self.memory.drop(self.path()), self.memory.idle):
            self.load()
            self.assertEqual(HIT, self.outcome())
            drop()
            self.assertEqual(COLD, self.outcome())

    def test_nodes(self):
        self.build_tree_contents([("index", b"1")])
        nodes = self.memory.nodes("index", 1)
        self.memory.add_node(nodes, 0, "node")
        self.assertEqual({0: "node"}, self.memory.nodes("index", 1))
        self.assertEqual({}, self.memory.nodes("index", 2))
        os.chmod("index", 0o400)
        self.assertEqual({}, self.memory.nodes("index", 1))
        os.unlink("index")
        self.assertIs(None, self.memory.nodes("index", 1))

    def test_only_so_many_nodes(self):
        self.build_tree_contents([("index", b"1"), ("other", b"1")])
        self.overrideAttr(memory, "MOST_NODES", 2)
        nodes = self.memory.nodes("index", 1)
        for number in range(3):
            self.memory.add_node(nodes, number, "node")
        self.assertEqual({0: "node", 1: "node"}, nodes)
        self.assertIs(None, self.memory.nodes("other", 1))


class TestReport(RepositoryCase):
    def setUp(self):
        super().setUp()
        self.service, self.worker = channel.pair()
        self.addCleanup(self.service.close)
        self.addCleanup(self.worker.close)
        self.service.setblocking(False)

    def told(self):
        found = []
        while True:
            try:
                found.append(channel.receive(self.service)[0])
            except BlockingIOError:
                return found

    def test_one_datagram_each(self):
        self.make("b")
        self.memory.connect(self.worker, 60.0)
        for name in "aba":
            self.names_read(name)
        self.assertEqual([], self.told())
        self.memory.report()
        wanted = [
            {"kind": "used", "path": self.path(name), "outcome": COLD} for name in "ab"
        ]
        self.assertEqual(wanted, self.told())
        self.memory.report()
        self.assertEqual([], self.told())

    def test_while_it_lasts(self):
        self.memory.connect(self.worker, 0.0)
        self.names_read()
        self.assertEqual(1, len(self.told()))
        self.memory.report_if_due()
        self.assertEqual([], self.told())

    def test_real_path(self):
        os.symlink("a", "link")
        self.memory.connect(self.worker, 60.0)
        self.names_read("link")
        self.memory.report()
        self.assertEqual(self.path("a"), self.told()[0]["path"])

    def test_nobody_listens(self):
        """It neither waits nor fails."""
        self.names_read()
        self.memory.report()  # there is no service yet
        self.memory.connect(self.worker, 60.0)

        def fill():
            while True:
                flags = socket.MSG_DONTWAIT
                channel.send(self.worker, "x", flags=flags, text="x" * 1000)

        self.assertRaises(BlockingIOError, fill)
        self.names_read()
        self.memory.report()
        self.service.close()
        self.names_read()
        self.memory.report()


class TestLoad(RepositoryCase):
    """`loader.load`."""

    def test_not_packs(self):
        format = format_registry.make_controldir("knit")
        ControlDir.create_branch_convenience(
            "knit", format=format, force_new_tree=False
        )
        error = self.assertRaises(loader.CannotLoad, loader.load, self.path("knit"))
        self.assertContainsRe(str(error), "is not kept in memory")

    def test_names_that_lead_elsewhere(self):
        """A client can write the names of packs, those of another repository too."""
        other = os.path.relpath(self.path("b"), self.path("a") + memory.INDICES)
        packs = self.branch.repository._pack_collection
        with self.branch.lock_read():
            packs.ensure_loaded()
            name, sizes = next(iter(packs._names.items()))
        outside = f"{other}{memory.INDICES}/{name}"
        builder = packs._index_builder_class()
        builder.add_node((outside.encode(),), b" ".join(b"%d" % n for n in sizes))
        path = self.path("a") + "/.bzr/repository/pack-names"
        os.rename(self.path("a"), self.path("b"))
        shutil.copytree(self.path("b"), self.path("a"))
        with open(path, "wb") as file:
            file.write(builder.finish().read())
        error = self.assertRaises(loader.CannotLoad, loader.load, self.path("a"))
        self.assertContainsRe(str(error), "names that Breezy does not give")
        self.assertIs(
            None, self.memory.names_read(self.path("a"), {outside: list(sizes)})
        )

    def test_young(self):
        """One that was just written may be written again at the same time."""
        commit(self.branch, 1)
        self.load()
        self.assertEqual(HIT, self.outcome())

    def test_from_the_future(self):
        self.overrideAttr(loader, "YOUNG", 10**18)
        self.overrideAttr(loader.time, "sleep", lambda seconds: None)
        now = loader.time.monotonic()
        self.overrideAttr(loader.time, "monotonic", iter((now, now + 2)).__next__)
        error = self.assertRaises(loader.Changing, loader.load, self.path())
        self.assertEqual("it has just been written", str(error))

    def test_packs_that_disagree(self):
        class Index:
            def __init__(self, parent):
                self.entries = [(self, (b"a",), b"", (((parent,),),))]

            def iter_all_entries(self):
                return self.entries

        same = [Index(b"x"), Index(b"x")]
        self.assertEqual({b"a": (b"x",)}, loader._read(same))
        error = self.assertRaises(loader.CannotLoad, loader._read, [*same, Index(b"y")])
        self.assertEqual("two packs disagree about revision b'a'", str(error))

    def test_changes_meanwhile(self):
        found = iter(({"a": [[], [0] * 5]}, {"b": [[], [0] * 5]}))
        self.overrideAttr(loader, "_identities", lambda *given: next(found))
        error = self.assertRaises(loader.Changing, loader.load, self.path())
        self.assertEqual("it changes while it is read", str(error))
