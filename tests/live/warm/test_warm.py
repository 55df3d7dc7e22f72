# SPDX-License-Identifier: GPL-2.0-or-later

"""Repositories in memory, with a real service and real loaders.

test_walk.py compares the answers; tests/service has the limits and intervals.
"""

import bz2
import json
import os
import shutil
import signal

from breezy.branch import Branch
from breezy.controldir import ControlDir
from breezy.tests.scenarios import load_tests_apply_scenarios

from ...harness import BY_DOOR, descriptors_of, wait_until
from .warmcase import WarmCase

load_tests = load_tests_apply_scenarios

GRAPH = b"Repository.get_revision_graph"


#: Has loaders take the file system of the repositories for one of a network.
NETWORKED = """
from breezy.plugins.lpserve.lpserve.warm import loader
loader.network_file_system = lambda path: "a network"
"""


class TestWarm(WarmCase):
    """What was used is found in memory later."""

    scenarios = BY_DOOR

    def test_found(self):
        tip = self.make_branch("a", 5)
        self.start_warm()
        before = self.once(GRAPH, b"a/", tip)
        entry = self.wait_warm("a")
        self.assertEqual(5, entry["revisions"])
        self.assertEqual("warm", entry["state"])
        asker, made = self.warm_client()
        words, body = asker.ask(GRAPH, b"a/", tip)
        self.assertEqual((b"ok",), words)
        self.assertEqual(sorted(before[1].split()), sorted(body.split()))
        words, body = asker.parent_map("a", tip)
        self.assertEqual((b"ok",), words)
        self.assertEqual(5, bz2.decompress(body).count(b"\n") + 1)
        self.finish(asker, made)
        log = self.wait_for_log("was found in memory")
        self.assertContainsRe(log, r"warm: loaded \S+/a \(5 revisions, ")

    def test_no_descriptors(self):
        """What is in memory leaves none open, in a worker or where it is forked."""
        self.make_branch("a")
        self.start_warm()
        self.wait_warm("a")
        asker, made = self.warm_client()
        asker.parent_map("a", b"x")
        for pid in (made.pid, self.status()["zygote"]):
            found = " ".join(descriptors_of(pid).values())
            self.assertNotContainsRe(found, "memfd")
        self.finish(asker, made)

    def test_stacked(self):
        """The repository that it is stacked on is in memory too."""
        self.make_branch("base", 4)
        self.start_warm()
        base = Branch.open(self.place("base"))
        url = "file://" + self.place("top")
        base.controldir.sprout(url, stacked=True, create_tree_if_local=False)
        # Where it is for those who see no more than what is served.
        Branch.open(url).set_stacked_on_url("../base")
        self.commit("top")
        self.run_brz("log", "bzr+ssh://host/top")
        self.wait_state("base", "warm")
        self.wait_state("top", "warm")

    def test_network(self):
        """What is on a network file system is read anew each time, or kept if told."""
        # No such file system can be had here; the one that there is stands for one.
        self.add_plugin("networked", NETWORKED)
        self.make_branch("a")
        self.start_warm()
        self.use("a")
        self.wait_for_log("a is put aside for 60 s: it is on a network")
        self.assertEqual("aside", self.entry("a")["state"])
        self.stop_service()
        self.start_warm(warm_network=True)
        self.wait_warm("a")

    def test_shared(self):
        """A repository of several branches is kept once, with all of them."""
        os.mkdir(self.place("shared"))
        ControlDir.create(self.place("shared")).create_repository(shared=True)
        tips = {each: self.make_branch(f"shared/{each}", 2) for each in "ab"}
        self.start_warm()
        self.wait_warm("shared")
        for name, tip in tips.items():
            words, body = self.once(GRAPH, b"shared/", tip)
            self.assertEqual(((b"ok",), 2), (words, body.count(b"\n") + 1))
            path = f"shared/{name}/".encode()
            answer = self.once(b"Branch.revision_id_to_revno", path, tip)
            self.assertEqual((b"ok", b"2"), answer[0])
        (entry,) = self.status()["warm"]
        self.assertEqual(4, entry["revisions"])
        self.assertTrue(entry["hits"], entry)

    def test_old_formats(self):
        """All formats of packs are kept; others are served as ever."""
        formats = ("pack-0.92", "1.9", "1.14-rich-root", "2a", "knit")
        tips = {each: self.make_branch(each, 3, each) for each in formats}
        self.start_warm()
        for name, tip in tips.items():
            if name != "knit":
                self.wait_warm(name)
            words, body = self.once(GRAPH, name.encode() + b"/", tip)
            self.assertEqual(((b"ok",), 3), (words, body.count(b"\n") + 1))
        self.assertIs(None, self.entry("knit"))


class TestLife(WarmCase):
    """How the set of repositories comes and goes."""

    def test_restart(self):
        """It survives the service, and rubbish in its place does no harm."""
        self.make_branch("a")
        self.start_warm()
        self.wait_warm("a")
        self.stop_service()
        path = os.path.join(self.runtime, "warm")
        with open(path) as file:
            self.assertEqual([os.path.realpath(self.place("a"))], json.load(file))
        self.assertEqual(0o600, os.stat(path).st_mode & 0o777)
        self.start_warm()
        self.wait_state("a", "warm")
        for rubbish in (b"", b"\0\xff", b"{}", b"[1, null, [[]]]", b"[" * 100000):
            self.stop_service()
            with open(path, "wb") as file:
                file.write(rubbish)
            self.start_warm()
            self.assertEqual([], self.status()["warm"])
        self.assertEqual(0, self.status()["totals"]["faults"])

    def test_removed(self):
        """FAULT 66: it is told once, by this service or any later one."""
        for name in ("a", "b"):
            self.make_branch(name)
        self.start_warm()
        for name in ("a", "b"):
            self.use(name)
            self.wait_state(name, "warm")
        self.stop_service()
        shutil.rmtree(self.place("a"))
        for _ in range(2):
            self.start_warm()
            self.wait_state("b", "warm")
            wait_until(lambda: self.entry("a") is None, "it is forgotten")
            self.stop_service()
        log = self.log_text()
        self.assertEqual(1, log.count("/a is not there any more"), log)
        self.assertNotContainsRe(log, "/a is put aside")

    def test_preload(self):
        self.make_branch("a")
        missing = self.place("missing")
        paths = ",".join((self.place("a"), missing, "relative"))
        self.start_warm(warm_preload=paths)
        self.wait_state("a", "warm")
        entry = self.wait_state("missing", "aside")
        self.assertEqual("it is not there", entry["why"])
        self.assertContainsRe(self.log_text(), "'relative' is not an absolute path")

    def test_off(self):
        self.make_branch("a")
        self.warm = 0
        self.start_warm()
        self.use("a")
        self.rest()
        self.assertEqual([], self.status()["warm"])

    def test_reload(self):
        """A new zygote has what the old one had."""
        self.make_branch("a")
        self.start_warm(warm_interval=3600)
        self.use("a")
        self.wait_state("a", "warm")
        for _ in range(2):
            self.ask("reload")
            self.rest()
            self.wait_warm("a")
            os.kill(self.status()["zygote"], signal.SIGKILL)
            self.rest()
            self.wait_warm("a")
        self.assertEqual(1, self.status()["warm_set"]["edition"])

    def test_long_connection(self):
        """It tells what it uses while it lasts, idle or not."""
        self.make_branch("a")
        self.add_plugin("hasty", HASTY)
        self.start_warm(warm_report_interval=0.1)
        asker, made = self.warm_client()
        asker.parent_map("a", b"x")
        self.wait_state("a", "warm")
        self.finish(asker, made)


#: Has a connection look around more often while nothing is asked.
HASTY = """
from breezy.plugins.lpserve.lpserve.serving import medium
medium.PipeMedium._POLL_SECONDS = 0.05
"""


class TestRights(WarmCase):
    """FAULT 27; that none can write who may not is in tests/live/sandbox."""

    def test_another_root(self):
        """What is kept of one user's repository does not show it to another."""
        os.makedirs(self.place("alice"))
        os.makedirs(self.place("bob"))
        tip = self.make_branch("alice/a")
        self.root += "/%u"
        self.start_warm()
        self.root = self.root[:-3]
        asker, made = self.warm_client("alice")
        self.assertEqual((b"ok",), asker.ask(GRAPH, b"a/", tip)[0])
        self.finish(asker, made)
        self.wait_state("alice/a", "warm")
        for path in (b"a/", b"../alice/a/", b"/alice/a/", b"%2e%2e/alice/a/"):
            asker, made = self.warm_client("bob")
            self.assertNotEqual((b"ok",), asker.ask(GRAPH, path, tip)[0])
            asker.close()
            made.end()


#: A Breezy that was changed in a place that is relied on.
CHANGED = """
from breezy.bzr import pack_repo

def is_write_locked(self):
    return self._write_lock_count > 0

pack_repo.PackRepository.is_write_locked = is_write_locked
"""


class TestAnotherBreezy(WarmCase):
    def test_off(self):
        """One warning, and everything works."""
        tip = self.make_branch("a")
        self.add_plugin("changed", CHANGED)
        self.start_warm()
        for _ in range(2):
            self.assertEqual(3, self.once(GRAPH, b"a/", tip)[1].count(b"\n") + 1)
        self.ask("reload")
        self.rest()
        self.assertEqual(
            1, self.log_text().count("repositories are not kept in memory")
        )
        off = self.status()["warm_set"]["off"]
        self.assertEqual("PackRepository.is_write_locked is not the one expected", off)
