# SPDX-License-Identifier: GPL-2.0-or-later

"""No request leads out of the served directory."""

import os
import re
import shutil

from breezy import errors, transport, urlutils
from breezy.bzr.smart.request import request_handlers
from breezy.tests import TestCase
from breezy.tests.scenarios import load_tests_apply_scenarios
from breezy.transport import FileExists, NoSuchFile

from ...lpserve.root import find
from ...lpserve.serving.containment import descend
from .smartcase import Request, SmartTestCase
from .smartverbs import CHANGES, REVISION, VERBS, requests

load_tests = load_tests_apply_scenarios

#: Ways to write "../outside/NAME" from the root, and what looks like one.
ENCODINGS = (
    b"../outside/%s",
    b"..%%2foutside%%2f%s",
    b"..%%2Foutside%%2F%s",
    b"..%%2foutside/%s",
    b"/..%%2foutside%%2f%s",
    b"%%2e%%2e/outside/%s",
    b".%%2e%%2foutside%%2f%s",
    b"..%%252foutside%%252f%s",
    b"%%%%32%%65%%%%32%%65/outside/%s",
    b"..%%c0%%afoutside%%c0%%af%s",
    b"..\xc0\xafoutside\xc0\xaf%s",
    b"%%c0%%ae%%c0%%ae/outside/%s",
    b"inside/..%%2f..%%2foutside%%2f%s",
    b"inside/%%2e%%2e/%%2e%%2e/outside/%s",
    b"..%%2foutside%%2f%s%%2f..%%2f%s",
    b"..%%2foutside%%2f%s%%2f.",
    b"..%%2foutside%%2f%s%%00",
    b"..\\outside\\%s",
    b"..%%5coutside%%5c%s",
    b"~/..%%2f..%%2foutside%%2f%s",
    b"%%2f%%2foutside%%2f%s",
    b",a=..%%2foutside%%2f%s",
)
#: What is there, and what is not.
THERE, GONE = b"kept", b"none"
SECRETS = (b"SECRET", b"secret-")
_TOKEN = re.compile(rb"\b[a-z0-9]{20}\b|\d{10}\.\d+")


def snapshot(path, leave_out=()):
    """Everything about the files below *path*."""
    found = {}
    for base, names, files in os.walk(path):
        names[:] = [name for name in names if os.path.join(base, name) not in leave_out]
        for name in (*names, *files, "."):
            each = os.path.join(base, name)
            status = os.lstat(each)
            content = None
            if name in files and not os.path.islink(each):
                with open(each, "rb") as file:
                    content = file.read()
            found[each] = (status.st_mode, status.st_ino, status.st_mtime_ns, content)
    return found


class TestVerbs(TestCase):
    def test_known(self):
        """What the requests for a new verb are has to be written down."""
        self.assertEqual(set(), set(request_handlers.keys()) - set(VERBS))


class TestOutside(SmartTestCase):
    """FAULTS 35, 36 and 37: a path with an encoded separator led out."""

    scenarios = [
        (f"{name},{format}", {"root": root, "writable": writable, "format": format})
        for name, root, writable in (
            ("read-only", "base/root", False),
            ("writable", "base/root", True),
            ("user", "base/%u", True),
        )
        for format in (2, 3)
    ]

    def setUp(self):
        super().setUp()
        os.makedirs("base/outside")
        tree = self.make_branch_and_tree("base/outside/kept")
        self.build_tree_contents([("base/outside/kept/secret-name", b"SECRET")])
        tree.add(["secret-name"])
        tree.commit("secret-message", rev_id=REVISION)
        served = self.root.replace("%u", "alice")
        os.makedirs(served)
        shutil.copytree("base/outside/kept", os.path.join(served, "inside"))
        path = find(os.path.join(self.test_dir, self.root), "alice")
        self.server = self.make_server(path, self.writable)
        self.served = path
        self.base = os.path.join(self.test_dir, "base")
        self.before = snapshot(self.base, [path])

    def answers(self, verb, encoding):
        """What is answered for what is there, then for what is not."""
        for name in (THERE, GONE):
            path = encoding.replace(b"%s", name).replace(b"%%", b"%")
            found = []
            if verb in (b"move", b"rename"):
                self.put_in_place()
            for request in requests(verb, path):
                data = self.exchange(self.server, request.encode(self.format))
                # Of what was written inside under such a name.
                data = _TOKEN.sub(b"*", data).replace(name, b"")
                found.append(data)
                self.assertNotEqual(b"", data)
                if self.format == 3:
                    self.assertIs(None, self.error, self.error)
            yield found

    def put_in_place(self):
        """There is something to rename, and a free name to rename it to."""
        with open(os.path.join(self.served, "file"), "wb") as file:
            file.write(b"inside")
        taken = os.path.join(self.served, "taken")
        if os.path.isdir(taken):
            shutil.rmtree(taken)
        elif os.path.exists(taken):
            os.unlink(taken)

    def test_every_verb(self):
        for verb in request_handlers.keys():  # noqa: SIM118 - not a mapping
            for encoding in ENCODINGS:
                there, gone = self.answers(verb, encoding)
                if there != gone:  # by what these have made inside?
                    there, gone = self.answers(verb, encoding)
                self.assertEqual(there, gone, f"{verb} {encoding}")
                for secret in (*SECRETS, self.test_dir.encode()):
                    told = [each for each in there if secret in each]
                    self.assertEqual([], told, f"{verb} {encoding}")
            self.assertEqual(self.before, snapshot(self.base, [self.served]), verb)


class TestDescend(TestCase):
    def test_plain(self):
        for place, relpath, expected in (
            ("", ".", ""),
            ("", "a", "a"),
            ("a/b", "", "a/b"),
            ("a", "b/c", "a/b/c"),
            ("a", "./b//c/.", "a/b/c"),
            ("a", "../b/", "b"),
            ("a", "/b", "b"),
            ("a", "%2e%2E/b", "b"),
            ("a", "..b/.c/...", "a/..b/.c/..."),
            ("", "a%20b%C3%A9", "a b\u00e9"),
            ("", "100%/%zz/%", "100%/%zz/%"),
            ("", "%25%32%46", "%2F"),
            ("", "~user/~", "~user/~"),
            ("", "a%5c%0a\nb\\", "a\\\n\nb\\"),
        ):
            self.assertEqual(expected, descend(place, relpath), relpath)

    def test_refused(self):
        for place, relpath in (
            ("", ".."),
            ("a", "../.."),
            ("a/b", "/.."),
            ("a", "%2e%2e/%2e%2e"),
            ("a", "b%2fc"),
            ("a", "b%2F"),
            ("a", "b%00"),
            ("a", "b\0"),
            ("a", "%ff"),
            ("a", "%c0%ae"),
            ("a", "%ed%a0%80"),
            ("a", "caf\u00e9"),
            ("a", b"b"),
            ("a", None),
        ):
            self.assertRaises(NoSuchFile, descend, place, relpath)


class TestTransport(SmartTestCase):
    """What a served transport does beside keeping inside."""

    ODD = ("100%", "a%2fb", "back\\slash", "new\nline", "caf\u00e9", "a b", "~", "t~l")
    ODD += ("#?,;=+&", "%", "...", "..a", "\x01", "'\"")

    def setUp(self):
        super().setUp()
        os.mkdir("root")
        self.transport = self.make_server("root", True).transport

    def test_odd_names(self):
        top = self.transport
        for name in self.ODD:
            encoded = urlutils.escape(name)
            top.mkdir(encoded)
            inside = top.clone(encoded)
            inside.put_bytes(encoded, b"content")
            with open(os.path.join("root", name, name), "rb") as file:
                self.assertEqual(b"content", file.read())
            self.assertEqual([encoded], inside.list_dir("."))
            self.assertEqual([encoded], list(inside.iter_files_recursive()))
            again = transport.get_transport_from_url(inside.base)
            self.assertEqual(b"content", again.get_bytes(encoded))
            self.assertEqual(inside.base, again.base)
            inside.rename(encoded, "other")
            self.assertFalse(top.has(f"{encoded}/{encoded}"))
            top.delete_tree(encoded)
        self.assertEqual([], os.listdir("root"))

    def test_names_that_are_no_text(self):
        """As no path leads to them, they are not listed."""
        os.mkdir(b"root/\xff")
        self.assertEqual([], self.transport.list_dir("."))

    def test_urls(self):
        """A URL is checked like a path."""
        for path in ("..%2foutside", "..", "a/%2e%2e/.."):
            url = self.transport.base + path
            self.assertRaises(NoSuchFile, transport.get_transport_from_url, url)

    def test_upwards(self):
        """Who looks upwards comes to an end."""
        top = self.transport
        self.assertEqual(top.base, top.clone("..").base)
        self.assertEqual(top.clone("a").base, top.clone("a/b").clone("..").base)

    def test_root(self):
        """Its entry is in a directory that is not served."""
        top = self.transport
        self.assertRaises(FileExists, top.mkdir, ".")
        for change in (top.delete, top.rmdir, top.delete_tree):
            self.assertRaises(errors.PermissionDenied, change, ".")
        self.assertRaises(errors.PermissionDenied, top.put_bytes, "", b"")
        self.assertRaises(errors.PermissionDenied, top.rename, ".", "a")
        self.assertEqual(["root"], os.listdir("."))

    def test_links(self):
        """The administrator may have made a link that leads out."""
        os.makedirs("outside/inner")
        os.symlink(os.path.join(self.test_dir, "outside"), "root/link")
        self.transport.put_bytes("link/inner/file", b"content")
        self.assertEqual(["inner"], self.transport.list_dir("link"))
        self.assertTrue(os.path.exists("outside/inner/file"))

    def test_links_stay(self):
        """From another place a relative link may lead out of what is served."""
        os.makedirs("outside")
        os.makedirs("root/a/b/c")
        os.makedirs("root/inside")
        os.symlink("../../../inside", "root/a/b/c/up")
        os.symlink("c", "root/a/b/to-c")
        for old, new in (("a/b/c", "c"), ("a/b", "b"), ("a/b/c/up", "up")):
            self.assertRaises(errors.PermissionDenied, self.transport.rename, old, new)
        self.transport.rename("a/b/c", "a/b/d")
        os.unlink("root/a/b/d/up")
        os.symlink("d/../d", "root/a/b/odd")
        self.assertRaises(errors.PermissionDenied, self.transport.rename, "a/b", "b")
        os.unlink("root/a/b/odd")
        self.transport.rename("a/b", "b")
        self.assertEqual({"inside", "b", "a"}, set(os.listdir("root")))

    def test_home_directories(self):
        os.makedirs("root/home/me")
        for home in ("root/home/me", "root", "root/home/me/"):
            self.overrideEnv("HOME", os.path.join(self.test_dir, home))
            self.transport.put_bytes("~/file", b"content")
            self.assertTrue(os.path.exists(os.path.join(home, "file")))
        self.overrideEnv("HOME", self.test_dir)
        self.transport.mkdir("~")
        self.assertEqual({"file", "home", "~"}, set(os.listdir("root")))


class TestReferences(SmartTestCase):
    """FAULT 36: what a branch points to is not opened outside either."""

    scenarios = [(str(format), {"format": format}) for format in (2, 3)]

    def setUp(self):
        super().setUp()
        for name in ("root/stacked", "outside/kept"):
            os.makedirs(os.path.dirname(name), exist_ok=True)
            tree = self.make_branch_and_tree(name)
            tree.commit("message", rev_id=REVISION)
        outside = urlutils.local_path_to_url(self.test_dir) + "/outside/"
        self.server = self.make_server("root", True)
        self.targets = [
            form + name
            for form in (
                outside,
                outside.replace("/outside", "%2foutside"),
                "../../outside/",
                "../..%2foutside%2f",
                "..%2f..%2foutside%2f",
                "/..%2foutside%2f",
                self.server.transport.base + "..%2foutside%2f",
                "chroot-1:///../outside/",
            )
            for name in ("kept", "none")
        ]

    def answers(self, verbs, *paths):
        found = []
        for verb in verbs:
            for path in paths:
                for request in requests(verb, path):
                    data = self.exchange(self.server, request.encode(self.format))
                    found.append(_TOKEN.sub(b"*", data))
        return found

    def check(self, write, verbs, *paths):
        """With each target written down, both existing and not."""
        before = snapshot("outside")
        previous = None
        for target in self.targets:
            write(target.encode())
            found = [
                data.replace(b"kept", b"none") for data in self.answers(verbs, *paths)
            ]
            for data in found:
                self.assertNotEqual(b"", data)
                self.assertNotIn(b"secret-", data)
            if target.endswith("none"):
                self.assertEqual(previous, found, target)
            previous = found
        self.assertEqual(before, snapshot("outside"))

    def test_stacked_on(self):
        def write(target):
            with open("root/stacked/.bzr/branch/branch.conf", "wb") as file:
                file.write(
                    b"stacked_on_location = %s\nbound_location = %s\n"
                    % (target, target)
                )
                file.write(b"parent_location = %s\nbound = True\n" % target)

        verbs = [v for v in VERBS if v.startswith((b"Branch.", b"BzrDir.", b"Repos"))]
        verbs = [v for v in verbs if b"destroy" not in v and v not in CHANGES]
        self.check(write, [*verbs, b"Branch.break_lock"], b"stacked")

    def test_reference(self):
        with open("root/stacked/.bzr/branch/format", "wb") as file:
            file.write(b"Bazaar-NG Branch Reference Format 1\n")

        def write(target):
            with open("root/stacked/.bzr/branch/location", "wb") as file:
                file.write(target)

        verbs = [v for v in VERBS if v.startswith((b"Branch.", b"BzrDir."))]
        verbs = [v for v in verbs if b"destroy" not in v]
        self.check(write, verbs, b"stacked")

    def test_default_stack(self):
        """A new branch is stacked on what the directory above says."""
        self.make_controldir("root/up")

        def write(target):
            with open("root/up/.bzr/control.conf", "wb") as file:
                file.write(b"default_stack_on = %s\n" % target)
            if os.path.exists("root/up/new"):
                shutil.rmtree("root/up/new")

        self.check(write, [b"BzrDirFormat.initialize_ex_1.16"], b"up/new")

    def test_initialize_stacked(self):
        before = snapshot("outside")
        for target in self.targets:
            for pwd in (b"", b".", target.encode()):
                words = (
                    b"BzrDirFormat.initialize_ex_1.16",
                    b"Bazaar-NG meta directory, format 1\n",
                )
                words += (b"new", b"True", b"True", b"True", target.encode(), pwd)
                words += (b"", b"True", b"False")
                self.exchange(self.server, Request(words).encode(self.format))
        self.assertEqual(before, snapshot("outside"))
