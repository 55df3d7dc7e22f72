# SPDX-License-Identifier: GPL-2.0-or-later

"""Makes a branch with a long history, the same one each time, for warm.py.

Every fifth revision of the mainline merges a branch of three, which began two revisions
before, so 18,750 of 30,000 revisions are on the mainline. Each changes one to three
files. A thousand revisions are written at a time, as by pushes, and all are packed.
"""

import hashlib
import os
import random
import sys
import time
from collections.abc import Iterable

from breezy import controldir
from breezy.bzr.inventory import InventoryDirectory, InventoryFile
from breezy.revision import NULL_REVISION, Revision
from stage import PLUGIN

#: Files in one directory.
IN_DIRECTORY = 50
#: Revisions that are written at once.
BATCH = 1000
#: When the first revision was made, in seconds since 1970.
BEGAN = 1_000_000_000


class History:
    """Adds revisions to a repository.

    :param repository: a locked `breezy.repository.Repository`.
    :param files: how many there are from the first revision on.
    :ivar trees: what each revision has: {file number: revision id of its last change}.
    """

    def __init__(self, repository, files: int):
        self.repository = repository
        self.files = files
        self.random = random.Random(1)
        self.count = 0
        self.trees: dict[bytes, dict[int, bytes]] = {}

    def first(self) -> bytes:
        """Add a revision with all the files; its id."""
        revision_id = self._new_id()
        parts = range((self.files + IN_DIRECTORY - 1) // IN_DIRECTORY)
        places = [("", b"the-root", None)]
        places += [(f"part{n:04d}", b"part%04d-id" % n, b"the-root") for n in parts]
        delta = []
        for name, file_id, parent in places:
            entry = InventoryDirectory(file_id, name, parent)
            entry.revision = revision_id
            delta.append((None, name, file_id, entry))
            self.repository.texts.add_lines((file_id, revision_id), [], [])
        return self._add(revision_id, [], delta, {}, range(self.files))

    def next(self, parents: list[bytes]) -> bytes:
        """Add a revision with *parents*, which changes a few files; its id."""
        tree = dict(self.trees[parents[0]])
        chosen = self.random.sample(range(self.files), self.random.randint(1, 3))
        return self._add(self._new_id(), parents, [], tree, chosen)

    def _new_id(self) -> bytes:
        self.count += 1
        date = time.strftime("%Y%m%d%H%M%S", time.gmtime(BEGAN + self.count * 600))
        token = hashlib.sha1(b"%d" % self.count).hexdigest()[:16]
        return f"jane@example.com-{date}-{token}".encode()

    def _change(self, number: int, revision_id: bytes, tree: dict[int, bytes]):
        """Change or make a file in *tree*; its entry of the inventory delta."""
        part = f"part{number // IN_DIRECTORY:04d}"
        name = f"module{number:05d}.py"
        file_id = f"module{number:05d}-id".encode()
        words = random.Random(number)
        lines = [
            b"    value_%d = compute(%d)  # %08x\n"
            % (each, number, words.getrandbits(32))
            for each in range(20 + number % 60)
        ]
        lines[self.random.randrange(len(lines))] = b"    changed = %r\n" % revision_id
        parents = [(file_id, tree[number])] if number in tree else []
        sha1, size, _ = self.repository.texts.add_lines(
            (file_id, revision_id), parents, lines, random_id=True
        )
        entry = InventoryFile(file_id, name, part.encode() + b"-id")
        entry.revision, entry.text_sha1, entry.text_size = revision_id, sha1, size
        tree[number] = revision_id
        path = f"{part}/{name}"
        return (path if parents else None, path, file_id, entry)

    def _add(
        self,
        revision_id: bytes,
        parents: list[bytes],
        delta,
        tree: dict[int, bytes],
        changed: Iterable[int],
    ) -> bytes:
        delta += [self._change(number, revision_id, tree) for number in changed]
        basis = parents[0] if parents else NULL_REVISION
        validator, _ = self.repository.add_inventory_by_delta(
            basis, delta, revision_id, parents
        )
        made = Revision(
            revision_id,
            parent_ids=parents,
            committer="Jane Doe <jane@example.com>",
            message=f"Change number {self.count}: better than it was.",
            properties={"branch-nick": "trunk"},
            inventory_sha1=validator,
            timestamp=float(BEGAN + self.count * 600),
            timezone=0,
        )
        self.repository.add_revision(revision_id, made)
        self.trees[revision_id] = tree
        return revision_id


def make(path: str, revisions: int, files: int) -> None:
    """Make the branch *path*, of *revisions* revisions of *files* files."""
    os.makedirs(path, exist_ok=True)
    branch = controldir.ControlDir.create_branch_convenience(
        path,
        format=controldir.format_registry.make_controldir("2a"),
        force_new_tree=False,
    )
    repository = branch.repository
    mainline: list[bytes] = []
    with branch.lock_write():
        history = History(repository, files)
        while history.count < revisions:
            repository.start_write_group()
            end = min(revisions, history.count + BATCH)
            while history.count < end:
                parents = mainline[-1:]
                if len(mainline) % 5 == 4 and revisions - history.count > 4:
                    line = mainline[-2]
                    for _ in range(3):
                        line = history.next([line])
                    parents.append(line)
                mainline.append(history.next(parents) if parents else history.first())
            # Only what may still be built upon.
            history.trees = {each: history.trees[each] for each in mainline[-3:]}
            repository.commit_write_group()
            repository.refresh_data()
            print(f"{history.count} revisions", file=sys.stderr)
        repository.pack()
        branch.set_last_revision_info(len(mainline), mainline[-1])


def cached(revisions: int, files: int) -> str:
    """The path of a branch as `make` makes it, which it does once for all runs."""
    made = os.path.join(PLUGIN, "build", "bench", f"history-{revisions}-{files}")
    if not os.path.exists(made):
        make(made + ".new", revisions, files)
        os.rename(made + ".new", made)
    return made
