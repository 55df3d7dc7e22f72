# SPDX-License-Identifier: GPL-2.0-or-later

"""The control FIFO and the reply FIFOs, in a loop of this process."""

import os
import stat

from ...lpserve import system
from ...lpserve.paths import RuntimeDirectory
from ...lpserve.service import doors
from ...lpserve.service.doors import ControlFifo, FifoReply, Reply
from ...lpserve.wire import Request, RequestError, RequestReader
from .test_loop import LoopTestCase


class DoorTestCase(LoopTestCase):
    """An open control FIFO; what arrives is kept in `arrived`."""

    def setUp(self):
        super().setUp()
        self.directory = RuntimeDirectory(os.path.join(self.test_dir, "run"))
        self.directory.prepare()
        self.arrived = []
        self.logged = []
        self.door = self.make_door(self.loop)
        self.addCleanup(self.door.close)

    def make_door(self, loop):
        door = ControlFifo(
            loop,
            self.directory,
            lambda request, reply: self.arrived.append((request, reply)),
            self.logged.append,
        )
        door.open()
        return door

    def write(self, data):
        control = os.open(self.directory.control, os.O_WRONLY | os.O_NONBLOCK)
        os.write(control, data)
        os.close(control)

    def reply_path(self, name="me"):
        return os.path.join(self.directory.replies, name)

    def make_reply(self, name="me"):
        """Make a reply FIFO and open it for reading; the descriptor."""
        os.mkfifo(self.reply_path(name), 0o600)
        return self.open_reply(name)

    def open_reply(self, name="me"):
        reader = os.open(self.reply_path(name), os.O_RDONLY | os.O_NONBLOCK)
        self.addCleanup(os.close, reader)
        return reader

    def wait_arrived(self, count=1):
        self.run_until(lambda: len(self.arrived) >= count, f"{count} requests")
        return self.arrived[-1]

    def wait_logged(self):
        self.run_until(lambda: self.logged, "something was logged")


class TestRequests(DoorTestCase):
    """Requests arrive with a reply to answer to."""

    def test_answered(self):
        reader = self.make_reply()
        self.write(b"hello reply=me\n")
        request, reply = self.wait_arrived()
        self.assertEqual(Request("hello", reply="me"), request)
        self.assertEqual(self.reply_path(), reply.path)
        self.assertTrue(reply.send(b"ok\n"))
        self.assertEqual(b"ok\n", os.read(reader, 100))
        self.assertTrue(reply.send(b"exit 0\n"))
        reply.close()
        self.assertEqual(b"exit 0\n", os.read(reader, 100))
        self.assertEqual(b"", os.read(reader, 100))

    def test_refused(self):
        """FAULT 13: a request that is refused has its reply, too."""
        self.make_reply()
        self.write(b"spawn ../x reply=me\n\xff\n")
        self.wait_arrived(2)
        by_reply = {request.reply: reply for request, reply in self.arrived}
        self.assertIsInstance(by_reply["me"], FifoReply)
        self.assertIsInstance(by_reply[None], Reply)
        self.assertTrue(by_reply[None].send(b"to nobody\n"))
        for request, reply in self.arrived:
            self.assertIsInstance(request, RequestError)
            reply.close()

    def test_writers_come_and_go(self):
        """No end of file is seen between them; no descriptor is kept for them."""
        before = system.open_descriptors()
        for number in range(1, 50):
            self.write(b"hello\n")
            self.wait_arrived(number)
        self.assertEqual(before, system.open_descriptors())

    def test_half_a_line_and_silence(self):
        """FAULT 11: other requests arrive at once, and half a line expires."""
        self.overrideAttr(RequestReader, "HOLD", 0.2)
        self.make_reply("slow")
        self.make_reply("quick")
        self.write(b"spawn alice reply=slow")
        self.write(b"\nhello reply=quick\nspawn bob reply=slow")
        self.wait_arrived(2)
        names = [(each.verb, each.reply) for each, _ in self.arrived]
        self.assertEqual({("spawn", "slow"), ("hello", "quick")}, set(names))
        self.wait_arrived(3)
        late, reply = self.arrived[2]
        self.assertIsInstance(late, RequestError)
        self.assertEqual("slow", late.reply)
        for _, reply in self.arrived:
            reply.close()


class TestReplies(DoorTestCase):
    """Answers to readers that are slow, late, or gone."""

    def accept(self, name="me"):
        """A reply and the descriptor of its reader."""
        reader = self.make_reply(name)
        self.write(f"hello reply={name}\n".encode())
        return self.wait_arrived(len(self.arrived) + 1)[1], reader

    def test_full(self):
        """Answers that do not fit are written in order when there is room."""
        reply, reader = self.accept()
        sent = b"".join(b"%07d\n" % number for number in range(40000))
        for start in range(0, len(sent), 50000):
            self.assertTrue(reply.send(sent[start : start + 50000]))
        reply.close()
        found = []

        def read():
            data = os.read(reader, 3000)
            found.append(data)
            if not data:
                self.loop.forget(reader)

        self.loop.watch(reader, read)
        self.run_until(lambda: found and not found[-1], "the end of file")
        self.assertEqual(sent, b"".join(found))

    def test_reader_is_gone_while_there_is_no_room(self):
        before = system.open_descriptors()
        os.mkfifo(self.reply_path())
        reader = os.open(self.reply_path(), os.O_RDONLY | os.O_NONBLOCK)
        self.write(b"hello reply=me\n")
        _, reply = self.wait_arrived()
        self.assertTrue(reply.send(bytes(1 << 20)))
        reply.close()
        os.close(reader)
        self.run_until(
            lambda: system.open_descriptors() == before, "the reply was given up"
        )

    def test_reader_that_never_reads(self):
        """An answer for which there is no room is dropped after `ANSWER_PATIENCE`."""
        self.overrideAttr(doors, "ANSWER_PATIENCE", 0.05)
        before = system.open_descriptors()
        reply, _ = self.accept()
        self.assertTrue(reply.send(bytes(1 << 20)))
        reply.close()
        self.run_until(
            lambda: len(system.open_descriptors()) == len(before) + 1,
            "only the reader's descriptor is left",
        )
        self.assertFalse(reply.send(b"more"))

    def test_reader_comes_late(self):
        """The reader opens the FIFO after the request, as ``cat`` in a shell does."""
        os.mkfifo(self.reply_path())
        self.write(b"hello reply=me\n")
        self.loop.call_later(0.1, self.open_reply)
        self.wait_arrived()[1].close()
        self.assertEqual([], self.logged)

    def test_no_reader_comes(self):
        """After `REPLY_GRACE` the request is dropped, which is logged."""
        self.overrideAttr(doors, "REPLY_GRACE", 0.05)
        before = system.open_descriptors()
        os.mkfifo(self.reply_path())
        self.write(b"shutdown reply=me\n")
        self.wait_logged()
        self.assertEqual(["dropped a request: no reader of replies/me"], self.logged)
        self.assertEqual([], self.arrived)
        self.assertEqual(before, system.open_descriptors())

    def test_not_a_fifo(self):
        """Nothing is written through links, nor into files; the request is dropped."""
        os.mkfifo("elsewhere")
        reader = os.open("elsewhere", os.O_RDONLY | os.O_NONBLOCK)
        self.addCleanup(os.close, reader)
        self.build_tree_contents([("precious", b"kept")])
        os.symlink(os.path.abspath("elsewhere"), self.reply_path("link"))
        os.symlink(os.path.abspath("precious"), self.reply_path("link-to-file"))
        os.link("precious", self.reply_path("file"))
        os.mkdir(self.reply_path("directory"))
        before = system.open_descriptors()
        names = ("link", "link-to-file", "file", "directory", "missing")
        for name in names:
            self.write(f"shutdown reply={name}\n".encode())
        self.run_until(lambda: len(self.logged) >= len(names), "all were dropped")
        self.assertEqual(
            [f"dropped a request: no reader of replies/{name}" for name in names],
            self.logged,
        )
        self.assertEqual([], self.arrived)
        self.assertFileEqual(b"kept", "precious")
        self.assertEqual(before, system.open_descriptors())


class TestOpenAndClose(DoorTestCase):
    """The FIFO itself."""

    def test_open(self):
        """The FIFO is private whatever the umask, and nothing else is left."""
        self.door.close()
        self.addCleanup(os.umask, os.umask(0))
        self.door.open()
        mode = os.stat(self.directory.control).st_mode
        self.assertTrue(stat.S_ISFIFO(mode))
        self.assertEqual(0o600, stat.S_IMODE(mode))
        self.assertEqual(
            ["connections", "control", "replies"],
            sorted(os.listdir(self.directory.path)),
        )

    def test_close(self):
        """FAULT 16: requests that were written before arrive; the FIFO is removed."""
        reader = self.make_reply()
        before = system.open_descriptors()
        self.write(b"spawn alice reply=me\nhello\n")
        self.door.close()
        verbs = [request.verb for request, _ in self.arrived]
        self.assertEqual(["spawn", "hello"], verbs)
        self.arrived[0][1].send(b"error stopping ''\n")
        self.arrived[0][1].close()
        self.assertEqual(b"error stopping ''\n", os.read(reader, 100))
        self.assertPathDoesNotExist(self.directory.control)
        self.assertEqual(len(before) - 1, len(system.open_descriptors()))
        self.door.close()
