# SPDX-License-Identifier: GPL-2.0-or-later

"""A client gets what Breezy's source sends, from each block once."""

from unittest import mock

from breezy import errors, gpg
from breezy.bzr.groupcompress_repo import GroupCHKStreamSource
from breezy.bzr.vf_search import EverythingResult
from breezy.repository import Repository

from ...lpserve.streams import blocks
from ...lpserve.streams.source import BlockSource
from ..arriving import arrived
from .streamcase import StreamCase, contents_of, noise


class SourceCase(StreamCase):
    def ours(self):
        return BlockSource(self.repository, self.repository._format)

    def breezys(self):
        return GroupCHKStreamSource(self.repository, self.repository._format)

    def check_same(self, search):
        """Check that what arrives is what Breezy sends; the bytes of our stream."""
        stream = self.bytes_of(self.ours(), search)
        expected = arrived(self.bytes_of(self.breezys(), search))
        self.assertEqual(expected, arrived(stream))
        return stream


class TestWhole(SourceCase):
    def test_one_pack(self):
        self.make_history()
        stream = self.check_same(EverythingResult(self.repository))
        with self.repository.lock_read():
            blocks = {
                details.index_memo[:3]
                for name in ("revisions", "inventories", "chk_bytes", "texts")
                for details in getattr(self.repository, name)
                ._index.get_build_details(getattr(self.repository, name).keys())
                .values()
            }
        self.assertEqual(len(blocks), len(contents_of(stream)))

    def test_many_packs(self):
        self.make_history(6)
        for number in range(5):
            self.commit(f1=noise("more", number))
        self.check_same(EverythingResult(self.repository))

    def test_same_bytes(self):
        """Whatever was looked up before, and wherever a key lies twice."""
        self.make_history(4)
        made = [self.commit(f1=noise("more", number)) for number in range(4)]
        self.assertEqual(5, len(self.repository._pack_collection.names()))
        search = EverythingResult(self.repository)
        found = {self.bytes_of(self.ours(), search)}
        for revision_id in made:
            self.repository = Repository.open("tree")
            with self.repository.lock_read():
                self.repository.get_parent_map([revision_id])
                texts = self.repository.texts
                keys = [key for key in texts.keys() if revision_id in key]  # noqa: SIM118
                texts.get_parent_map(keys)
                found.add(self.bytes_of(self.ours(), search))
        self.assertEqual(1, len(found))

    def test_merges_and_renames(self):
        self.make_history(3)
        other = self.tree.controldir.sprout("other").open_workingtree()
        other.rename_one("f1", "g1")
        other.commit("renamed")
        self.commit(f2=noise("here"))
        self.tree.merge_from_branch(other.branch)
        self.tree.remove(["f3"], keep_files=False)
        self.tree.commit("merged")
        self.check_same(EverythingResult(self.repository))

    def test_signatures(self):
        made = self.make_history(4)
        strategy = gpg.LoopbackGPGStrategy(None)
        self.repository.lock_write()
        self.repository.start_write_group()
        self.repository.sign_revision(made[1], strategy)
        self.repository.sign_revision(made[2], strategy)
        self.repository.commit_write_group()
        self.repository.unlock()
        self.check_same(EverythingResult(self.repository))

    def test_nothing(self):
        self.check_same(EverythingResult(self.repository))


class TestSome(SourceCase):
    def test_each_range(self):
        made = self.make_history()
        for start, end in ((0, 1), (0, 6), (5, 6), (4, 9), (11, 12), (1, 12)):
            self.check_same(self.search(made[start:end]))

    def test_nothing_else(self):
        """No bytes arrive of a text that was not asked for."""
        made = [
            self.commit(f=noise(0), g=noise("g"), h=noise("h")),
            self.commit(f=noise(0)[:200] + noise(1)),
            self.commit(f=noise(1)[:200] + noise(2), g=noise("secret")),
            self.commit(h=noise("other secret"), g=noise("g") * 2),
        ]
        self.repository.pack()
        for wanted in (made[:1], made[:2], made[1:2], made[1:3], made[3:]):
            stream = self.check_same(self.search(wanted))
            texts = arrived(stream)["texts"].values()
            wanted_texts = b"".join(text for _, text in texts)
            content = b"".join(contents_of(stream))
            for number in (0, 1, 2, "g", "h", "secret", "other secret"):
                for line in noise(number).splitlines():
                    self.assertEqual(line in wanted_texts, line in content)


class TestAbsent(SourceCase):
    def test_ghost(self):
        """A parent that is not there is not sent, and its inventory not needed."""
        self.make_history(2)
        self.tree.add_pending_merge(b"ghost")
        self.tree.set_parent_ids([self.tree.last_revision(), b"ghost"])
        made = self.commit(f1=noise("after"))
        self.check_same(EverythingResult(self.repository))
        self.check_same(self.search([made]))

    def test_revision(self):
        self.make_history(2)
        search = self.search([b"absent"])
        self.assertRaises(ValueError, self.bytes_of, self.ours(), search)

    def test_inventory(self):
        made = self.make_history(2)
        source = self.ours()
        with mock.patch.object(
            source.from_repository.inventories._index._graph_index, "_indices", []
        ):
            self.assertRaises(
                errors.NoSuchRevision, self.bytes_of, source, self.search(made)
            )


class TestRepacked(SourceCase):
    def test_each_moment(self):
        """Another process packs the repository while its stream is made."""
        self.make_history(4)
        self.commit(f1=noise("x"))
        self.overrideAttr(blocks, "_AT_ONCE", 1)
        expected = arrived(
            self.bytes_of(self.breezys(), EverythingResult(self.repository))
        )
        for moment in range(5):
            self.commit(f1=noise("y", moment))  # there is something to pack
            self.repository = Repository.open("tree")
            search = self.search(sorted(key[0] for key in expected["revisions"]))
            source, found = self.ours(), []
            with self.repository.lock_read():
                for kind, records in source.get_stream(search):
                    if len(found) == moment:
                        self.pack_elsewhere()
                    found.append((kind, list(records)))
                self.assertLess(moment, len(found))
                wire = self.bytes_of_records(found)
            self.assertEqual(expected, arrived(wire))

    def pack_elsewhere(self):
        other = Repository.open("tree")
        other.pack()
        with other.lock_write():
            other._pack_collection._clear_obsolete_packs()

    def bytes_of_records(self, found):
        class Found:
            from_repository = self.repository

            def get_stream(self, search):
                return iter(found)

        return self.bytes_of(Found(), None)
