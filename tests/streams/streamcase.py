# SPDX-License-Identifier: GPL-2.0-or-later

"""Repositories with a history, and what arrives of them."""

import hashlib
import random

from breezy.bzr import groupcompress
from breezy.bzr.smart import repository as smart
from breezy.bzr.vf_search import SearchResult
from breezy.tests import TestCaseWithTransport


def noise(*words, size=400):
    """Text that compresses badly, the same for the same *words*."""
    made, number = "", 0
    while len(made) < size:
        made += hashlib.sha256(f"{words} {number}".encode()).hexdigest() + "\n"
        number += 1
    return made.encode()


class StreamCase(TestCaseWithTransport):
    """Has a tree, ``tree``, with a history; commits to it."""

    def setUp(self):
        super().setUp()
        self.random = random.Random(7)
        self.tree = self.make_branch_and_tree("tree", format="2a")
        self.repository = self.tree.branch.repository

    def commit(self, **files):
        """Write files, commit, and return the revision's id."""
        self.build_tree_contents([(f"tree/{n}", text) for n, text in files.items()])
        self.tree.smart_add(["tree"])
        return self.tree.commit("changed " + " ".join(files))

    def make_history(self, count=12):
        """Commit *count* revisions to five files, and pack them; their ids."""
        made = []
        texts = {f"f{number}": noise("first", number) for number in range(5)}
        for number in range(count):
            name = f"f{self.random.randrange(5)}"
            texts[name] = noise(number) + texts[name][:300]
            made.append(self.commit(**(texts if not number else {name: texts[name]})))
        self.repository.pack()
        return made

    def search(self, revision_ids):
        """What a client sends that wants *revision_ids*."""
        with self.repository.lock_read():
            parents = self.repository.get_graph().get_parent_map(revision_ids)
        excluded = {p for each in parents.values() for p in each} - set(revision_ids)
        heads = set(revision_ids) - {p for each in parents.values() for p in each}
        return SearchResult(heads, excluded, len(revision_ids), revision_ids)

    def bytes_of(self, source, search):
        """The stream of *source* for the wire."""
        repository = source.from_repository
        with repository.lock_read():
            stream = source.get_stream(search)
            return b"".join(smart._stream_to_byte_stream(stream, repository._format))


def contents_of(stream):
    """The contents of all blocks in *stream*, one after another."""
    contents = []
    _, kinds = smart._byte_stream_to_stream(iter([stream]))
    for _, records in kinds:
        for record in records:
            manager = getattr(record, "_manager", None)
            if record.storage_kind == "groupcompress-block" and manager is not None:
                assert isinstance(manager._block, groupcompress.GroupCompressBlock)
                manager._block._ensure_content()
                contents.append(manager._block._content)
    return contents
