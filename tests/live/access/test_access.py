# SPDX-License-Identifier: GPL-2.0-or-later

"""Access rules in workers and with ``--inet``, and what becomes of an edit."""

import os

from breezy import controldir

from ...harness import wait_until
from ...sandbox.test_landlock import kernel
from ...serving.smartcase import Request, decode
from ..warm.warmcase import WarmCase

#: What sshd tells of a client; to one of another host no path is named.
REMOTE = {"SSH_CONNECTION": "192.0.2.1 5022 192.0.2.2 22"}
OPEN = "[/]\n* = rw\n"
HIDING = "[/]\n* = r\n[/secret]\nalice =\n"


class AccessCase(WarmCase):
    warm = 0

    def setUp(self):
        super().setUp()
        self.path = os.path.join(self.test_dir, "rules", "access.conf")
        os.mkdir(os.path.dirname(self.path))

    def write(self, text):
        """Put rules in place, as editors do."""
        with open(self.path + ".new", "w") as file:
            file.write(text)
        os.chmod(self.path + ".new", 0o644)
        os.rename(self.path + ".new", self.path)

    def start(self, text, **options):
        self.write(text)
        self.configure(access=self.path, **options)
        self.start_service()
        self.rest()

    def has(self, name, user="alice"):
        """Whether a new connection finds it: yes, no, or what it says instead."""
        asker, made = self.warm_client(user)
        answer = asker.ask(b"has", name.encode())[0]
        asker.close()
        self.assertEqual(["exit", "0"], made.end())
        return answer[0].decode()

    def refused(self, user="alice"):
        """What a connection that is not served says."""
        done = self.run_program(["lp-serve-client", user], **REMOTE)
        self.assertEqual((3, b""), (done.returncode, done.stdout), str(done))
        return done.stderr.decode()


class TestEdits(AccessCase):
    def setUp(self):
        super().setUp()
        os.makedirs(os.path.join(self.root, "secret"))
        os.makedirs(os.path.join(self.root, "open"))

    def test_a_running_service(self):
        """A good edit is seen by the next connection; a bad one changes nothing."""
        self.start(HIDING)
        self.assertEqual(["no", "yes"], [self.has("secret"), self.has("open")])
        self.assertEqual("yes", self.has("secret", "bob"))
        found = {"file": self.path, "sections": 2, "fault": ""}
        self.assertEqual(found, self.status()["access"])
        self.write(OPEN)
        self.assertEqual("yes", self.has("secret"))
        wait_until(lambda: self.status()["access"]["sections"] == 1, "it has seen it")

        start = len(self.log_text())
        self.write(OPEN + "alice = x\n")
        self.assertEqual("yes", self.has("secret"))
        self.wait_for_log(f"{self.path}:3: 'x' is neither", start)
        self.assertContainsString(self.status()["access"]["fault"], ":3: ")
        self.assertContainsString(self.status()["warnings"][0], "those before it stay")
        # Those of another zygote have them too.
        self.ask("reload")
        self.rest()
        self.assertEqual("yes", self.has("secret"))
        os.unlink(self.path)
        self.assertEqual("yes", self.has("secret"))
        self.assertEqual(1, self.log_text(start).count(":3: "))

        self.write(HIDING)
        self.assertEqual("no", self.has("secret"))
        wait_until(lambda: not self.status()["access"]["fault"], "it is good again")
        self.assertEqual([], self.status()["warnings"])

    def test_bad_right_after_good(self):
        """What a connection has seen stays, however soon after it the file is wrong."""
        self.start(OPEN)
        self.assertEqual("yes", self.has("secret"))
        self.write(HIDING)
        self.assertEqual("no", self.has("secret"))
        os.chmod(self.path, 0o666)
        self.assertEqual("no", self.has("secret"))
        self.assertContainsString(self.status()["access"]["fault"], "mode 0666")

    def test_wrong_at_the_start(self):
        """Nobody gets in, and is told no path; until the file is right."""
        self.start("[/]\nalice = w\n")
        self.assertContainsString(self.log_text(), f"{self.path}:2: ")
        for _ in range(2):
            said = self.refused()
            self.assertContainsString(said, "nobody is let in")
            self.assertNotIn(self.test_dir, said)
            self.assertEqual(1, said.count("\n"))
        self.assertIs(None, self.status()["access"]["sections"])
        self.assertContainsString(self.status()["warnings"][0], "nobody is let in")
        self.write(HIDING)
        self.assertEqual(["no", "yes"], [self.has("secret"), self.has("open")])

    def test_unsafe_at_the_start(self):
        self.start(OPEN)
        os.chmod(self.path, 0o666)
        self.stop_service()
        self.start_service()
        self.assertContainsString(self.log_text(), "writable by others (mode 0666)")
        self.assertContainsString(self.refused(), "nobody is let in")

    def test_strict_sandbox(self):
        """Workers may read the file, and one in its place."""
        self.start(HIDING, sandbox="strict")
        if kernel():
            self.assertEqual("strict", self.status()["sandbox"]["holds"])
        self.assertEqual("no", self.has("secret"))
        self.write(OPEN)
        self.assertEqual("yes", self.has("secret"))

    def test_reload_with_another_file(self):
        """One that cannot be used is refused, as other wrong settings are."""
        self.start(HIDING)
        self.configure(access=self.path + "-none")
        self.assertEqual(["error", "failed"], self.ask("reload")[:2])
        self.assertEqual("no", self.has("secret"))


class TestInet(AccessCase):
    def inet(self, *requests, user="alice"):
        words = ("lp-serve", "--inet", "--directory", self.root, "--allow-writes", user)
        data = b"".join(each.encode(2) for each in requests)
        return self.run_program(self.brz(*words), data, **REMOTE)

    def test_inet(self):
        os.makedirs(os.path.join(self.root, "secret"))
        self.write(HIDING)
        self.configure(access=self.path)
        for user, answer in (("alice", b"no"), ("bob", b"yes")):
            done = self.inet(Request((b"has", b"secret")), user=user)
            self.assertEqual([answer], decode(done.stdout, 2).words)
        os.chmod(self.path, 0o666)
        done = self.inet(Request((b"hello",)))
        self.assertEqual((3, b""), (done.returncode, done.stdout))
        self.assertContainsString(done.stderr.decode(), "nobody is let in")
        self.assertNotIn(self.test_dir.encode(), done.stderr)


class TestWarm(AccessCase):
    warm = 16

    def test_hidden(self):
        """What is in memory is told to nobody who may not read it."""
        self.write(HIDING)
        tip = self.make_branch("secret")
        self.start_warm(access=self.path)

        def warm():
            asker, made = self.warm_client("bob")
            asker.parent_map("secret", tip)
            self.finish(asker, made)
            self.rest()
            entry = self.entry("secret")
            return entry if entry is not None and entry["hits"] else None

        wait_until(warm, "it is found in memory")
        asker, made = self.warm_client("alice")
        found, wanted = (asker.parent_map(name, tip) for name in ("secret", "secrex"))
        self.assertEqual(str(wanted), str(found).replace("secret", "secrex"))
        self.finish(asker, made)


class TestControl(AccessCase):
    def control(self, *words):
        return self.run_program(self.brz("lp-serve-control", *words))

    def test_access(self):
        self.start(HIDING)
        for words, said in (
            (("alice", "/secret/x"), f"none ({self.path}:4)\n"),
            (("bob", "/"), f"r ({self.path}:2)\n"),
            (("bob", "/secret/.bzr"), f"r ({self.path}:2)\n"),
        ):
            done = self.control("access", *words)
            self.assertEqual((0, said), (done.returncode, done.stdout.decode()))
        self.write("[/secret]\nbob = rw\n")
        done = self.control("access", "bob", "/open")
        self.assertEqual(f"none (no line of {self.path})\n", done.stdout.decode())
        for words, status, text in (
            (("alice", "../x"), 1, "begins with /"),
            (("alice", "/a/../x"), 1, "begins with /"),
            (("al ice", "/x"), 1, "USER must match"),
            (("alice",), 3, "USER and PATH"),
            (("alice", "/x", "/y"), 3, "not 3"),
        ):
            done = self.control("access", *words)
            self.assertEqual((status, b""), (done.returncode, done.stdout), str(done))
            self.assertContainsString(done.stderr.decode(), text)

    def test_check(self):
        """No service is needed."""
        shared = os.path.join(self.root, "shared")
        os.makedirs(shared)
        controldir.ControlDir.create(shared).create_repository(shared=True)
        self.configure(directory=self.root)
        self.write(HIDING)
        done = self.control("access", "--check", self.path)
        said = f"{self.path}: 2 sections, 0 groups\n"
        self.assertEqual(
            (0, said, b""), (done.returncode, done.stdout.decode(), done.stderr)
        )
        self.write("[/]\n* = r\n[/shared/x]\n* =\n")
        done = self.control("access", "--check", self.path)
        self.assertEqual(0, done.returncode)
        self.assertContainsString(done.stderr.decode(), f"{self.path}:4: [/shared/x]")
        for text, where in (("[/]\nx\n", ":2: neither"), ("", ": there is no section")):
            self.write(text)
            done = self.control("access", "--check", self.path)
            self.assertEqual((1, b""), (done.returncode, done.stdout), str(done))
            self.assertContainsString(done.stderr.decode(), self.path + where)

    def test_pretences(self):
        """The service warns of rules that hide nothing, when it reads them."""
        shared = os.path.join(self.root, "shared")
        os.makedirs(shared)
        controldir.ControlDir.create(shared).create_repository(shared=True)
        self.start("[/]\n* = r\n[/shared/x]\n* =\n")
        self.wait_for_log(f"{self.path}:4: [/shared/x] hides nothing")
        wait_until(lambda: self.status()["warnings"], "status warns of it")
