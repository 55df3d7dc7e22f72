# SPDX-License-Identifier: GPL-2.0-or-later

"""What may happen to repositories of which streams are kept."""

import os
import shutil

from breezy import controldir, errors
from breezy.branch import Branch
from breezy.bzr.vf_search import SearchResult
from breezy.repository import format_registry

from ..warm.walkchanges import FORMATS, Changes
from ..warm.warmcase import commit

#: Branches by name; two are in one repository.
NAMES = ("a", "b", "old", "link", "shared/one", "shared/two")
#: A branch without the revisions of the branch that it is stacked on.
STACKED = "stacked"
ACTIONS = (
    *("nothing",) * 10,
    *("add",) * 4,
    *("pack",) * 2,
    "add_large",
    "add_ghost",
    "merge",
    "pull",
    "push",
    "uncommit",
    "autopack",
    "reconcile",
    "upgrade",
    "recreate",
    "swap",
    "relink",
    "keep",
    "restore",
    "restack",
    "clear",
)


class StreamChanges(Changes):
    """Changes branches at random, and asks for streams of them."""

    names = NAMES

    def make_branches(self):
        """Make all of them."""
        for name in ("a", "b"):
            self.ids.append(self.make_branch(name, 4))
        self.ids.append(self.make_branch("old", 4, "pack-0.92"))
        os.symlink("a", self.place("link"))
        self.make_shared()
        self.restack("")

    def make_shared(self):
        """Make a repository with two branches, which have a revision in common."""
        shutil.rmtree(self.place("shared"), ignore_errors=True)
        os.mkdir(self.place("shared"))
        format = controldir.format_registry.make_controldir("2a")
        made = format.initialize(self.place("shared"))
        made.create_repository(shared=True).set_make_working_trees(False)
        self.note(self.make_branch("shared/one", 2))
        self.make_branch("shared/two", 0)
        two, one = Branch.open(self.place("shared/two")), self.branch("shared/one")
        two.pull(one)
        self.note(commit(two, 2))

    def recreate(self, name):
        """Delete it, and make another one in its place."""
        if name.startswith("shared"):
            self.make_shared()
        else:
            super().recreate(name)

    def upgrade(self, name):
        """Those that are not in the same repository as others."""
        if not name.startswith("shared"):
            super().upgrade(name)

    def restore(self, name):
        """Put a backup in its place, which needs no other repository."""
        if not name.startswith("shared"):
            super().restore(name)

    def keep(self, name):
        """Make a backup."""
        if not name.startswith("shared"):
            super().keep(name)

    def add_large(self, name):
        """A revision with a file that takes a while to be sent."""
        branch = self.branch(name)
        with branch.lock_write():
            tree = branch.create_memorytree()
            with tree.lock_write():
                if not tree.is_versioned(""):
                    tree.add([""], ["directory"], [b"root"])
                if not tree.is_versioned("large"):
                    tree.add(["large"], ["file"], [b"large"])
                text = os.urandom(self.random.randint(50_000, 300_000))
                tree.put_file_bytes_non_atomic("large", text)
                self.note(tree.commit("a large one", committer="Jane <jane@example>"))

    def restack(self, name):
        """Make the stacked branch anew."""
        shutil.rmtree(self.place(STACKED), ignore_errors=True)
        on = self.random.choice(
            [each for each in ("a", "b") if self.is_2a(each)] or [0]
        )
        if not on:
            self.make_branch(STACKED)
            return
        made = self.branch(on).controldir.sprout(
            "file://" + self.place(STACKED), stacked=True, create_tree_if_local=False
        )
        self.note(commit(made.open_branch(), self.random.randint(1, 3)))

    def is_2a(self, name):
        """Whether the branch has the format of today."""
        return self.branch(name).repository._format.supports_chks

    def clear(self, name):
        """Remove the packs that were replaced by others."""
        repository = self.branch(name).repository
        with repository.lock_write():
            repository._pack_collection._clear_obsolete_packs()

    # -- what is asked -------------------------------------------------------------

    def question(self):
        """The words of a request for a stream, and its body."""
        name = self.random.choice((*NAMES, STACKED))
        # As it is without those on which it is stacked.
        made = controldir.ControlDir.open(self.place(name))
        repository = made.find_repository()
        to = repository._format.network_name()
        if self.random.random() < 0.15:
            format = controldir.format_registry.make_controldir(
                self.random.choice(FORMATS)
            )
            to = format.repository_format.network_name()
        assert to in format_registry
        verb = b"Repository.get_stream"
        if self.random.random() < 0.9:
            verb += b"_1.19"
        path = "shared" if name.startswith("shared") else name
        return (verb, path.encode() + b"/", to), self.search(name, repository)

    def search(self, name, repository):
        """All, what a tip needs, or what a client with some of it needs."""
        kind = self.random.randrange(4)
        if not kind:
            return b"everything"
        one = self.random.choice([self.tip(name)] * 3 + self.ids)
        if kind == 1:
            return b"ancestry-of\n" + one
        with repository.lock_read():
            graph = repository.get_graph()
            known = self.random.choice(self.ids)
            try:
                wanted = graph.find_unique_ancestors(one, [known])
            except errors.NoCommonAncestor:
                wanted = {one}
            parents = graph.get_parent_map(wanted)
        found = set(parents) - {b"null:"}
        all_parents = {each for key in found for each in parents[key]}
        wrong = int(self.random.random() < 0.1)
        result = SearchResult(
            found - all_parents, all_parents - found, len(found) + wrong, found
        )
        return b"\n".join(result.get_network_struct())

    def tip(self, name):
        """The id of the last revision of a branch."""
        path = self.place(name) + "/.bzr/branch/last-revision"
        with open(path, "rb") as file:
            return file.read().split()[1]
