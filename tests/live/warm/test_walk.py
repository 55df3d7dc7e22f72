# SPDX-License-Identifier: GPL-2.0-or-later

"""FAULT 26: whatever happens to a repository, a warm service answers as a cold one.

A random walk: branches are changed in all the ways there are, and after each step a
worker of the service and a ``brz serve --inet`` are asked the same. How many steps is
in LPSERVE_WARM_STEPS, and LPSERVE_WARM_SEED repeats a walk.
"""

import bz2
import contextlib
import itertools
import os
import random
import shutil
import sys
from collections import Counter

from breezy import controldir, errors, upgrade
from breezy.branch import Branch

from ...harness import DEADLINE
from .warmcase import NOTHING_SEEN, WarmCase, commit, comparable

STEPS = int(os.environ.get("LPSERVE_WARM_STEPS", "60"))
#: Branches by name, and a link that leads to one of them.
NAMES = ("a", "b", "old", "link")
FORMATS = ("2a", "2a", "1.14-rich-root", "1.9", "pack-0.92")
#: For how many steps one cold process is used.
COLD_LIFE = 20
#: Actions that would copy damage to another branch, for good.
SPREADING = ("merge", "pull", "push")
#: A plug-in: a repository that was damaged is soon tried again.
HASTY = """
from breezy.plugins.lpserve.lpserve.service import warmset
warmset.ASIDE, warmset.ASIDE_AT_MOST = 0.1, 0.5
"""


class Cold:
    """A ``brz serve --inet`` that is asked a few times, then another."""

    def __init__(self, case):
        self._case = case
        self._left = 0
        self._asker = self._process = None

    def ask(self, questions):
        """The answers to *questions*, which are words and a body."""
        if not self._left:
            self.close()
            self._asker, self._process = self._case.cold_client()
            self._left = COLD_LIFE
        self._left -= 1
        return [self._asker.ask(*words, body=body) for words, body in questions]

    def close(self):
        """End the present one."""
        if self._asker is not None:
            self._asker.close()
            self._case.assertEqual(0, self._process.wait(DEADLINE))


class Warm:
    """The service: a new connection, or one that has been there for a while."""

    def __init__(self, case, source):
        self._case = case
        self._random = source
        self._held = None

    def ask(self, questions):
        """The answers to *questions*."""
        if self._held is not None and self._random.random() < 0.4:
            self.close()
        if self._held is None:
            self._held = self._case.warm_client()
        return [self._held[0].ask(*words, body=body) for words, body in questions]

    def close(self):
        """End the connection; a service that has come to rest."""
        if self._held is not None:
            self._case.finish(*self._held)
            self._held = None


class TestWalk(WarmCase):
    def test_walk(self):
        # Whoever changes a damaged branch may leave it locked.
        self.thisFailsStrictLockCheck()
        self._lock_check_thorough = False
        seed = int(os.environ.get("LPSERVE_WARM_SEED") or random.randrange(1 << 32))
        self.random = random.Random(seed)
        self.done = Counter()
        self.damaged = {}
        self.copies = itertools.count()
        self.kept = None
        self.ids = [b"no-such-revision"]
        # Whatever goes wrong now is known by its seed.
        print(f"warm walk: seed {seed}", file=sys.stderr)
        for name in NAMES[:2]:
            self.ids.append(self.make_branch(name, 4))
        self.ids.append(self.make_branch("old", 4, "pack-0.92"))
        os.symlink("a", self.place("link"))
        self.add_plugin("hasty", HASTY)
        self.start_warm()
        self.cold, self.warm_side = Cold(self), Warm(self, self.random)
        try:
            for number in range(STEPS):
                self.step(f"seed {seed}, step {number}")
        finally:
            self.warm_side.close()
            self.cold.close()
        self.rest()
        status = self.status()
        hits = sum(each["hits"] for each in status["warm"])
        print(
            f"warm walk: {STEPS} steps, {self.compared} answers, {hits} hits, "
            f"edition {status['warm_set']['edition']}, {dict(self.done)}",
            file=sys.stderr,
        )
        self.assertEqual(0, status["totals"]["faults"])
        self.assertTrue(self.done["settle"] and hits, "nothing was warm")

    compared = 0

    def step(self, where):
        """Change something, and compare."""
        action = self.random.choice(ACTIONS)
        name = self.random.choice(NAMES)
        if self.damaged and action in SPREADING:
            action = "nothing"
        try:
            getattr(self, action)(name)
            self.done[action] += 1
        except Exception as error:
            # The branch may be damaged: that is what the question is about.
            if not self.damaged and not isinstance(error, errors.BzrError):
                raise
            self.done["failed"] += 1
        questions = [each for one in NAMES for each in self.questions(one)]
        self.random.shuffle(questions)
        for (words, body), warm, cold in zip(
            questions,
            self.warm_side.ask(questions),
            self.cold.ask(questions),
            strict=True,
        ):
            self.compared += 1
            if plain(words[0], warm) != plain(words[0], cold):
                self.fail(
                    f"{where}, after {action} {name}: {words} {body}:\n"
                    f"warm: {plain(words[0], warm)}\ncold: {plain(words[0], cold)}\n"
                    f"damaged: {self.damaged}"
                )
        if self.damaged and self.random.random() < 0.5:
            self.repair()

    def questions(self, name):
        """Some of what a client may ask of the branch *name*."""
        path = name.encode() + b"/"
        one, other = self.random.choice(self.ids), self.random.choice(self.ids)
        tip = self.tip(name)
        pairs = b"%s\n%s\n%d" % (one, other, self.random.randrange(4))
        asked = [
            ((b"Branch.last_revision_info", path), None),
            ((b"Branch.get_tags_bytes", path), None),
            ((b"BzrDir.find_repositoryV3", path), None),
            ((b"Repository.get_revision_graph", path, tip), None),
            ((b"Repository.get_revision_graph", path, one), None),
            ((b"Repository.get_revision_graph", path, b""), None),
            ((b"Repository.has_revision", path, one), None),
            ((b"Branch.revision_id_to_revno", path, one), None),
            ((b"Repository.gather_stats", path, tip, b"no"), None),
        ]
        parents = (b"Repository.get_parent_map", path)
        missing = (*parents, b"include-missing:")
        asked += [
            ((*missing, tip), NOTHING_SEEN),
            ((*missing, one, other), NOTHING_SEEN),
            ((*parents, one), NOTHING_SEEN),
            ((*missing, tip), b"%s\n%s\n1" % (tip, b"")),
            ((*missing, one), pairs),
        ]
        return self.random.sample(asked, 5) + [asked[3], asked[9]]

    def tip(self, name):
        try:
            with open(self.place(name) + "/.bzr/branch/last-revision", "rb") as file:
                return file.read().split()[1]
        except (OSError, IndexError):
            return b"null:"

    # -- what may happen -------------------------------------------------------

    def branch(self, name):
        return Branch.open(self.place(name))

    def note(self, tip):
        self.ids = [*self.ids[-20:], tip]

    def add(self, name):
        self.note(commit(self.branch(name), self.random.randint(1, 3)))

    def add_ghost(self, name):
        """A merge of a revision that is not there."""
        ghost = b"ghost-%d" % self.random.randrange(5)
        self.note(commit(self.branch(name), 1, (ghost,)))
        self.note(ghost)

    def merge(self, name):
        """What the other branch has, as a push would bring it."""
        branch, other = self.branch(name), self.branch(self.random.choice(NAMES))
        branch.fetch(other)
        self.note(commit(branch, 1, (other.last_revision(),)))

    def pull(self, name):
        other = self.branch(self.random.choice(NAMES))
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
            self.kept = os.path.join(self.test_dir, "backup")
            shutil.rmtree(self.kept, ignore_errors=True)
            shutil.copytree(self.place(name), self.kept, symlinks=True)

    def restore(self, name):
        """Put the backup, which is older, in its place."""
        if name != "link" and self.kept:
            shutil.rmtree(self.place(name))
            shutil.copytree(self.kept, self.place(name), symlinks=True)
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
        copy = os.path.join(self.test_dir, f"good-{next(self.copies)}")
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

    def settle(self, name):
        """Wait until all that can be is in memory."""
        self.warm_side.close()
        if not self.damaged:
            for each in NAMES:
                self.wait_warm(each)

    def nothing(self, name):
        """Ask again."""


ACTIONS = (
    *("add",) * 4,
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


def plain(verb, answer):
    """*answer*, but for the order of what has none."""
    words, body = comparable(answer)
    if words == (b"ok",) and verb == b"Repository.get_revision_graph":
        body = sorted(body.split(b"\n"))
    elif words == (b"ok",) and verb == b"Repository.get_parent_map":
        body = sorted(bz2.decompress(body).split(b"\n"))
    elif words == (b"ok",) and verb == b"Repository.gather_stats":
        # Where a history has two roots the first one found is not always the same.
        body = [each for each in body.split(b"\n") if not each.startswith(b"first")]
    return words, body
