# SPDX-License-Identifier: GPL-2.0-or-later

"""Make a branch with a long history, the same one each time.

Every fifth revision of the mainline merges a line of three that left it two
revisions before, so 30,000 revisions are 18,750 on the mainline. Each changes one to
three files. The revisions are written a thousand at a time, as pushes would
have brought them, and packed at the end.
"""

import argparse
import hashlib
import os
import random
import sys
import time

import breezy
import breezy.bzr
from breezy import controldir
from breezy.bzr.inventory import InventoryDirectory, InventoryFile
from breezy.revision import NULL_REVISION, Revision

#: Files in one directory.
IN_DIRECTORY = 50
#: Revisions that are written at once.
BATCH = 1000
#: When the first revision was made, in seconds since 1970.
BEGAN = 1_000_000_000


def _directory(
    file_id: bytes, name: str, parent_id: bytes | None, revision_id: bytes
) -> InventoryDirectory:
    entry = InventoryDirectory(file_id, name, parent_id)
    entry.revision = revision_id
    return entry


class History:
    """Adds revisions to a repository.

    :param repository: a locked `breezy.repository.Repository`.
    :param files: how many there are from the first revision on.
    """

    def __init__(self, repository, files: int, seed: int = 1):
        self.repository = repository
        self.files = files
        self.random = random.Random(seed)
        self.count = 0
        # What the newest revision of each line has: {file number: revision id}.
        self.trees: dict[bytes, dict[int, bytes]] = {}

    def _new_id(self) -> bytes:
        self.count += 1
        date = time.strftime("%Y%m%d%H%M%S", time.gmtime(BEGAN + self.count * 600))
        token = hashlib.sha1(b"%d" % self.count).hexdigest()[:16]
        return f"jane@example.com-{date}-{token}".encode()

    def _lines(self, number: int, revision_id: bytes) -> list[bytes]:
        words = random.Random(number)
        lines = [
            b"    value_%d = compute(%d)  # %08x\n"
            % (each, number, words.getrandbits(32))
            for each in range(20 + number % 60)
        ]
        place = self.random.randrange(len(lines))
        lines[place] = b"    changed = %r\n" % revision_id
        return lines

    def first(self) -> bytes:
        """A revision with all the files."""
        revision_id = self._new_id()
        root = _directory(b"the-root", "", None, revision_id)
        delta = [(None, "", b"the-root", root)]
        for number in range(0, self.files, IN_DIRECTORY):
            name = f"part{number // IN_DIRECTORY:04d}"
            file_id = name.encode() + b"-id"
            entry = _directory(file_id, name, b"the-root", revision_id)
            delta.append((None, name, file_id, entry))
        tree: dict[int, bytes] = {}
        for number in range(self.files):
            delta.append(self._change(number, revision_id, tree, new=True))
        for _, _, file_id, entry in delta:
            if entry.kind == "directory":
                self.repository.texts.add_lines((file_id, revision_id), [], [])
        self._add(revision_id, [], delta)
        self.trees[revision_id] = tree
        return revision_id

    def _change(
        self, number: int, revision_id: bytes, tree: dict[int, bytes], new: bool = False
    ):
        part = f"part{number // IN_DIRECTORY:04d}"
        name = f"module{number:05d}.py"
        file_id = f"module{number:05d}-id".encode()
        lines = self._lines(number, revision_id)
        parents = [] if new else [(file_id, tree[number])]
        sha1, size, _ = self.repository.texts.add_lines(
            (file_id, revision_id), parents, lines, random_id=True
        )
        entry = InventoryFile(file_id, name, part.encode() + b"-id")
        entry.revision, entry.text_sha1, entry.text_size = revision_id, sha1, size
        tree[number] = revision_id
        path = f"{part}/{name}"
        return (None if new else path, path, file_id, entry)

    def _add(self, revision_id: bytes, parents: list[bytes], delta) -> None:
        basis = parents[0] if parents else NULL_REVISION
        validator, _ = self.repository.add_inventory_by_delta(
            basis, delta, revision_id, parents
        )
        self.repository.add_revision(
            revision_id,
            Revision(
                revision_id,
                parent_ids=parents,
                committer="Jane Doe <jane@example.com>",
                message=f"Change number {self.count}: better than it was.",
                properties={"branch-nick": "trunk"},
                inventory_sha1=validator,
                timestamp=float(BEGAN + self.count * 600),
                timezone=0,
            ),
        )

    def next(self, parents: list[bytes]) -> bytes:
        """A revision with *parents*, which changes a few files."""
        revision_id = self._new_id()
        tree = dict(self.trees[parents[0]])
        chosen = self.random.sample(range(self.files), self.random.randint(1, 3))
        delta = [self._change(number, revision_id, tree) for number in chosen]
        if len(parents) > 1:
            # What the line changed since it left, taken as it is there.
            other = self.trees[parents[1]]
            for number, changed in other.items():
                if changed > tree[number] and number not in chosen:
                    delta.append(self._take(number, changed, tree))
        self._add(revision_id, parents, delta)
        self.trees[revision_id] = tree
        return revision_id

    def _take(self, number: int, changed: bytes, tree: dict[int, bytes]):
        part = f"part{number // IN_DIRECTORY:04d}"
        name = f"module{number:05d}.py"
        file_id = f"module{number:05d}-id".encode()
        key = (file_id, changed)
        record = next(self.repository.texts.get_record_stream([key], "unordered", True))
        text = record.get_bytes_as("fulltext")
        entry = InventoryFile(file_id, name, part.encode() + b"-id")
        entry.revision, entry.text_size = changed, len(text)
        entry.text_sha1 = hashlib.sha1(text).hexdigest().encode()
        tree[number] = changed
        path = f"{part}/{name}"
        return (path, path, file_id, entry)


def make(path: str, revisions: int, files: int, format_name: str = "2a") -> None:
    """Make the branch *path*, of *revisions* revisions of *files* files."""
    os.makedirs(path, exist_ok=True)
    format = controldir.format_registry.make_controldir(format_name)
    branch = controldir.ControlDir.create_branch_convenience(
        path, format=format, force_new_tree=False
    )
    repository = branch.repository
    tip, length = None, 0
    with branch.lock_write():
        history = History(repository, files)
        mainline: list[bytes] = []
        while history.count < revisions:
            repository.start_write_group()
            end = min(revisions, history.count + BATCH)
            while history.count < end:
                if not mainline:
                    tip = history.first()
                elif len(mainline) % 5 == 4 and revisions - history.count > 4:
                    line = mainline[-2]
                    for _ in range(3):
                        line = history.next([line])
                    tip = history.next([mainline[-1], line])
                else:
                    tip = history.next([mainline[-1]])
                mainline.append(tip)
            # Only what may still be built upon.
            history.trees = {each: history.trees[each] for each in mainline[-3:]}
            repository.commit_write_group()
            repository.refresh_data()
            print(f"{history.count} revisions", file=sys.stderr)
        length = len(mainline)
        repository.pack()
        branch.set_last_revision_info(length, tip)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path")
    parser.add_argument("--revisions", type=int, default=30_000)
    parser.add_argument("--files", type=int, default=5_000)
    parser.add_argument("--format", default="2a")
    given = parser.parse_args()
    with breezy.initialize():
        make(given.path, given.revisions, given.files, given.format)


if __name__ == "__main__":
    main()
