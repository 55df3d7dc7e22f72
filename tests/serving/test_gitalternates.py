# SPDX-License-Identifier: GPL-2.0-or-later

"""A repository of git names no objects that are elsewhere."""

import os

from breezy.controldir import format_registry

from .smartcase import Request, SmartTestCase


class TestAlternates(SmartTestCase):
    """FAULT 36: they were looked for from the current directory."""

    def test_outside(self):
        os.makedirs("root/inside")
        tree = self.make_branch_and_tree("outside", format="git")
        self.build_tree(["outside/file"])
        tree.add(["file"])
        revision = tree.commit("message")
        format_registry.make_controldir("git").initialize("root/inside")
        with open("root/inside/.git/objects/info/alternates", "w") as file:
            file.write("outside/.git/objects\n")  # from where this process is
        server = self.make_server("root", True)
        words = (b"Repository.has_revision", b"inside", revision)
        answer = self.ask(server, Request(words), 3)
        self.assertNotEqual([b"yes"], answer.words)
        os.rename("outside", "elsewhere")
        self.assertEqual(answer, self.ask(server, Request(words), 3))
