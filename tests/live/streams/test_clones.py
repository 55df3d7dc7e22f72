# SPDX-License-Identifier: GPL-2.0-or-later

"""Clones through Breezy's own client, and clients that ask at the same time.

LPSERVE_STREAM_HISTORY says which real history is cloned (tests/realhistory.py).
"""

import contextlib
import json
import os
import shutil
import threading

from breezy import controldir
from breezy.branch import Branch
from breezy.repository import Repository

from ...harness import DEADLINE, wait_until
from ...realhistory import archive
from ..warm.warmcase import WarmCase, commit
from .walkchanges import StreamChanges
from .walkclients import Client

HISTORY = os.environ.get("LPSERVE_STREAM_HISTORY") or "loggerhead"
#: A plug-in. The service has time to answer, and makers may stand still. While there is
#: a file "hold" they write only streams whose key is the name of a file.
GATE = """
import os, time
from breezy.plugins.lpserve.lpserve.service import streams
from breezy.plugins.lpserve.lpserve.streams import asking, keptfile, progress

asking.PATIENCE = progress._STILL = streams.YOUNG = 60.0
write = keptfile.NewFile._write

def gated_write(self, data, start):
    while os.path.exists(PLACE + "hold") and not os.path.exists(PLACE + self._key):
        time.sleep(0.005)
    write(self, data, start)

keptfile.NewFile._write = gated_write
"""


class CloneCase(StreamChanges):
    """Has a service, whose makers wait while `hold` says so."""

    warm = 0

    def setUp(self):
        super().setUp()
        self.gate = os.path.join(self.test_dir, "gate-")
        self.add_plugin("gate", GATE.replace("PLACE", repr(self.gate)))
        self.cache = os.path.join(self.home, "lpserve", "streams")
        self.url = "bzr+ssh://host/"

    def run_here(self, *words):
        """Run ``brz`` on what is on this host."""
        return super(WarmCase, self).run_brz(*words)

    def let(self, name):
        """Make a file at the gate."""
        with open(self.gate + name, "wb"):
            pass

    def hold(self):
        """Have makers wait."""
        self.let("hold")
        self.addCleanup(self.release)

    def release(self):
        """Hold nobody any more."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.gate + "hold")

    def clone(self, to, *options, name="trunk"):
        """Clone with ``brz branch``; the path."""
        path = os.path.join(self.test_dir, to)
        self.run_brz("branch", "-q", "--no-tree", *options, self.url + name, path)
        return path

    def make_large(self, name, count=8):
        """Make a branch that does not fit into a pipe."""
        self.make_branch(name)
        for _ in range(count):
            self.add_large(name)

    def streams(self, *names):
        """What the service says of streams."""
        found = json.loads(self.ask("streams")[1])
        return [found[name] for name in names]

    def client(self, name, user="alice"):
        """A client that asks for all of *name*."""
        repository = Branch.open(self.place(name)).repository
        words = (
            b"Repository.get_stream_1.19",
            name.encode() + b"/",
            repository._format.network_name(),
        )
        self.others = threading.Event()
        self.addCleanup(self.others.set)
        made = Client(self, (words, b"everything"), user, self.others)
        made.patience = DEADLINE
        self.addCleanup(self.release)  # before its end is waited for
        return made


class TestRealHistory(CloneCase):
    def test_orders(self):
        """Each block once, or in Breezy's order: the same, and no larger."""
        if not os.path.exists(archive(HISTORY)):
            self.skipTest(f"{archive(HISTORY)} is missing")
        shutil.unpack_archive(archive(HISTORY), self.place("trunk"))
        found, checked, before, after = {}, {}, {}, {}
        for order in ("breezy", "blocks"):
            self.start_warm(stream_order=order)
            path = self.clone(order)
            self.stop_service()
            repository = Repository.open(path)
            with repository.lock_read():
                found[order] = set(repository.all_revision_ids())
            checked[order] = self.check(path)
            before[order] = packs_of(path)
            self.run_here("pack", "-q", "--clean-obsolete-packs", path)
            after[order] = packs_of(path)
        self.assertEqual(found["breezy"], found["blocks"])
        self.assertGreater(len(found["blocks"]), 1000)
        self.assertEqual(checked["breezy"], checked["blocks"])
        self.assertLess(before["blocks"], 1.1 * before["breezy"])
        # A pack of the same has 3 % more or less, by the hashes of a process.
        self.assertLess(after["blocks"], 1.05 * after["breezy"])

    def check(self, path):
        """What ``brz check`` says."""
        done = self.run_program(self.brz("check", "-v", path))
        said = (done.stdout + done.stderr).decode().replace(path, "PATH")
        return done.returncode, sorted(said.splitlines())


def packs_of(path):
    """How many bytes the packs of a repository have."""
    packs = os.path.join(path, ".bzr", "repository", "packs")
    return sum(entry.stat().st_size for entry in os.scandir(packs))


class TestClones(CloneCase):
    def check_same(self, path, name="trunk"):
        """A clone has what *name* has, and is sound."""
        there, here = Branch.open(self.place(name)), Branch.open(path)
        self.assertEqual(there.last_revision_info(), here.last_revision_info())
        with there.lock_read(), here.lock_read():
            tip = there.last_revision()
            wanted = {
                key
                for key, parents in there.repository.get_graph().iter_ancestry([tip])
                if parents is not None
            }
            self.assertEqual(wanted, here.repository.has_revisions(wanted))
            for one, other in zip(
                there.repository.revision_trees(sorted(wanted - {b"null:"})),
                here.repository.revision_trees(sorted(wanted - {b"null:"})),
            ):
                self.assertEqual(texts_of(one), texts_of(other))
        self.run_here("check", path)

    def test_interrupted(self):
        """A client that is killed in the middle, and tries again."""
        self.make_large("trunk")
        self.start_warm(stream_cache_occurrences=1)
        ssh = {"BRZ_SSH": self.make_ssh(f"--door={self.door}")}
        path = os.path.join(self.test_dir, "mine")
        upload = os.path.join(path, ".bzr", "repository", "upload")
        for command in ("branch", "pull"):
            shutil.rmtree(path, ignore_errors=True)
            shutil.rmtree(self.cache)
            os.mkdir(self.cache, 0o700)
            if command == "branch":
                words = ["branch", "-q", "--no-tree", self.url + "trunk", path]
            else:
                controldir.ControlDir.create_branch_convenience(
                    path, force_new_tree=False
                )
                words = ["pull", "-q", "-d", path, self.url + "trunk"]
            self.hold()
            started = self.start_words(self.brz(*words), **ssh)
            [key] = wait_until(self.keys, "the stream is being made")
            wait_until(lambda: os.path.isdir(upload), "the client waits for it")
            started.kill()
            started.wait()
            self.release()
            self.rest()
            # It was made to its end for whoever comes next.
            self.assertEqual([key], os.listdir(self.cache))
            if command == "branch":
                shutil.rmtree(path)
            else:
                self.run_here("break-lock", "--force", path)
            self.run_brz(*words)
            self.check_same(path)
            self.rest()
        totals = self.status()["streams"]
        self.assertEqual([2, 2], [totals["misses"], totals["hits"]])

    def keys(self):
        """The keys of the streams that are being made."""
        return [each["key"] for each in self.streams("making")[0]]

    def test_stacked(self):
        """From a stacked branch, and to one."""
        self.make_branch("trunk", 5)
        made = self.branch("trunk").controldir.sprout(
            "file://" + self.place("stacked"), stacked=True, create_tree_if_local=False
        )
        made.open_branch().set_stacked_on_url("../trunk")
        self.commit("stacked", 3)
        self.start_warm(stream_cache_occurrences=1)
        for number in range(2):
            self.check_same(self.clone(f"mine{number}", name="stacked"), "stacked")
            thin = self.clone(f"thin{number}", "--stacked")
            made = controldir.ControlDir.open(thin)
            self.assertEqual(
                self.branch("trunk").last_revision_info(),
                made.open_branch(ignore_fallbacks=True).last_revision_info(),
            )
            repository = made.open_repository()
            with repository.lock_read():
                self.assertEqual([], repository.all_revision_ids())
            self.rest()

    def test_ghost(self):
        """A parent that is missing stays missing, and may come later."""
        self.make_branch("trunk", 2)
        self.make_branch("other", 2)
        tip = self.branch("other").last_revision()
        commit(self.branch("trunk"), 1, (tip,))
        self.start_warm(stream_cache_occurrences=1)
        for number in range(2):
            path = self.clone(f"mine{number}")
            self.check_same(path)
            self.assertFalse(Repository.open(path).has_revision(tip))
        # What was kept without it is not that of the repository that has it.
        self.branch("trunk").repository.fetch(self.branch("other").repository, tip)
        path = self.clone("whole")
        self.check_same(path)
        self.assertTrue(Repository.open(path).has_revision(tip))


def texts_of(tree):
    """Path -> text of the files of a tree."""
    return {
        path: tree.get_file_text(path)
        for path, _, kind, _ in tree.list_files(recursive=True)
        if kind == "file"
    }


class TestAtOnce(CloneCase):
    def test_eight(self):
        """One makes the stream, and seven read along."""
        self.make_large("trunk", 2)
        self.start_warm()
        self.hold()
        clients = [self.client("trunk", f"user{number}") for number in range(8)]
        for each in clients:
            each.start()
        wait_until(
            lambda: [each["followers"] for each in self.streams("making")[0]] == [7],
            "seven follow one",
        )
        self.release()
        for each in clients:
            each.finish()
            self.assertEqual(clients[0].answer, each.answer)
        self.assertIsInstance(clients[0].answer, bytes)
        self.rest()
        found = self.status()["streams"]
        self.assertEqual(
            [1, 7], [found["misses"], found["followed"] + found["hits"]], found
        )
        self.assertEqual([], os.listdir(self.cache))

    def test_line(self):
        """Who has fewer streams made is next; then who came first."""
        names = ("a", "b", "c", "d")
        for name in names:
            self.make_branch(name)
        self.start_warm(max_streams_at_once=2)
        self.hold()
        clients = []
        for name, user in zip(names, ("alice", "alice", "alice", "bob"), strict=True):
            clients.append(self.client(name, user))
            clients[-1].start()
            self.wait_asked(len(clients))
        making, in_line = self.streams("making", "waiting")
        self.assertEqual(["alice", "bob"], [each["user"] for each in in_line])
        self.let(making[0]["key"])
        clients[0].finish()
        wait_until(lambda: len(self.streams("waiting")[0]) == 1, "the next is made")
        users = [each["user"] for each in self.streams("making")[0]]
        self.assertEqual(["alice", "bob"], users)
        self.release()
        for each in clients:
            each.finish()
            self.assertIsInstance(each.answer, bytes)

    def wait_asked(self, count):
        """Wait until so many streams are being made, or are in line."""
        names = ("making", "waiting")
        wait_until(lambda: sum(map(len, self.streams(*names))) == count, "they ask")

    def test_slow_or_gone(self):
        """Who does not read has no place in line, and neither has who has gone."""
        self.make_large("large")
        self.make_branch("small")
        self.make_branch("other")
        self.start_warm(max_streams_at_once=1)
        slow = self.client("large", "slow")
        reads = self.others
        slow.behave("stall", 1)
        slow.start()
        wait_until(lambda: self.status()["streams"]["misses"] == 1, "it is made")
        self.assertTrue(slow.is_alive())
        self.hold()
        maker = self.client("small")
        maker.start()
        wait_until(lambda: self.streams("making")[0], "it is being made")
        gone = self.client("other", "gone")
        hangs_up = self.others
        gone.behave("leave", 1)
        gone.start()
        wait_until(lambda: self.streams("waiting")[0], "it waits")
        hangs_up.set()
        gone.finish()
        wait_until(lambda: not self.streams("waiting")[0], "nobody waits")
        self.assertEqual(1, len(self.streams("making")[0]))
        self.release()
        maker.finish()
        reads.set()
        slow.finish()
        for each in (maker, slow):
            self.assertIsInstance(each.answer, bytes, each.failure)
        self.rest()
        self.assertEqual(2, self.status()["streams"]["misses"])
