# SPDX-License-Identifier: GPL-2.0-or-later

"""Who may make which request."""

import os
from collections import Counter

from breezy.tests import TestCase

from ...lpserve.service import doors
from ...lpserve.service.verbs import Verbs
from ...lpserve.wire import OWNER_VERBS, Request


class Reply(doors.Reply):
    def __init__(self, uid):
        super().__init__()
        self.peer = (1, uid)
        self.answers = []

    def send(self, line):
        self.answers.append(line.decode().split()[:2])
        return True


class TestOwnerVerbs(TestCase):
    def test_asked_by(self):
        """Whoever else is let in at the socket is told nothing, and ends nobody."""
        refused, asked = Counter(), []
        verbs = Verbs(None, None, None, None, "", Counter(), refused)
        verbs.others = {
            verb: lambda request, reply: asked.append(request.verb)
            for verb in OWNER_VERBS
        }
        for uid in (0, os.geteuid()):
            for verb in OWNER_VERBS:
                verbs.arrived(Request(verb), Reply(uid))
        self.assertEqual([*OWNER_VERBS, *OWNER_VERBS], asked)
        for verb in OWNER_VERBS:
            reply = Reply(os.geteuid() + 1)
            verbs.arrived(Request(verb), reply)
            self.assertEqual([["error", "denied"]], reply.answers, verb)
        self.assertEqual(2 * len(OWNER_VERBS), len(asked))
        self.assertEqual(len(OWNER_VERBS), refused["denied"])
