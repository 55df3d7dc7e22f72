# SPDX-License-Identifier: GPL-2.0-or-later

"""What access rules let a client do: attacks with every verb and every kind of path."""

import os

from breezy import controldir, errors
from breezy.bzr.smart.request import request_handlers
from breezy.tests.scenarios import load_tests_apply_scenarios
from breezy.transport import FileExists, NoSuchFile

from .permitscase import REFUSED, TOKEN, PermitsCase
from .smartcase import Request
from .smartverbs import CHANGES, LOOKS, REVISION, requests
from .test_containment import snapshot

load_tests = load_tests_apply_scenarios


class TestHidden(PermitsCase):
    """What may not be read is answered as what is not there, byte for byte."""

    scenarios = [
        (f"{name},{format}", {"rules": rules, "writable": writable, "format": format})
        for name, rules, writable in (
            ("may read the rest", ("[/]", "* = r", "[/secret]", "* ="), True),
            ("of a read-only service", ("[/]", "* = r", "[/secret]", "* ="), False),
            ("may read something else", ("[/open]", "* = r"), True),
            ("may read nothing", ("[/]", "bob = rw"), True),
            (
                "by group",
                ("[groups]", "g = alice", "[/]", "*=r", "[/secret]", "@g="),
                1,
            ),
        )
        for format in (2, 3)
    ]

    def test_every_verb(self):
        os.symlink("secret", "served/linked")
        os.symlink(os.path.join(self.test_dir, "served/secret"), "served/open/linked")
        server = self.serve(*self.rules, writable=self.writable)
        before = snapshot("served")
        # What is not there has a name as long as that of what is.
        pairs = [(b"secret", b"nowher"), (b"%73ecret", b"%6eowher")]
        pairs += [(b"linked", b"nowher"), (b"open/linked", b"open/nowher")]
        ends = (b"", b"/", b"/x", b"/.bzr", b"/.bzr/branch/format", b"/secret-name")
        for verb in request_handlers.keys():  # noqa: SIM118 - not a mapping
            for pair in pairs:
                for end in (*ends, b"//.", b"/../" + pair[0]):
                    told = []
                    for name in pair:
                        path = name + end.replace(pair[0], name)
                        found = self.all_answers(server, verb, path, self.format)
                        self.assertNotIn(b"", found)
                        found = [TOKEN.sub(b"*", each) for each in found]
                        for each in (*pairs[0], *pairs[1], *pairs[2]):
                            found = [data.replace(each, b"*") for data in found]
                        told.append(found)
                    self.assertEqual(told[1], told[0], f"{verb} {pair} {end}")
        self.assertEqual(before, snapshot("served"))


class TestReading(PermitsCase):
    """One who may read but not write."""

    def test_every_change(self):
        """It is refused as by a service that is read-only."""
        os.mkdir("served/taken")
        before = snapshot("served")
        server = self.serve("[/]", "* = r")
        for verb in CHANGES:
            for path in (b"open", b"new", b"open/name", b"open/.bzr/branch/lock/x"):
                for request in requests(verb, path):
                    answer = self.ask(server, request, 3)
                    idle = verb.endswith((b"break_lock", b"autopack", b"reconcile"))
                    self.assertTrue(idle or not answer.good, f"{request} {answer}")
                    if verb.islower() and verb != b"mkdir":  # that of a file
                        self.assertEqual([b"ReadOnlyError"], answer.words, request)
        self.assertEqual(before, snapshot("served"))

    def test_every_look(self):
        """It is answered as without rules."""
        free = self.make_server("served", True)
        server = self.serve("[/open]", "alice = r")
        for verb in LOOKS:
            for path in (b"open", b"open/", b"open/.bzr/branch/format"):
                wanted = self.all_answers(free, verb, path)
                found = self.all_answers(server, verb, path)
                if verb.endswith((b"tarball", b"archive", b"check_write_group")):
                    continue  # the time is in them; it is refused in another place
                self.assertEqual(wanted, found, f"{verb} {path}")

    def test_locked(self):
        """The client is told why it cannot push."""
        server = self.serve("[/]", "* = r")
        for verb, words in (
            (b"Branch.lock_write", (b"", b"")),
            (b"Repository.lock_write", (b"",)),
        ):
            answer = self.ask(server, Request((verb, b"open", *words)), 3)
            self.assertFalse(answer.good)
            self.assertIn(answer.words[0], (b"LockFailed", b"ReadOnlyError"))


class TestTransport(PermitsCase):
    def top(self, *lines, **options):
        return self.serve(*lines, **options).transport

    def test_directories_above(self):
        """They are there, and in them what leads to something readable."""
        for path in ("a/b/c", "a/b/x", "a/y"):
            os.makedirs(f"served/{path}")
        self.build_tree(["served/a/file", "served/a/b/file", "served/a/b/c/file"])
        os.mkdir("served/a/.bzr")
        self.build_tree(["served/a/.bzr/README"])
        top = self.top("[/a/b/c]", "alice = r", "[/gone/x]", "alice = r")
        self.assertEqual(["a"], top.list_dir("."))
        self.assertEqual(["b"], top.list_dir("a"))
        self.assertEqual(["c"], top.list_dir("a/b"))
        self.assertEqual(["file"], top.list_dir("a/b/c"))
        self.assertEqual(["a/b/c/file"], list(top.iter_files_recursive()))
        self.assertTrue(top.has("a/b"))
        self.assertFalse(top.has("gone"))
        for name in ("a/file", "a/b/file", "a/.bzr", "a/.bzr/README", "a/y", "a/b/x"):
            self.assertFalse(top.has(name), name)
            self.assertRaises(NoSuchFile, top.get, name)
        self.assertRaises(NoSuchFile, top.get, "a/b")

    def test_file_above(self):
        """A section below a file does not show the file."""
        self.build_tree(["served/file"])
        top = self.top("[/file/x]", "alice = r")
        self.assertFalse(top.has("file"))
        self.assertRaises(NoSuchFile, top.get, "file")
        self.assertRaises(NoSuchFile, top.stat, "file")

    def test_new_directories(self):
        """Somebody's own place can be made, with those above it being there."""
        os.mkdir("served/home")
        top = self.top("[/home/%u]", "%u = rw")
        self.assertRaises(FileExists, top.mkdir, "home")
        top.mkdir("home/alice")
        top.put_bytes("home/alice/file", b"")
        top.clone("home/alice/x/y").create_prefix()
        for path in ("home/bob", "other", "home/alice2", "home/x/../bob"):
            self.assertRaises(NoSuchFile, top.mkdir, path)
        self.assertEqual(["alice"], os.listdir("served/home"))

    def test_renames(self):
        """It takes rw on both ends, and on all that is below them."""
        for path in ("w/a/deep/in", "w/b", "r/a", "s/a"):
            os.makedirs(f"served/{path}")
        top = self.top(
            *("[/w]", "* = rw", "[/r]", "* = r", "[/s]", "bob = r"),
            *("[/w/a/deep]", "alice = r", "[/w/new/deep]", "alice ="),
        )
        for source, target, error in (
            ("w/b", "r/b", errors.TransportNotPossible),
            ("r/a", "w/c", errors.TransportNotPossible),
            ("s/a", "w/c", NoSuchFile),
            ("w/b", "s/b", NoSuchFile),
            # Else deep would have the rules of another place.
            ("w/a", "w/c", errors.TransportNotPossible),
            ("w", "v", errors.TransportNotPossible),
            # Else somebody could make what he must not write.
            ("w/b", "w/new", errors.TransportNotPossible),
        ):
            before = snapshot("served")
            for act in (top.rename, top.move):
                self.assertRaises(error, act, source, target)
                self.assertEqual(before, snapshot("served"), f"{source} {target}")
        top.rename("w/b", "w/c")

    def test_links(self):
        """The rules are those of where a link leads to, if that is inside."""
        os.makedirs("outside/dir/back")
        os.makedirs("served/hidden")
        self.build_tree(["outside/file", "outside/dir/file"])
        here = os.path.join(self.test_dir, "served")
        for target, name in (
            ("secret", "to-secret"),
            ("../secret/secret-name", "open/file-link"),
            (f"{here}/secret", "open/absolute"),
            ("to-secret", "twice"),
            ("../../served/secret", "open/around"),
            ("../open", "hidden/to-open"),
            ("../outside", "out"),
            ("nowhere", "secret-dangling"),
            ("../secret/new", "open/dangling"),
            ("../..", "open/up"),
            ("loop", "loop"),
        ):
            os.symlink(target, f"served/{name}")
        os.symlink(f"{here}/secret", "outside/dir/back/in")
        rules = ["[/]", "alice = rw", "[/secret]", "* =", "[/secret/]"][:4]
        top = self.top(*rules, "[/hidden]", "alice =", "[/out/dir]", "alice = r")
        for name in (
            *("to-secret", "to-secret/secret-name", "open/file-link", "open/absolute"),
            *("twice", "twice/.bzr/branch/format", "open/around", "hidden/to-open"),
            *("hidden/to-open/name", "out/dir/back/in", "out/dir/back/in/secret-name"),
            *("open/up/served/secret", "open/up/served/secret/secret-name"),
        ):
            self.assertFalse(top.has(name), name)
            self.assertRaises(NoSuchFile, top.get, name)
            self.assertRaises(NoSuchFile, top.stat, name)
            self.assertRaises(NoSuchFile, top.list_dir, name)
            self.assertRaises(REFUSED, top.put_bytes, f"{name}/x", b"")
        for name in ("open/dangling", "to-secret", "open/file-link"):
            self.assertRaises(NoSuchFile, top.append_bytes, name, b"")
            self.assertRaises(NoSuchFile, top.rename, name, "taken")
            self.assertRaises(NoSuchFile, top.delete, name)
        self.assertFalse(os.path.exists("served/secret/new"))
        listed = set(top.list_dir("open"))
        self.assertEqual({".bzr", "name", "up"}, listed)
        # Outside they are those of the place of the link.
        self.assertEqual(b"contents of outside/file\n", top.get_bytes("out/file"))
        top.put_bytes("out/new", b"")
        self.assertEqual(
            b"contents of outside/dir/file\n", top.get_bytes("out/dir/file")
        )
        put = top.put_bytes
        self.assertRaises(errors.TransportNotPossible, put, "out/dir/new", b"")

    def test_link_with_rules_of_its_own(self):
        """What leads to something readable is there, and only that."""
        os.mkdir("served/mine")
        os.symlink("../secret", "served/mine/link")
        os.symlink("open", "served/alias")
        top = self.top("[/mine]", "alice = rw", "[/open]", "alice = r")
        self.assertEqual({"alias", "mine", "open"}, set(top.list_dir(".")))
        self.assertEqual([], top.list_dir("mine"))
        self.assertEqual(b"", top.get_bytes("alias/name"))
        # To change a link takes rw where it is, and where it leads to.
        for change in (top.delete, lambda name: top.rename(name, "mine/x")):
            self.assertRaises(errors.TransportNotPossible, change, "alias")
            self.assertRaises(NoSuchFile, change, "mine/link")

    def test_moved_links(self):
        """What a link leads to is looked up when it is used."""
        os.makedirs("served/a/b/secret")
        self.build_tree(["served/a/b/secret/mine"])
        os.makedirs("served/c/d")
        os.symlink("../secret", "served/c/d/link")
        os.makedirs("served/c/secret")
        server = self.serve("[/]", "* = rw", "[/secret]", "* =")
        self.assertTrue(server.transport.has("c/d/link"))
        os.rename("served/c/d", "served/d")
        self.assertFalse(server.transport.has("d/link"))
        self.assertRaises(NoSuchFile, server.transport.get, "d/link/secret-name")

    def test_replaced_between_requests(self):
        """Nobody relies on what was there in the request before."""
        os.mkdir("served/dir")
        server = self.serve("[/]", "* = rw", "[/secret]", "* =")
        os.mkfifo("tell")
        has = [Request((b"has", b"dir/secret-name")).encode(3)] * 2

        def swap(self):
            if os.path.isdir("served/dir") and not os.path.islink("served/dir"):
                os.rmdir("served/dir")
                os.symlink("open", "served/dir")
            else:
                os.unlink("served/dir")
                os.symlink("secret", "served/dir")

        permits = server._containment.permits
        begin = permits.begin_request

        def begin_request():
            swap(self)
            begin()

        permits.begin_request = begin_request
        data = self.exchange(server, b"".join(has))
        self.assertNotIn(b"yes", data)

    def test_names(self):
        """No other spelling of a path leads around a rule."""
        os.makedirs("served/caf\u00e9")
        self.build_tree(["served/caf\u00e9/file"])
        self.overrideEnv("HOME", os.path.join(self.test_dir, "served//secret"))
        top = self.top("[/]", "* = rw", "[/secret]", "* =", "[/caf\u00e9]", "* =")
        for name in (
            *(
                "secret",
                "secret/",
                "./secret",
                "//secret",
                "open/../secret",
                "%73ecret",
            ),
            *("secr%65t/secret-name", "/%73%65%63%72%65%74//./secret-name", "~", "~/"),
            *("~/secret-name", "open/../~/.bzr", "caf%C3%A9", "caf%c3%a9/file"),
            *("Secret", "SECRET", "cafe%CC%81", "secret%20", "secret%00", "secret%2f"),
            *("secret/../secret", "secret/../%73ecret/.", "secret" + "/." * 3000),
            *("secret/" + "a/" * 2000, "secret/" + "x" * 300, "secret/" + "a/" * 3000),
        ):
            self.assertFalse(top.has(name), name)
            self.assertRaises(REFUSED, top.get, name)
            self.assertRaises(REFUSED, top.list_dir, name)
        # Another spelling is another name, not a way to the first.
        for name in ("Secret", "cafe%CC%81"):
            top.mkdir(name)
            self.assertEqual([], top.list_dir(name))

    def test_control_directories(self):
        """They belong to the directory that they are in, colocated branches too."""
        made = controldir.ControlDir.open("served/open").create_branch("other")
        made.generate_revision_history(REVISION)
        for lines, level in (
            (("[/]", "* = rw", "[/open]", "* ="), 0),
            (("[/open]", "* = r"), 1),
            (("[/open]", "* = rw"), 2),
        ):
            server = self.serve(*lines)
            path = "open/.bzr/branches/other"
            self.assertEqual(level > 0, server.transport.has(path))
            put = server.transport.put_bytes
            if level == 2:
                put(f"{path}/x", b"")
            else:
                error = errors.TransportNotPossible if level else NoSuchFile
                self.assertRaises(error, put, f"{path}/x", b"")
            [answer] = self.all_answers(server, b"BzrDir.get_branches", b"open")
            self.assertEqual(level > 0, b"other" in answer)
