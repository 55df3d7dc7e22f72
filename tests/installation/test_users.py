# SPDX-License-Identifier: GPL-2.0-or-later

"""'lp-serve-setup user': who is let in, by sshd and by lp-serve-ssh."""

import os
import stat
import threading

from ...lpserve.errors import LpserveError
from ...lpserve.installation.publickeys import fingerprint, parse_keys
from ...lpserve.installation.stores import AuthorizedKeys
from ...lpserve.installation.users import add_user, list_users, remove_user
from .installationcase import InstallationCase, make_key, read, write


class UserCase(InstallationCase):
    def setUp(self):
        super().setUp()
        self.place = self.installation.place()
        # Of sshd nothing is asked here: the file is that of the home directory.
        object.__setattr__(self.place, "sshd_said", "strictmodes yes\n")
        self.keys = self.installation.path("keys")

    def key_file(self, *names):
        path = os.path.join(self.test_dir, "given.pub")
        write(path, "".join(f"{make_key(name)}\n" for name in names))
        return path

    def add(self, name, *keys, server=None):
        return add_user(self.place, server, name, self.key_file(*(keys or [name])))

    def assertRefused(self, text, call, *args, **keywords):
        error = self.assertRaises(LpserveError, call, *args, **keywords)
        self.assertContainsRe(str(error), text)

    @staticmethod
    def shown(name):
        [key] = parse_keys(make_key(name).encode(), "")
        return fingerprint(key.blob)


class TestUsers(UserCase):
    def test_directory(self):
        path = os.path.join(self.keys, "carol")
        found = self.add("carol", "carol", "carol2")
        self.assertEqual(
            [
                f"carol: {self.shown('carol')} added to {self.keys}",
                f"carol: {self.shown('carol2')} added to {self.keys}",
            ],
            found,
        )
        self.assertEqual(f"{make_key('carol')}\n{make_key('carol2')}\n", read(path))
        self.assertEqual(0o644, stat.S_IMODE(os.stat(path).st_mode))
        self.assertEqual([], self.problems())
        self.assertContainsString(self.add("carol")[0], "is already in")
        self.add("carol", "carol3")
        self.assertEqual(3, read(path).count("\n"))
        self.assertEqual(
            [f"carol: 3 keys removed from {self.keys}"],
            remove_user(self.place, None, "carol"),
        )
        self.assertFalse(os.path.exists(path))
        self.assertRefused("carol has no key", remove_user, self.place, None, "carol")

    def test_lines(self):
        """Other lines stay as they are, a last one without a newline, too."""
        lines = self.installation.lines
        before = read(lines) + f"# odd\n\n  no key\n{make_key('root')}"
        write(lines, before, 0o600)
        self.add("carol", server="sshd")
        line = f'command="{self.installation.client} carol",restrict '
        self.assertEqual(f"{before}\n{line}{make_key('carol')}\n", read(lines))
        self.assertEqual(0o600, stat.S_IMODE(os.stat(lines).st_mode))
        remove_user(self.place, "sshd", "carol")
        self.assertEqual(f"{before}\n", read(lines))

    def test_first(self):
        """The file and its directory are made, for sshd to like them."""
        ssh = os.path.dirname(self.installation.lines)
        os.unlink(self.installation.lines)
        os.rmdir(ssh)
        self.add("carol", server="sshd")
        self.assertEqual(0o700, stat.S_IMODE(os.stat(ssh).st_mode))
        mode = stat.S_IMODE(os.stat(self.installation.lines).st_mode)
        self.assertEqual(0o600, mode)
        self.assertEqual([], self.problems())

    def test_list_and_remove(self):
        """Both servers are looked at, unless one is named."""
        found = list_users(self.place, None)
        self.assertEqual(
            [
                f"{server} {user} ssh-ed25519 {self.shown(user)} {user}@example.com"
                for server in ("lp-serve-ssh", "sshd")
                for user in ("alice", "bob")
            ],
            found,
        )
        self.assertEqual(found[2:], list_users(self.place, "sshd"))
        self.assertEqual(2, len(remove_user(self.place, None, "alice")))
        self.assertEqual([found[1], found[3]], list_users(self.place, None))
        self.assertRefused("--for must be", list_users, self.place, "telnetd")

    def test_refused(self):
        """Nothing has changed then."""
        before = read(self.installation.lines), os.listdir(self.keys)
        # Whichever server it is for.
        for server in ("sshd", "lp-serve-ssh", None):
            self.assertRefused(
                "is alice's already", self.add, "carol", "carol", "alice", server=server
            )
        self.assertRefused("a NAME must match", self.add, "../carol")
        self.assertRefused("No such file", add_user, self.place, None, "c", "/no/file")
        os.chmod(self.keys, 0o775)
        self.assertRefused("chmod go-w", self.add, "carol")
        self.assertEqual(before, (read(self.installation.lines), os.listdir(self.keys)))

    def test_key_of_a_shell(self):
        """sshd takes the first line that has the key."""
        with open(self.installation.lines, "a") as file:
            file.write(make_key("carol"))
        self.assertRefused("is in use", self.add, "carol", server="sshd")

    def test_at_once(self):
        """No line of those who edit at the same time is lost."""

        def add(number):
            owner = self.place.uid, self.place.gid
            store = AuthorizedKeys(self.installation.lines, owner, "/x/lp-serve-client")
            name = f"user{number}"
            store.add(name, parse_keys(make_key(name).encode(), ""))

        threads = [threading.Thread(target=add, args=[n]) for n in range(16)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        self.assertEqual(18, len(list_users(self.place, "sshd")))

    def test_no_keys(self):
        """A file that is no file of keys is nobody's to remove."""
        write(os.path.join(self.keys, "carol"), "hello\n")
        self.assertRefused("has no keys", remove_user, self.place, None, "carol")
        write(os.path.join(self.keys, "carol"), "")
        self.assertRefused("carol has no key", remove_user, self.place, None, "carol")
        self.assertFalse(os.path.exists(os.path.join(self.keys, "carol")))
