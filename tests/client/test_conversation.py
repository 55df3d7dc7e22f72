# SPDX-License-Identifier: GPL-2.0-or-later

"""Words of requests and answers, as the client writes and reads them."""

from breezy.tests import TestCase

from ...lpserve import wire
from ...lpserve.client import conversation

AWKWARD = ("plain", "", "two words", "it's", 'a "b"', "back\\slash", "$HOME", "\t")


class TestWords(TestCase):
    def test_unquote(self):
        """The client reads what the service quotes."""
        line = wire.encode_answer("ok", *AWKWARD).decode().rstrip("\n")
        self.assertEqual(["ok", *AWKWARD], conversation._unquote(line))

    def test_limits_agree(self):
        self.assertEqual(wire.MAX_REQUEST, conversation.MAX_REQUEST)


class TestSpawnWords(TestCase):
    """FAULT 43: a user of ssh cannot make a request that does not fit."""

    NAMES = ("BRZ_EMAIL", "LC_ALL", "SSH_ORIGINAL_COMMAND", "LANG", "LPSERVE_USER")

    def words(self, **environ):
        return conversation.spawn_words("alice", self.NAMES, environ)[2:]

    def assertFits(self, *words):
        """A service understands them, through a FIFO with the longest name."""
        line = " ".join(map(conversation.quote, ["spawn", "alice", *words]))
        reply = f" reply=client.{2**31}.01234567\n"
        self.assertTrue(len(f"\n{line}{reply}".encode()) <= wire.MAX_REQUEST)
        found = wire.parse_request((line + reply).strip().encode()).env
        self.assertEqual(list(words), [f"env.{n}={v}" for n, v in found.items()])

    def test_all(self):
        """What says most comes first; who is served nobody can say."""
        words = self.words(
            LANG="C", SSH_ORIGINAL_COMMAND="x y", BRZ_EMAIL="é", LPSERVE_USER="eve"
        )
        expected = ["env.BRZ_EMAIL=é", "env.LANG=C", "env.SSH_ORIGINAL_COMMAND=x y"]
        self.assertEqual(expected, words)
        self.assertFits(*words)

    def test_labels(self):
        """What can be no name of a locale is left out."""
        for value in ("x" * 256, "é" * 128, "a\nb", "\x1b[2J", "\x7f", "C\udcff"):
            self.assertEqual(["env.LANG=C"], self.words(LC_ALL=value, LANG="C"))
        self.assertEqual(1, len(self.words(LC_ALL="x" * 255)))
        # So is one for which there is no room.
        words = self.words(BRZ_EMAIL="x" * 3900, LC_ALL="x" * 255, LANG="C")
        self.assertEqual(["env.LANG=C"], words[1:])
        self.assertFits(*words)

    def test_command(self):
        """As much of its beginning as there is room for, to the byte."""
        for character, size in (("x", 1), (" ", 1), ("é", 2), ("'", 5), ("€", 3)):
            for before in range(6):
                value = "y" * before + character * 5000
                [word] = self.words(SSH_ORIGINAL_COMMAND=value)
                kept = word.removeprefix("env.SSH_ORIGINAL_COMMAND=")
                self.assertStartsWith(value, kept)
                used = len(f"spawn alice {conversation.quote(word)}".encode())
                self.assertTrue(4000 - size < used <= 4000, (character, used))
                self.assertFits(word)
        for value, kept in (("a\nb", "a"), ("é\udcff", "é"), ("\udcc3", "")):
            words = self.words(SSH_ORIGINAL_COMMAND=value)
            self.assertEqual([f"env.SSH_ORIGINAL_COMMAND={kept}"], words)
        # None, where there is no room for its name.
        words = self.words(BRZ_EMAIL="x" * 3950, SSH_ORIGINAL_COMMAND="x")
        self.assertEqual(1, len(words))

    def test_others_are_refused(self):
        for value in ("x" * 5000, "a\nb", "\udcff", "'" * 800):
            error = self.assertRaises(
                conversation.ClientError, self.words, BRZ_EMAIL=value, LANG="C"
            )
            self.assertEqual(64, error.status)
            self.assertStartsWith(str(error), "BRZ_EMAIL does not fit into a request")


class TestNoService(TestCase):
    def test_paths(self):
        """A user of ssh is told none; somebody with a terminal is."""
        for name in ("SSH_CONNECTION", "SSH_ORIGINAL_COMMAND", "SSH_TTY"):
            self.overrideEnv(name, None)
        faults = [
            conversation.service_fault("/run/x", "no service", " (gone)"),
            conversation.place_fault("/run/x", " is no directory", "oh: "),
        ]
        shown = ["no service at /run/x (gone)", "oh: /run/x is no directory"]
        self.assertEqual(shown, [fault.shown for fault in faults])
        self.assertEqual(shown, [str(fault) for fault in faults])
        self.overrideEnv("SSH_CONNECTION", "192.0.2.1 1 192.0.2.2 22")
        hidden = ["no service (gone)", "oh: the runtime directory is no directory"]
        self.assertEqual(hidden, [fault.shown for fault in faults])
        self.overrideEnv("SSH_TTY", "/dev/pts/1")
        self.assertEqual(shown, [fault.shown for fault in faults])
        self.overrideEnv("SSH_ORIGINAL_COMMAND", "bzr serve --inet")
        self.assertEqual(hidden, [fault.shown for fault in faults])

    def test_missing_directory(self):
        error = self.assertRaises(
            conversation.NoService, conversation.Conversation, "/nonexistent/lpserve"
        )
        self.assertIn("/nonexistent/lpserve", str(error))
