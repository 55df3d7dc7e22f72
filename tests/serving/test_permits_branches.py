# SPDX-License-Identifier: GPL-2.0-or-later

"""What access rules do where a branch needs something elsewhere."""

import os

from breezy import branch as _mod_branch
from breezy import controldir, errors, urlutils

from .permitscase import SECRET, TOKEN, PermitsCase
from .smartcase import Request
from .smartverbs import LOOKS, VERBS
from .test_containment import snapshot


class TestSharedRepository(PermitsCase):
    def setUp(self):
        super().setUp()
        controldir.ControlDir.create("served/shared").create_repository(shared=True)
        self.make_tree("served/shared/mine", rev_id=b"mine-1")
        self.make_tree("served/shared/hers", SECRET.decode(), rev_id=b"secret-1")
        controldir.ControlDir.create("served/shared/sub")
        os.symlink("shared/mine", "served/way")

    def changes(self, server, path):
        """What becomes of a push of a revision that is there already."""
        put = Request((b"put", path.encode() + b"/.bzr/branch/tags", b""), b"")
        lock = Request((b"Branch.lock_write", path.encode(), b"", b""))
        answers = [self.ask(server, each, 3) for each in (put, lock)]
        if answers[1].good:
            unlock = (b"Branch.unlock", path.encode(), *answers[1].words[1:])
            self.assertTrue(self.ask(server, Request(unlock), 3).good)
        try:
            transport = server.transport.clone(path)
            branch = _mod_branch.Branch.open_from_transport(transport)
            with branch.lock_write():
                branch.set_last_revision_info(0, b"null:")
        except (errors.LockFailed, errors.NoRepositoryPresent):
            return [*(answer.good for answer in answers), False]
        return [*(answer.good for answer in answers), True]

    def test_writing_takes_rw_there(self):
        self.permit_url(urlutils.local_path_to_url(self.test_dir) + "/")
        mine = ("[/shared/mine]", "* = rw")
        before = snapshot("served/shared")
        for path in ("shared/mine", "way"):
            server = self.serve("[/]", "* = rw", "[/shared]", "* = r", *mine)
            self.assertEqual([False] * 3, self.changes(server, path))
            made = (b"BzrDir.create_branch", b"shared/mine")
            made += (b"Bazaar Branch Format 7 (needs bzr 1.6)\n",)
            self.assertFalse(self.ask(server, Request(made), 3).good)
        self.assertEqual(before, snapshot("served/shared"))
        server = self.serve("[/shared]", "* = rw")
        self.assertEqual([True] * 3, self.changes(server, "shared/mine"))

    def test_no_way_around(self):
        """Nor by another name for what guards it, or from a place without it."""
        rules = ("[/]", "* = rw", "[/shared]", "* = r", "[/shared/mine]", "* = rw")
        server = self.serve(*rules)
        before = snapshot("served/shared")
        for old, new in (
            (b"shared/mine/.bzr", b"shared/mine/y"),
            (b"shared/mine", b"mine"),
        ):
            answer = self.ask(server, Request((b"rename", old, new)), 3)
            self.assertFalse(answer.good, old)
        self.assertEqual(before, snapshot("served/shared"))
        os.mkdir("served/shared/mine/new")
        answer = self.ask(
            server, Request((b"rename", b"shared/mine/new", b"shared/mine/.bzr")), 3
        )
        self.assertFalse(answer.good)

    def test_a_repository_of_its_own(self):
        """One above it, shared or not, does not matter then."""
        self.make_tree("served/shared/sub/own")
        os.rename("served/shared/sub/own/.bzr", "served/own-bzr")
        os.rename("served/own-bzr", "served/shared/sub/.bzr.new")
        self.make_tree("served/open/below")
        rules = ("[/open]", "* = r", "[/open/below]", "* = rw")
        self.assertEqual([True] * 3, self.changes(self.serve(*rules), "open/below"))

    def test_hidden_repository(self):
        """A branch in one that may not be read is one without a repository."""
        server = self.serve("[/shared/mine]", "* = rw", "[/open]", "* = r")
        for verb in (*VERBS,):
            if b"ranch.last_rev" in verb or verb.startswith(b"Repository.get_"):
                for data in self.all_answers(server, verb, b"shared/mine"):
                    self.assertNotIn(SECRET, data)
        find = Request((b"BzrDir.find_repositoryV3", b"shared/mine"))
        self.assertEqual([b"norepository"], self.ask(server, find, 3).words)


class TestStacking(PermitsCase):
    def test_hidden(self):
        """A branch stacked on one that is hidden is as one stacked on none."""
        self.make_tree("served/mine/top")
        server = self.serve("[/]", "* = r", "[/secret]", "* =")
        verbs = [v for v in LOOKS if v.startswith((b"Branch.", b"BzrDir.", b"Repos"))]
        told = {}
        for name in ("secret", "secrex"):
            for location in ("../../%s", "/%s", server.transport.base + "%s"):
                with open("served/mine/top/.bzr/branch/branch.conf", "w") as file:
                    file.write(f"stacked_on_location = {location % name}\n")
                for verb in verbs:
                    found = [
                        TOKEN.sub(b"*", each).replace(name.encode(), b"")
                        for each in self.all_answers(server, verb, b"mine/top")
                    ]
                    known = told.setdefault((verb, location), found)
                    if verb.startswith(b"Repository.revision_archive"):
                        continue
                    if verb == b"Repository.tarball":
                        continue
                    self.assertEqual(known, found, f"{verb} {location}")

    def test_reference(self):
        """So is a branch that refers to one."""
        self.make_tree("served/mine/top")
        with open("served/mine/top/.bzr/branch/format", "wb") as file:
            file.write(b"Bazaar-NG Branch Reference Format 1\n")
        server = self.serve("[/]", "* = r", "[/secret]", "* =")
        told = {}
        for name in ("secret", "secrex"):
            with open("served/mine/top/.bzr/branch/location", "w") as file:
                file.write(f"../../{name}")
            for verb in VERBS:
                if verb.startswith((b"Branch.", b"BzrDir.")) and b"destroy" not in verb:
                    found = [
                        each.replace(name.encode(), b"")
                        for each in self.all_answers(server, verb, b"mine/top")
                    ]
                    self.assertEqual(told.setdefault(verb, found), found, verb)
