# SPDX-License-Identifier: GPL-2.0-or-later

"""Serves branches by access rules, one of them hidden."""

import os
import re

from breezy import controldir, errors
from breezy.transport import NoSuchFile

from ...lpserve.accesssyntax import parse
from .smartcase import SmartTestCase
from .smartverbs import REVISION, requests

TOKEN = re.compile(rb"\b[a-z0-9]{20}\b|\d{10}\.\d+")
#: What is not there; what is too long to be; what is read-only.
REFUSED = (NoSuchFile, errors.TransportError, errors.TransportNotPossible)
#: What must be in no answer to one who may not read it.
SECRET = b"secret-"


class PermitsCase(SmartTestCase):
    """Serves ``served`` to alice, by rules.

    There is a branch in ``served/secret`` and one in ``served/open``.
    """

    def setUp(self):
        super().setUp()
        for name in ("secret", "open"):
            self.make_tree(
                f"served/{name}", SECRET.decode() if name == "secret" else ""
            )

    def make_tree(self, path, prefix="", rev_id=REVISION):
        os.makedirs(path)
        made = controldir.ControlDir.create_branch_convenience(
            path, force_new_tree=True
        )
        tree = made.controldir.open_workingtree()
        self.build_tree_contents([(f"{path}/{prefix}name", prefix.encode())])
        tree.add([f"{prefix}name"])
        tree.commit(f"{prefix}message", rev_id=rev_id)
        return tree

    def serve(self, *lines, writable=True, user="alice"):
        """A server by the rules in *lines*."""
        server = self.make_server("served", writable)
        rules = parse("\n".join(lines).encode(), "FILE")
        server.restrict(rules.for_user(user))
        return server

    def all_answers(self, server, verb, path, format=3):
        return [
            self.exchange(server, request.encode(format))
            for request in requests(verb, path)
        ]
