# SPDX-License-Identifier: GPL-2.0-or-later

"""What the tests through a real sshd share: two hosts that must not differ.

At the host ``now`` lp-serve-client is the forced command, at ``before`` it is
'brz serve --inet', on another copy of the same branches.
"""

import os
import re
import shutil
import subprocess

from breezy.branch import Branch
from breezy.controldir import ControlDir
from breezy.tests import features
from breezy.workingtree import WorkingTree

from ...harness import DEADLINE, LiveTestCase, read_line, wait_until
from ...processes import title_of
from ...realhistory import archive
from .sshd import Sshd, find_sshd

ALICE = "Alice <alice@example.com>"
HELLO = b"ok\x012\n"
SERVE = ("bzr", "serve", "--inet", "--directory=/", "--allow-writes")


class _SshdFeature(features.Feature):
    def _probe(self):
        return find_sshd() is not None

    def feature_name(self):
        return "OpenSSH server and client"


class _RealHistoryFeature(features.Feature):
    def __init__(self, name):
        super().__init__()
        self.path = archive(name)

    def _probe(self):
        return os.path.exists(self.path)

    def feature_name(self):
        return f"the history in {os.path.basename(self.path)} (LPSERVE_TEST_DATA)"


sshd_feature = _SshdFeature()
real_history_feature = _RealHistoryFeature("loggerhead")
long_history_feature = _RealHistoryFeature("breezy")


class SshClientCase(LiveTestCase):
    """Clients that come through ``ssh``, and what they work on.

    :ivar source: where `make_history` makes a branch.
    :ivar ssh_program: what is used in place of ``ssh``.
    """

    def setUp(self):
        super().setUp()
        self.requireFeature(sshd_feature)
        self.source = os.path.join(self.test_dir, "source")

    @property
    def env(self):
        # The order in which Breezy sends what is in a set is by its hash.
        return {**super().env, "PYTHONHASHSEED": "0"}

    @property
    def ssh_program(self):
        raise NotImplementedError

    def make_history(self, count=3):
        """A branch with some revisions, made on the spot."""
        tree = ControlDir.create_standalone_workingtree(self.source)
        self.add_revisions(tree, count)
        tree.branch.tags.set_tag("first", tree.branch.get_rev_id(1))
        return tree

    def add_revisions(self, tree, count):
        """Commit *count* more revisions, the same in every run but for their ids."""
        for _ in range(count):
            number = tree.branch.revno() + 1
            path = os.path.join(tree.basedir, f"file{number % 3}")
            with open(path, "a") as file:
                file.write(f"line of revision {number}\n" * 20)
            if not tree.is_versioned(os.path.basename(path)):
                tree.add([os.path.basename(path)])
            tree.commit(
                f"revision {number}",
                committer=ALICE,
                timestamp=1.7e9 + number,
                timezone=0,
            )

    # -- ssh by hand -----------------------------------------------------------

    def ssh(self, *words, stdin=b""):
        """Run ``ssh`` to its end."""
        return self.run_program([self.ssh_program, *words], stdin)

    def start_ssh(self, host="now", words=SERVE):
        """Start ``ssh`` as a Breezy client does, with pipes."""
        process = subprocess.Popen(
            [self.ssh_program, host, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self.env,
        )
        self.addCleanup(self._end, process)
        return process

    def say_hello(self, process):
        """One round trip on a connection that `start_ssh` has started."""
        os.write(process.stdin.fileno(), b"hello\n")
        self.assertEqual(HELLO, read_line(process.stdout.fileno()))

    def workers_for(self, user):
        """The pids of workers that serve *user*."""
        return [pid for pid in self.processes() if title_of(pid) == f"lp:{user}"]


class SshTestCase(SshClientCase):
    """A service, an sshd in front of it, and the two hosts to compare.

    :ivar roots: what each host serves.
    """

    def setUp(self):
        super().setUp()
        self.roots = {"now": self.root, "before": os.path.join(self.test_dir, "old")}
        os.mkdir(self.roots["before"])
        for host in self.roots:
            os.mkdir(self.work(host))
        self.sshd = Sshd(os.path.join(self.test_dir, "sshd"), super().env)
        self.open_now()
        self.sshd.allow(
            "before", self.brz_serve(self.roots["before"], "--allow-writes")
        )
        self.addCleanup(self.sshd.stop)
        self.sshd.start(self.env)

    def open_now(self):
        """Have ``ssh`` know the host ``now``."""
        self.sshd.allow("now", "lp-serve-client alice")

    @property
    def ssh_program(self):
        return self.sshd.ssh

    @property
    def env(self):
        found = {**super().env, "BRZ_EMAIL": ALICE}
        if hasattr(self, "sshd"):
            found["BRZ_SSH"] = self.ssh_program
        return found

    def brz_serve(self, root, *options):
        """The forced command from before there was a service."""
        words = self.brz("serve", "--inet", f"--directory={root}", *options)
        return " ".join(words)

    def work(self, host):
        """Where the client of *host* keeps its branches."""
        return os.path.join(self.test_dir, f"work-{host}")

    # -- the same at both ------------------------------------------------------

    def both(self, *words, status=0, ordered=True):
        """Run ``brz`` with *words* at both hosts: the same must come of it.

        In *words*, ``{url}`` is the server's root, ``{root}`` what that is on its
        disk, and ``{work}`` where the client is.

        :param ordered: the lines have to come in the same order, too.
        :returns: standard output and standard error.
        """
        running = []
        for host, root in self.roots.items():
            work = self.work(host)
            names = {"url": f"bzr+ssh://{host}", "root": root, "work": work}
            process = subprocess.Popen(
                self.brz(*(word.format(**names) for word in words)),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=self.env,
                cwd=work,
            )
            self.addCleanup(self._end, process)
            running.append((process, names))
        results = []
        for process, names in running:
            out, err = process.communicate(timeout=DEADLINE * 2)
            texts = [out.decode(), err.decode()]
            for name, value in names.items():
                texts = [text.replace(value, f"({name})") for text in texts]
            # Breezy tells a client what it calls a transport, and we the path in it.
            texts = [re.sub(r"filtered-\d+://", "", text) for text in texts]
            if not ordered:
                texts = ["\n".join(sorted(text.split("\n"))) for text in texts]
            results.append((process.returncode, *texts))
        self.assertEqual(results[1], results[0])
        self.assertEqual(status, results[0][0], str(results[0]))
        return results[0][1:]

    def share(self, name, tree):
        """Have the branch of *tree* at both hosts, file for file the same."""
        for root in self.roots.values():
            shutil.copytree(
                os.path.join(tree.basedir, ".bzr"), os.path.join(root, name, ".bzr")
            )
            shutil.rmtree(os.path.join(root, name, ".bzr", "checkout"))

    def assertSameBranch(self, name, revno, same_ids=True):
        """Both servers have the branch, with *revno* revisions and no damage."""
        states = []
        for root in self.roots.values():
            branch = Branch.open(os.path.join(root, name))
            with branch.lock_read():
                count, last = branch.last_revision_info()
                repository = branch.repository
                graph = repository.get_graph()
                ancestry = [each for each, _ in graph.iter_ancestry([last])]
                revision = repository.get_revision(last)
                tree = repository.revision_tree(last)
                texts = [
                    (path, tree.get_file_sha1(path) if kind == "file" else kind)
                    for path, _, kind, _ in tree.list_files(recursive=True)
                ]
                states.append(
                    (
                        count,
                        (last, sorted(ancestry)) if same_ids else len(ancestry),
                        [revision.message, revision.committer, revision.timestamp],
                        branch.tags.get_tag_dict() if same_ids else None,
                        texts,
                        repository.is_shared(),
                        branch._format.network_name(),
                        repository._format.network_name(),
                    )
                )
        self.assertEqual(states[1], states[0])
        self.assertEqual(revno, states[0][0])
        # Branches of a shared repository come as they lie in the directory.
        _, report = self.both("check", f"{{root}}/{name}", ordered=False)
        # Only what is wrong is counted with more than these words.
        self.assertNotRegex(report, "(?i)inconsist|missing|unreferenced|error|damage")
        self.assertRegex(report, "checked repository")

    # -- what to work on -------------------------------------------------------

    def bring(self, tree):
        """Have its history in a branch ``other`` of each of the two clients."""
        for host in self.roots:
            path = os.path.join(self.work(host), "other")
            if os.path.exists(path):
                WorkingTree.open(path).pull(tree.branch)
            else:
                shutil.copytree(tree.basedir, path)

    def wait_until_all_ended(self):
        """Until neither sshd nor the service have a connection open."""
        wait_until(lambda: not self.sshd.sessions(), "sshd has no session left")
        wait_until(lambda: not self.workers_for("alice"), "every worker has ended")
        wait_until(
            lambda: not [p for p in self.processes().values() if "client import" in p],
            "every lp-serve-client has ended",
        )
        self.assertEqual(0, self.settled_status()["workers"]["busy"])

    def assertAllEndedWell(self):
        """Until every connection has ended: none of them with an error."""
        self.wait_until_all_ended()

        def all_counted():
            totals = self.status()["totals"]
            ended = totals["ended"] + totals["failed"]
            return totals if ended == totals["spawned"] else None

        totals = wait_until(all_counted, "the service has counted them")
        self.assertEqual((0, 0), (totals["failed"], totals["faults"]))
        return totals["ended"]
