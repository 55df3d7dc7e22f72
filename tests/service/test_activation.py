# SPDX-License-Identifier: GPL-2.0-or-later

"""What systemd passes: what is right, and what each wrong descriptor is told."""

import os
import shutil
import socket
import tempfile

from breezy.tests import TestCaseInTempDir

from ...lpserve.errors import RuntimeDirectoryError
from ...lpserve.paths import RuntimeDirectory
from ...lpserve.service.activation import sort_descriptors
from ...lpserve.systemd import Passed
from .test_warmstore import memfd


class TestSortDescriptors(TestCaseInTempDir):
    """`activation.sort_descriptors`."""

    def setUp(self):
        super().setUp()
        # A short path: a socket is bound to it.
        self.place = tempfile.mkdtemp(prefix="lpserve-test-")
        self.addCleanup(shutil.rmtree, self.place)
        self.directory = RuntimeDirectory(os.path.join(self.place, "run"))
        self.directory.prepare()
        self.other = os.path.join(self.place, "other")

    def fifo(self, path=None, mode=0o600, flags=os.O_RDWR):
        """The descriptor of a new FIFO, as systemd.socket(5) makes it."""
        path = path or self.directory.control
        os.mkfifo(path)
        os.chmod(path, mode)
        return self.keep(os.open(path, flags | os.O_NONBLOCK))

    def listener(self, path=None, kind=socket.SOCK_STREAM, listen=True):
        made = socket.socket(socket.AF_UNIX, kind)
        made.bind(path or self.directory.socket)
        if listen:
            made.listen(5)
        return self.keep(made.detach())

    def keep(self, descriptor):
        self.addCleanup(os.close, descriptor)
        return descriptor

    def sort(self, *descriptors, name="lpserve.socket"):
        passed = [Passed(name, each) for each in descriptors]
        return sort_descriptors(passed, self.directory)

    def assertRefused(self, *texts, descriptors, setting=None):
        error = str(self.assertRaises(RuntimeDirectoryError, self.sort, *descriptors))
        for text in texts:
            self.assertContainsString(error, text)
        self.assertNotContainsRe(error, "\n")

    def test_right(self):
        fifo, listener = self.fifo(), self.listener()
        for order in ((fifo, listener), (listener, fifo)):
            found = self.sort(*order)
            self.assertEqual((fifo, listener), (found.control, found.socket))
        found = self.sort(listener)
        self.assertEqual((None, listener), (found.control, found.socket))
        found = self.sort()
        self.assertEqual((None, None), (found.control, found.socket))

    def test_link_to_the_directory(self):
        """/var/run is one to /run, where units name the former."""
        link = os.path.join(self.place, "link")
        os.symlink("run", link)
        listener = self.listener(os.path.join(link, "socket"))
        self.assertEqual(listener, self.sort(listener).socket)

    def test_another_fifo(self):
        other = self.fifo(self.other)
        setting = f"should say ListenFIFO={self.directory.control}"
        self.assertRefused(
            f"descriptor {other} (lpserve.socket), another FIFO",
            setting,
            descriptors=[other],
        )
        self.fifo()
        self.assertRefused("another FIFO", setting, descriptors=[other])

    def test_link_in_its_place(self):
        other = self.fifo(self.other)
        os.symlink(self.other, self.directory.control)
        self.assertRefused("another FIFO", descriptors=[other])

    def test_others_can_use_it(self):
        for mode in (0o620, 0o606, 0o640):
            fifo = self.fifo(mode=mode)
            self.assertRefused(f"(mode {mode:04o}, not ", descriptors=[fifo])
            os.unlink(self.directory.control)

    def test_for_reading_alone(self):
        fifo = self.fifo(flags=os.O_RDONLY)
        self.assertRefused("for reading and writing", descriptors=[fifo])

    def test_another_owner(self):
        fifo, listener = self.fifo(), self.listener()
        uid = os.geteuid()
        self.overrideAttr(os, "geteuid", lambda: 4711)
        for each in (fifo, listener):
            self.assertRefused(f"belongs to uid {uid} (SocketUser", descriptors=[each])

    def test_another_socket(self):
        setting = f"should say ListenStream={self.directory.socket}"
        other = self.listener(self.other)
        self.assertRefused("another socket", setting, descriptors=[other])
        self.listener()
        self.assertRefused("another socket", setting, descriptors=[other])
        abstract = self.listener(f"\0lpserve-test-{os.getpid()}")
        self.assertRefused("another socket", setting, descriptors=[abstract])

    def test_another_kind(self):
        inet = socket.socket()
        self.addCleanup(inet.close)
        packets = self.listener(kind=socket.SOCK_SEQPACKET)
        for each in (inet.fileno(), packets):
            self.assertRefused("another kind of socket", descriptors=[each])

    def test_a_connection(self):
        """With Accept=yes there is one service for each."""
        ours, theirs = socket.socketpair()
        self.addCleanup(ours.close)
        self.addCleanup(theirs.close)
        self.assertRefused("does not listen (Accept=no", descriptors=[ours.fileno()])

    def test_twice(self):
        fifo, listener = self.fifo(), self.listener()
        for each in (fifo, listener):
            again = self.keep(os.dup(each))
            self.assertRefused(
                f"descriptors {each} and {again} (lpserve.socket), which are the same",
                descriptors=[each, again],
            )

    def test_kept(self):
        """From the descriptor store; what nobody knows is closed."""
        known, unknown = self.keep(memfd()), memfd()
        passed = [Passed("warm.x", known), Passed("later", unknown)]
        found = sort_descriptors(passed, self.directory)
        self.assertEqual(([passed[0]], ["later"]), (found.kept, found.unknown))
        self.assertRaises(OSError, os.fstat, unknown)
