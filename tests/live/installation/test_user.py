# SPDX-License-Identifier: GPL-2.0-or-later

"""Who is let in by 'lp-serve-setup user add' is served, until 'user remove'."""

import os
import subprocess

from ...harness import read_line
from ...installation.installationcase import make_key, write
from ...processes import title_of
from ..ssh.sshcase import HELLO, SERVE, sshd_feature
from ..ssh.sshd import Sshd
from .runningcase import RunningCase


class TestUser(RunningCase):
    def test_sshd(self):
        """A real sshd reads what is written."""
        self.requireFeature(sshd_feature)
        self.start_service()
        sshd = Sshd(os.path.join(self.test_dir, "sshd"), super().env)
        self.addCleanup(sshd.stop)
        key = sshd.make_key("carol")
        sshd.start(self.env)
        sshd.add_host("now", self.installation.account, key)
        config = os.path.join(self.test_dir, "sshd", "sshd_config")
        options = {"for": "sshd", "sshd-config": config}
        done = self.setup("user", "add", "carol", f"{key}.pub", **options)
        self.assertEqual((0, b""), (done.returncode, done.stderr))
        client = subprocess.Popen(
            [sshd.ssh, "now", *SERVE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=self.env,
        )
        self.addCleanup(self._end, client)
        os.write(client.stdin.fileno(), b"hello\n")
        self.assertEqual(HELLO, read_line(client.stdout.fileno()))
        titles = [title_of(pid) for pid in self.processes()]
        self.assertEqual(["lp:carol"], [each for each in titles if each[:3] == "lp:"])
        client.stdin.close()
        self.assertEqual(0, client.wait())
        done = self.setup("user", "remove", "carol", **options)
        self.assertEqual((0, b""), (done.returncode, done.stderr))
        done = self.run_program([sshd.ssh, "now", *SERVE], b"hello\n")
        self.assertEqual(255, done.returncode)
        self.assertContainsString(done.stderr, b"Permission denied")

    def test_command(self):
        """Keys from standard input; lines of the list; what is refused."""
        words = [self.installation.brz, "lp-serve-setup"]
        words += [f"--account={self.installation.account}", "user"]
        given = f"{make_key('carol')}\n".encode()
        done = self.run_program([*words, "add", "carol", "-"], given)
        self.assertEqual((0, b""), (done.returncode, done.stderr))
        self.assertContainsRe(done.stdout, rb"^carol: SHA256:\S+ added to .*/keys\n$")
        self.assertContainsString(self.setup("user", "list").stdout, b" carol ssh-ed2")
        path = os.path.join(self.test_dir, "id_ed25519")
        write(path, "-----BEGIN OPENSSH PRIVATE KEY-----\n")
        for words, text in (
            (["user", "add", "dave", path], b"is a private key"),
            (["user", "add", "dave"], b"user add takes NAME and KEYFILE, not 1"),
            (["user", "remove", "dave"], b"dave has no key here"),
            (["user", "list", "--force"], b"--force does not go with user list"),
            (["users"], b"expected one of check, user add, "),
            (["check", "--account=nosuchuser"], b"there is no such account"),
        ):
            options = {"sshd-config": None, "units": None}
            if any(word.startswith("--account") for word in words):
                options["account"] = None
            done = self.setup(*words, **options)
            self.assertEqual((3, b""), (done.returncode, done.stdout), done)
            self.assertContainsString(done.stderr, text)
            self.assertEqual(1, done.stderr.count(b"\n"))
