# SPDX-License-Identifier: GPL-2.0-or-later

"""What may happen to branches: `ACTIONS` are names of methods of `Changes`."""

import contextlib
import itertools
import os
import random
import shutil

from breezy import controldir, errors, upgrade
from breezy.branch import Branch

from .warmcase import WarmCase, commit

#: Branches by name, and a link that leads to one of them.
NAMES = ("a", "b", "old", "link")
FORMATS = ("2a", "2a", "1.14-rich-root", "1.9", "pack-0.92")
#: Actions that would copy damage to another branch, for good.
SPREADING = ("merge", "pull", "push")
ACTIONS = (
    *("add",) * 4,
    # Of `walkcase`: waits until what can be is in memory.
    *("settle",) * 4,
    *("nothing",) * 2,
    "add_ghost",
    "merge",
    "pull",
    "push",
    "uncommit",
    "tag",
    "pack",
    "autopack",
    "reconcile",
    "upgrade",
    "recreate",
    "swap",
    "relink",
    "keep",
    "restore",
    "damage",
    "damage",
)


class Changes(WarmCase):
    """Changes branches at random.

    :cvar names: of the branches.
    :ivar random: decides.
    :ivar ids: revisions that are, or were, in some of the branches.
    :ivar damaged: by the name of a branch that was damaged how to repair it.
    """

    names = NAMES

    def setUp(self):
        super().setUp()
        self.random = random.Random()
        self.ids = [b"no-such-revision"]
        self.damaged = {}
        self._copies = itertools.count()
        self._kept = None

    def branch(self, name):
        return Branch.open(self.place(name))

    def note(self, tip):
        self.ids = [*self.ids[-20:], tip]

    def add(self, name, count=0):
        count = count or self.random.randint(1, 3)
        self.note(commit(self.branch(name), count))

    def add_ghost(self, name):
        """A merge of a revision that is not there."""
        ghost = b"ghost-%d" % self.random.randrange(5)
        self.note(commit(self.branch(name), 1, (ghost,)))
        self.note(ghost)

    def merge(self, name):
        """What the other branch has, as a push would bring it."""
        branch, other = self.branch(name), self.branch(self.random.choice(self.names))
        branch.fetch(other)
        self.note(commit(branch, 1, (other.last_revision(),)))

    def pull(self, name):
        other = self.branch(self.random.choice(self.names))
        self.branch(name).pull(other, overwrite=True)

    def push(self, name):
        """Through the service, from a copy."""
        copy = os.path.join(self.test_dir, "copy")
        shutil.rmtree(copy, ignore_errors=True)
        made = self.branch(name).controldir.sprout(
            "file://" + copy, create_tree_if_local=False
        )
        self.note(commit(made.open_branch(), 2))
        url = f"bzr+ssh://host/{name}"
        self.run_brz("push", "--quiet", "--overwrite", "-d", copy, url)

    def uncommit(self, name):
        branch = self.branch(name)
        with branch.lock_write():
            graph = branch.repository.get_graph()
            tip = branch.last_revision()
            parents = graph.get_parent_map([tip]).get(tip, ())
            if parents and branch.revno() > 1:
                branch.set_last_revision_info(branch.revno() - 1, parents[0])

    def tag(self, name):
        branch = self.branch(name)
        branch.tags.set_tag(f"tag{self.random.randrange(3)}", branch.last_revision())

    def pack(self, name):
        repository = self.branch(name).repository
        with repository.lock_write():
            repository.pack()

    def autopack(self, name):
        """Enough packs that Breezy makes one of them."""
        self.note(commit(self.branch(name), 10))

    def reconcile(self, name):
        self.branch(name).repository.reconcile()

    def upgrade(self, name):
        if name != "link":
            format = controldir.format_registry.make_controldir("2a")
            with contextlib.suppress(errors.UpToDateFormat):
                upgrade.upgrade("file://" + self.place(name), format, clean_up=True)

    def recreate(self, name):
        """Delete it, and make another one in its place."""
        if name != "link":
            shutil.rmtree(self.place(name))
            self.damaged.pop(name, None)
            format = self.random.choice(FORMATS)
            self.note(self.make_branch(name, self.random.randint(1, 5), format))

    def swap(self, name):
        """Rename two, so that each is where the other was."""
        os.rename(self.place("a"), self.place("aside"))
        os.rename(self.place("b"), self.place("a"))
        os.rename(self.place("aside"), self.place("b"))
        self.damaged = {
            {"a": "b", "b": "a"}.get(each, each): found
            for each, found in self.damaged.items()
        }

    def relink(self, name):
        """The link leads elsewhere, from one moment to the next."""
        new = self.place("new-link")
        os.symlink(self.random.choice(NAMES[:3]), new)
        os.rename(new, self.place("link"))

    def keep(self, name):
        """Make a backup."""
        if name != "link" and name not in self.damaged:
            self._kept = os.path.join(self.test_dir, "backup")
            shutil.rmtree(self._kept, ignore_errors=True)
            shutil.copytree(self.place(name), self._kept, symlinks=True)

    def restore(self, name):
        """Put the backup, which is older, in its place."""
        if name != "link" and self._kept:
            shutil.rmtree(self.place(name))
            shutil.copytree(self._kept, self.place(name), symlinks=True)
            self.damaged.pop(name, None)

    def damage(self, name):
        """Cut or change an index, a pack or the names of the packs, in place."""
        if name == "link" or name in self.damaged:
            return
        top = self.place(name) + "/.bzr/repository"
        files = [top + "/pack-names"]
        for part in ("indices", "packs"):
            files += sorted(
                os.path.join(top, part, each) for each in os.listdir(f"{top}/{part}")
            )
        path = self.random.choice(files)
        with open(path, "rb") as file:
            data = file.read()
        copy = os.path.join(self.test_dir, f"good-{next(self._copies)}")
        shutil.copytree(self.place(name), copy, symlinks=True)
        place = self.random.randrange(len(data))
        changed = data[:place]
        if self.random.random() < 0.6:
            changed += bytes([data[place] ^ 1 << self.random.randrange(8)])
            changed += data[place + 1 :]
        mode = os.stat(path).st_mode & 0o777
        os.chmod(path, 0o600)
        with open(path, "r+b") as file:
            file.write(changed)
            file.truncate()
        if self.random.random() < 0.5:
            # As if nothing had happened.
            found = os.stat(os.path.join(copy, os.path.relpath(path, self.place(name))))
            os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
        os.chmod(path, mode)
        self.damaged[name] = (copy, os.path.relpath(path, top), place)

    def repair(self):
        """Put what was damaged back."""
        for name, (copy, _, _) in self.damaged.items():
            shutil.rmtree(self.place(name))
            os.rename(copy, self.place(name))
        self.damaged = {}

    def nothing(self, name):
        """Ask again."""
