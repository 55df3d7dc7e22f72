# SPDX-License-Identifier: GPL-2.0-or-later

"""What ``lp-serve-control health`` makes of a worker that the test plays."""

import os
import socket
import threading

from breezy.tests import TestCaseInTempDir

from ...lpserve.client.health import health_fault
from ..harness import DEADLINE

#: Seconds of patience.
PATIENCE = 0.2


class TestHealth(TestCaseInTempDir):
    def setUp(self):
        super().setUp()
        self.runtime = os.path.join(self.test_dir, "run")
        os.mkdir(self.runtime, 0o700)

    def ask(self, work):
        """What is said of a worker that does *work* with its descriptors."""
        over = threading.Event()
        with socket.socket(socket.AF_UNIX) as listener:
            where = os.open(self.runtime, os.O_PATH)
            listener.bind(f"/proc/self/fd/{where}/socket")
            os.close(where)
            listener.listen()

            def serve():
                link, _ = listener.accept()
                with link:
                    stdio = socket.recv_fds(link, 4096, 3)[1]
                    link.sendall(b"ok 1\n")
                    work(*stdio)
                    self.waited = not over.wait(DEADLINE)
                    for each in stdio:
                        os.close(each)

            thread = threading.Thread(target=serve)
            thread.start()
            try:
                return health_fault(self.runtime, None, PATIENCE)
            finally:
                over.set()
                thread.join()
                self.assertFalse(self.waited, "it has waited for the worker to end")

    def test_says_nothing(self):
        """With standard error open, which somebody else may keep so for ever."""
        null = os.open(os.devnull, os.O_WRONLY)
        self.addCleanup(os.close, null)
        said = self.ask(lambda stdin, stdout, stderr: os.dup2(null, stdout))
        self.assertEqual("a worker ended without an answer", said)

    def test_last_words(self):
        null = os.open(os.devnull, os.O_WRONLY)
        self.addCleanup(os.close, null)

        def work(stdin, stdout, stderr):
            os.write(stderr, b"lp-serve: no memory\n")
            os.dup2(null, stdout)

        self.assertEqual("no memory", self.ask(work))
