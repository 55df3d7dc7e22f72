# SPDX-License-Identifier: GPL-2.0-or-later

"""What makes another stream of a request."""

import os
from types import SimpleNamespace

from breezy.repository import Repository

from ...lpserve.streams import key
from .streamcase import StreamCase


class TestKey(StreamCase):
    def key(self, place="tree", body=b"search"):
        repository = Repository.open(place)
        request = SimpleNamespace(_to_format=repository._format)
        with repository.lock_read():
            return key.key_of(request, repository, body, True)

    def test_content(self):
        self.make_history(2)
        found = [self.key()]
        self.assertIsNot(None, found[0])
        self.assertEqual(found[0], self.key())
        found.append(self.key(body=b"another"))
        self.commit(f1=b"more")
        found.append(self.key())
        self.repository.pack()
        found.append(self.key())
        packs = "tree/.bzr/repository/packs"
        (name,) = os.listdir(packs)
        os.utime(f"{packs}/{name}", (1, 1))
        found.append(self.key())
        os.rename("tree", "moved")
        found.append(self.key("moved"))
        self.assertEqual(len(found), len(set(found)))

    def test_write_locked(self):
        repository = Repository.open("tree")
        request = SimpleNamespace(_to_format=repository._format)
        with repository.lock_write():
            self.assertIs(None, key.key_of(request, repository, b"", True))

    def test_stacked(self):
        self.make_history(2)
        stacked = self.tree.branch.controldir.sprout("stacked", stacked=True)
        repository = stacked.open_branch().repository
        request = SimpleNamespace(_to_format=repository._format)
        with repository.lock_read():
            self.assertIs(None, key.key_of(request, repository, b"", True))

    def test_host_started_anew(self):
        """What was not on the disk when the power failed is not used."""
        before = self.key()
        self.build_tree_contents([("boot_id", b"another\n")])
        self.overrideAttr(key, "_BOOT_ID", os.path.abspath("boot_id"))
        self.assertNotIn(self.key(), (None, before))
        os.unlink("boot_id")
        self.assertIs(None, self.key())
