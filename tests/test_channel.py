# SPDX-License-Identifier: GPL-2.0-or-later

"""Messages and descriptors over sequenced-packet sockets."""

import os

from breezy.tests import TestCase

from ..lpserve import channel, system


class TestChannel(TestCase):
    """`channel.send` and `channel.receive`."""

    def setUp(self):
        super().setUp()
        self.ours, self.theirs = channel.pair()
        self.addCleanup(self.ours.close)
        self.addCleanup(self.theirs.close)

    def test_messages(self):
        """Each is one packet, whatever is in it."""
        channel.send(self.ours, "first", number=1, text="é\ud800\n\0", nothing=None)
        channel.send(self.ours, "second", words=["a", "b"])
        self.assertEqual(
            (
                {"kind": "first", "number": 1, "text": "é\ud800\n\0", "nothing": None},
                [],
            ),
            channel.receive(self.theirs),
        )
        self.assertEqual(
            ({"kind": "second", "words": ["a", "b"]}, []), channel.receive(self.theirs)
        )

    def test_descriptors(self):
        """They arrive in order, and no program that is started gets them."""
        reader, writer = os.pipe()
        channel.send(self.ours, "serve", (reader, writer), user="alice")
        message, found = channel.receive(self.theirs)
        for each in (reader, writer):
            os.close(each)
        for each in found:
            self.addCleanup(os.close, each)
            self.assertFalse(os.get_inheritable(each))
        self.assertEqual({"kind": "serve", "user": "alice"}, message)
        os.write(found[1], b"through")
        self.assertEqual(b"through", os.read(found[0], 10))

    def test_descriptors_stay_with_their_message(self):
        channel.send(self.ours, "without")
        channel.send(self.ours, "with", (0,))
        channel.send(self.ours, "without")
        found = [channel.receive(self.theirs) for _ in range(3)]
        for _, descriptors in found:
            for each in descriptors:
                os.close(each)
        self.assertEqual([0, 1, 0], [len(descriptors) for _, descriptors in found])

    def test_largest(self):
        """All names of the modules of a program fit into one."""
        names = [f"package.subpackage.module{number}" for number in range(3000)]
        channel.send(self.ours, "imported", names=names)
        self.assertEqual(names, channel.receive(self.theirs)[0]["names"])

    def test_other_end_is_gone(self):
        channel.send(self.theirs, "last")
        self.theirs.close()
        self.assertEqual("last", channel.receive(self.ours)[0]["kind"])
        self.assertEqual((None, []), channel.receive(self.ours))
        self.assertRaises(BrokenPipeError, channel.send, self.ours, "late")

    def test_other_end_is_gone_with_a_message_unread(self):
        """A reset connection is nothing but the end."""
        channel.send(self.ours, "unread")
        self.theirs.close()
        self.assertEqual((None, []), channel.receive(self.ours))

    def test_is_closed(self):
        """It is known before the last message has been read."""
        channel.send(self.theirs, "last")
        self.assertFalse(channel.is_closed(self.ours))
        self.theirs.close()
        self.assertTrue(channel.is_closed(self.ours))
        self.assertEqual("last", channel.receive(self.ours)[0]["kind"])
        self.assertTrue(channel.is_closed(self.ours))

    def test_other_end_does_not_keep_up(self):
        """A service never waits for a zygote, to send or to receive."""
        self.ours.setblocking(False)
        self.assertRaises(BlockingIOError, channel.receive, self.ours)

        def flood():
            while True:
                channel.send(self.ours, "fork", text="x" * 1000)

        self.assertRaises(BlockingIOError, flood)

    def test_descriptors_without_message(self):
        """An empty packet is an end; what came with it is not left open."""
        import array
        import socket

        before = system.open_descriptors()
        attached = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0]))]
        self.ours.sendmsg([b""], attached)
        self.assertEqual((None, []), channel.receive(self.theirs))
        self.assertEqual(before, system.open_descriptors())
