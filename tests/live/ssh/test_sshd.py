# SPDX-License-Identifier: GPL-2.0-or-later

"""Through a real sshd: what people do, and that they cannot tell the difference.

Every operation is done twice, with the service and without; what the client
prints and what is on the server afterwards has to be the same.
"""

import os
import shutil

from breezy.branch import Branch
from breezy.repository import Repository

from ...client.nativeclient import compiler, native_client
from .sshcase import SshTestCase, real_history_feature

DATE = "2026-01-01 12:00:00 +0000"


#: A forced command: one connection through the FIFO, the next one through the
#: socket; the second by another program.
ALTERNATING = """\
#!/bin/sh
if mkdir "$0.turn" 2> /dev/null; then
    exec lp-serve-client --door fifo "$@"
fi
rmdir "$0.turn"
echo >> "$0.socket"
exec {other} --door socket "$@"
"""


class TestWork(SshTestCase):
    """What people do with a branch, each step the same as before."""

    #: What sshd runs, where there is one.
    client = None

    def open_now(self):
        self.client = os.path.join(self.test_dir, "alternating")
        other = native_client() if compiler.available() else "lp-serve-client"
        with open(self.client, "w") as file:
            file.write(ALTERNATING.format(other=other))
        os.chmod(self.client, 0o700)
        self.sshd.allow("now", f"{self.client} alice")

    def assertAllEndedWell(self):
        """The same; half of them have come through the socket."""
        count = super().assertAllEndedWell()
        if self.client is not None:
            with open(self.client + ".socket") as file:
                self.assertEqual(count // 2, len(file.read()))
        return count

    def test_a_day_with_a_branch(self):
        tree = self.make_history()
        self.share("trunk", tree)
        self.start_service()
        _, err = self.both("branch", "{url}/trunk", "mine")
        self.assertEqual("Branched 3 revisions.\n", err)
        out, _ = self.both("log", "--line", "--timezone=utc", "{url}/trunk")
        self.assertIn("revision 2", out)
        out, _ = self.both("tags", "-d", "{url}/trunk")
        self.assertEqual(["first", "1"], out.split())

        # Work goes on elsewhere, at last with so many packs that they are combined.
        for count in (1, 1, 1, 7):
            self.add_revisions(tree, count)
            if count == 7:
                tree.branch.tags.set_tag("latest", tree.branch.last_revision())
            self.bring(tree)
            _, err = self.both("push", "-d", "other", "{url}/trunk")
            self.assertIn(f"Pushed up to revision {tree.branch.revno()}.", err)
            if count == 1:
                self.assertSamePacks("trunk")
        self.assertSameNumberOfPacks("trunk", 4)
        self.assertEqual(("13\n", ""), self.both("revno", "{url}/trunk"))
        out, _ = self.both("pull", "-v", "-d", "mine")
        self.assertIn("revision 13", out)
        self.both("pull", "-d", "mine")
        out, _ = self.both("tags", "-d", "mine")
        self.assertEqual(["first", "1", "latest", "13"], out.split())
        self.assertSameBranch("trunk", 13)

        # A checkout bound to it: commits are made on the server first.
        self.both("checkout", "{url}/trunk", "bound")
        for host in self.roots:
            with open(os.path.join(self.work(host), "bound", "file1"), "a") as file:
                file.write("from the checkout\n")
        commit = ("commit", "-m", "bound", f"--commit-time={DATE}", "bound")
        _, err = self.both(*commit)
        self.assertIn("Committed revision 14.", err)
        self.both("update", "bound")
        self.assertSameBranch("trunk", 14, same_ids=False)
        # Who has diverged is told so, and nothing changes.
        self.add_revisions(tree, 1)
        self.bring(tree)
        _, err = self.both("push", "-d", "other", "{url}/trunk", status=3)
        self.assertIn("diverged", err)
        self.assertSameBranch("trunk", 14, same_ids=False)
        self.assertAllEndedWell()

    def packs(self, name):
        """The names of the packs at each host: digests of what is in them."""
        return [
            sorted(os.listdir(f"{root}/{name}/.bzr/repository/packs"))
            for root in self.roots.values()
        ]

    def assertSamePacks(self, name):
        now, before = self.packs(name)
        self.assertEqual(before, now)

    def assertSameNumberOfPacks(self, name, count):
        # Breezy combines packs of one size by their address in memory.
        self.assertEqual([count, count], [len(each) for each in self.packs(name)])

    def test_new_places(self):
        tree = self.make_history()
        self.start_service()
        self.bring(tree)
        self.both("init", "{url}/made")
        self.both("push", "-d", "other", "{url}/made")
        self.assertSameBranch("made", 3)
        self.both("push", "-d", "other", "{url}/a/b/c", status=3)
        self.both("push", "-d", "other", "--create-prefix", "{url}/a/b/c")
        self.assertSameBranch("a/b/c", 3)
        self.both("init-shared-repository", "--no-trees", "{url}/shared")
        self.both("push", "-d", "other", "{url}/shared/one")
        self.both("branch", "{url}/shared/one", "{url}/shared/two")
        self.assertSameBranch("shared/one", 3)
        self.assertSameBranch("shared/two", 3)
        for root in self.roots.values():
            self.assertFalse(os.path.exists(f"{root}/shared/one/.bzr/repository"))
        self.add_revisions(tree, 2)
        self.bring(tree)
        stacked = (
            "push",
            "-d",
            "other",
            "--stacked-on={url}/made",
            "{url}/stacked",
        )
        self.both(*stacked)
        for host, root in self.roots.items():
            repository = Repository.open(os.path.join(root, "stacked"))
            with repository.lock_read():
                self.assertEqual(2, len(repository.all_revision_ids()))
            with open(f"{root}/stacked/.bzr/branch/branch.conf") as config:
                self.assertEqual(
                    f"stacked_on_location = bzr+ssh://{host}/made\n", config.read()
                )
        _, err = self.both("branch", "{url}/stacked", "whole")
        self.assertEqual("Branched 5 revisions.\n", err)
        for host in self.roots:
            branch = Branch.open(os.path.join(self.work(host), "whole"))
            self.assertEqual(tree.branch.last_revision(), branch.last_revision())
        self.both("check", "whole")
        self.both("pack", "{url}/stacked")
        self.both("branch", "{url}/none", "none", status=3)

    def test_real_history(self):
        self.requireFeature(real_history_feature)
        for root in self.roots.values():
            place = os.path.join(root, "loggerhead")
            shutil.unpack_archive(real_history_feature.path, place)
        self.start_service()
        self.assertEqual(("562\n", ""), self.both("revno", "{url}/loggerhead"))
        branch = ("branch", "--no-tree", "{url}/loggerhead", "mine")
        self.assertEqual(("", "Branched 562 revisions.\n"), self.both(*branch))
        there = Branch.open(os.path.join(self.root, "loggerhead"))
        for host in self.roots:
            mine = Branch.open(os.path.join(self.work(host), "mine"))
            with mine.lock_read(), there.lock_read():
                self.assertEqual(there.last_revision_info(), mine.last_revision_info())
                self.assertEqual(there.tags.get_tag_dict(), mine.tags.get_tag_dict())
                graph = there.repository.get_graph()
                ancestry = {k for k, _ in graph.iter_ancestry([there.last_revision()])}
                have = mine.repository.has_revisions(ancestry)
                self.assertEqual(ancestry, set(have))
