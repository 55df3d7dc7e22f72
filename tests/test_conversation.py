# Copyright (C) 2026 The lpserve developers
#
# This program is free software; you can redistribute it and/or modify
# it under the terms of the GNU General Public License as published by
# the Free Software Foundation; either version 2 of the License, or
# (at your option) any later version.

"""Words of requests and answers, as the client writes and reads them."""

import shlex

from breezy.tests import TestCase

from ..lpserve import conversation, wire

AWKWARD = ("plain", "", "two words", "it's", 'a "b"', "back\\slash", "$HOME", "\t")


class TestWords(TestCase):
    def test_quote(self):
        """The service reads what the client quotes."""
        for word in AWKWARD:
            self.assertEqual([word], wire.split(conversation.quote(word)), word)
            self.assertEqual([word], shlex.split(conversation.quote(word)), word)

    def test_unquote(self):
        """The client reads what the service quotes."""
        line = wire.encode_answer("ok", *AWKWARD).decode().rstrip("\n")
        self.assertEqual(["ok", *AWKWARD], conversation._unquote(line))

    def test_limits_agree(self):
        self.assertEqual(wire.MAX_REQUEST, conversation.MAX_REQUEST)


class TestNoService(TestCase):
    def test_missing_directory(self):
        error = self.assertRaises(
            conversation.NoService, conversation.Conversation, "/nonexistent/lpserve"
        )
        self.assertIn("/nonexistent/lpserve", str(error))
