# SPDX-License-Identifier: GPL-2.0-or-later

"""What the client does while a worker has its stdio."""

import os
import signal

from ...lpserve.client import relay
from ...lpserve.client.socketconversation import DirectSession
from ..forked import in_child
from ..harness import DEADLINE
from .test_socketconversation import SocketConversationTestCase, soon


class TestDirectSession(SocketConversationTestCase):
    """With a worker that the test plays, or none."""

    def attend(self, act, pid=None):
        """What comes of a session, in a process of its own.

        :param act: called with the service's end of the connection.
        """
        self.listen()

        def run():
            signals = relay.ForwardedSignals()
            talk, link = self.asked(signals=signals)
            reader, writer = os.pipe()
            os.dup2(reader, 0)
            os.dup2(writer, 1)
            os.close(reader)
            os.close(writer)
            attendance = DirectSession(talk, signals, pid or os.getpid())
            null = os.stat(os.devnull).st_rdev
            ours = [os.fstat(number).st_rdev == null for number in (0, 1)]
            act(link)
            return [attendance.run(), ours]

        answer, ours = in_child(run)
        self.assertEqual([True, True], ours)
        return answer

    def test_end(self):
        """How the worker ended; None where the connection ends without a whole line."""
        for data, told in ((b"exit 3\n", ["exit", "3"]), (b"", None), (b"exit", None)):

            def act(link, data=data):
                link.sendall(data)
                link.close()

            self.assertEqual(told, self.attend(act))
            self.listener.close()
            os.unlink(os.path.join(self.runtime, "socket"))

    def test_signals(self):
        """They are passed on to the worker, and no end."""
        worker = os.fork()
        if worker == 0:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.alarm(int(DEADLINE))
            while True:
                signal.pause()

        self.pidfd = os.pidfd_open(worker)
        self.addCleanup(os.close, self.pidfd)
        try:
            self.listen()

            def run():
                signals = relay.ForwardedSignals()
                talk, link = self.asked(signals=signals)
                attendance = DirectSession(talk, signals, worker)
                attendance._conversation = _Until(talk, link, self.pidfd)
                os.kill(os.getpid(), signal.SIGTERM)
                return attendance.run()

            self.assertEqual(["signal", "15"], in_child(run))
        finally:
            self.assertEqual(signal.SIGTERM, os.waitpid(worker, 0)[1])

    def test_worker_has_ended(self):
        """Its pid may be another's, or nobody's; the answer is to come."""
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)

        def act(link):
            os.kill(os.getpid(), signal.SIGTERM)
            link.sendall(b"exit 0\n")

        self.assertEqual(["exit", "0"], self.attend(act, pid))

    def test_explained(self):
        told = [status for status in range(256) if DirectSession.explained(status)]
        self.assertEqual([3, 4], told)


class _Until:
    """A conversation whose last answer is there when a process has ended."""

    def __init__(self, talk, link, pidfd):
        self._talk = talk
        self._link = link
        self.reply = pidfd

    def read_answer(self):
        if self.reply in relay.wait({self.reply: 1}, 0):
            self._link.sendall(b"signal 15\n")
            return self._talk.wait_answer(soon())
        return None
