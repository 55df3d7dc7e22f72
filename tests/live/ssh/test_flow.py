# SPDX-License-Identifier: GPL-2.0-or-later

"""Much data through 'brz lp-serve-ssh', and clients that do not take it.

LPSERVE_FLOW_MEGABYTES and LPSERVE_FLOW_SECONDS say how much it is, and for how long
nobody takes it (see `flowcase`).
"""

import os
import re
import signal
import threading

from paramiko.common import MSG_KEXINIT

from ...harness import read_line, wait_until
from .flowcase import MEGABYTES, FlowCase
from .sshcase import SERVE

COUNT = MEGABYTES << 20
#: Where less shows as much.
LESS = 16 << 20


class TestVolume(FlowCase):
    """Both ways: who does not read holds up who writes, and the server keeps little."""

    def test_down(self):
        """A client whose output nobody reads stops the worker; then it gets all."""
        self.start()
        process = self.start_ssh()
        self.say_hello(process)
        before = self.forget_peak()
        os.write(process.stdin.fileno(), b"flow.source\x01%d\x01held\n" % COUNT)
        self.wait_until_held()
        self.assertLess(self.written_by(self.worker()), COUNT)
        self.assertMemoryFlat(before)
        self.read_flow(process.stdout.fileno(), COUNT)
        self.assertMemoryFlat(before)
        self.say_hello(process)
        self.end_well(process)
        (record,) = self.server.wait_for_records(1)
        self.assertGreater(int(record["sent"]), COUNT)

    def test_down_to_a_stopped_client(self):
        """The same where it is ssh itself that does nothing any more."""
        self.start()
        process = self.start_ssh()
        self.say_hello(process)
        before = self.forget_peak()
        os.write(process.stdin.fileno(), b"flow.source\x01%d\x01held\n" % LESS)
        worker = self.worker()
        wait_until(lambda: self.written_by(worker) > 1 << 20, "it is under way")
        process.send_signal(signal.SIGSTOP)
        self.addCleanup(process.send_signal, signal.SIGCONT)
        self.wait_until_held()
        self.assertMemoryFlat(before)
        process.send_signal(signal.SIGCONT)
        self.read_flow(process.stdout.fileno(), LESS)
        self.assertMemoryFlat(before)
        self.end_well(process)

    def test_down_to_a_huge_window(self):
        """Only the socket can hold back what a client says it could take."""
        self.start()
        client = self.connect_paramiko()
        session = self.open_session(client, window=1 << 31)
        self.hello(session)
        before = self.forget_peak()
        client.sock.reading.clear()
        session.sendall(b"flow.source\x01%d\x01held\n" % LESS)
        self.wait_until_held()
        self.assertMemoryFlat(before)
        client.sock.reading.set()
        self.receive_flow(session, LESS)
        self.assertMemoryFlat(before)
        self.end_session(session)

    def test_up(self):
        """A worker that stops reading stops the client; then it gets all."""
        self.start()
        process = self.start_ssh()
        self.say_hello(process)
        stdin, stdout = process.stdin.fileno(), process.stdout.fileno()
        os.write(stdin, b"flow.sink\x01%d\n" % COUNT)
        self.assertEqual(b"go\n", read_line(stdout))
        before = self.forget_peak()
        worker = self.worker()
        os.kill(worker, signal.SIGSTOP)
        self.addCleanup(self.wake, worker)
        written = self.write_until_held(stdin, COUNT)
        self.assertMemoryFlat(before)
        self.wake(worker)
        answer = self.write_flow(stdin, COUNT, written)
        self.assertEqual(answer, read_line(stdout))
        self.assertMemoryFlat(before)
        self.end_well(process)
        (record,) = self.server.wait_for_records(1)
        self.assertGreater(int(record["received"]), COUNT)


class TestKeyExchange(FlowCase):
    """A client may want new keys at any time (:rfc:`4253`, section 9)."""

    def test_often(self):
        """New keys after each megabyte, both ways."""
        self.start()
        log = os.path.join(self.test_dir, "ssh.log")
        words = ["-o", "RekeyLimit=1M", "-o", "LogLevel=DEBUG", "-E", log]
        process = self.start_ssh(words[0], (*words[1:], "now", *SERVE))
        self.say_hello(process)
        stdin, stdout = process.stdin.fileno(), process.stdout.fileno()
        os.write(stdin, b"flow.source\x01%d\x01held\n" % LESS)
        self.read_flow(stdout, LESS)
        os.write(stdin, b"flow.sink\x01%d\n" % LESS)
        self.assertEqual(b"go\n", read_line(stdout))
        answer = self.write_flow(stdin, LESS)
        self.assertEqual(answer, read_line(stdout))
        self.end_well(process)
        with open(log) as file:
            exchanges = re.findall("SSH2_MSG_NEWKEYS received", file.read())
        self.assertGreater(len(exchanges), 2 * LESS >> 20)

    def stall(self, **configuration):
        """Have a client begin to exchange keys while the worker sends, and stop."""
        self.start(**configuration)
        client = self.connect_paramiko()
        session = self.open_session(client, window=1 << 31)
        self.hello(session)
        self.before = self.forget_peak()
        go_on, negotiate = threading.Event(), client._negotiate_keys

        def stalled(message):
            # All that the server has sent before has been read.
            go_on.wait()
            negotiate(message)

        self.addCleanup(go_on.set)
        client._handler_table[MSG_KEXINIT] = stalled
        session.sendall(b"flow.source\x01%d\x01held\n" % LESS)
        client._send_kex_init()
        return session, go_on

    def test_slow(self):
        """Until the client goes on the worker waits; then all is there."""
        session, go_on = self.stall()
        self.wait_until_held()
        self.assertMemoryFlat(self.before)
        go_on.set()
        self.receive_flow(session, LESS)
        self.end_session(session)
        self.assertMemoryFlat(self.before)

    def test_never_ended(self):
        """A client that does not go on is given up, and its worker ends."""
        self.stall(keepalive_interval=0.5)
        (record,) = self.server.wait_for_records(1)
        self.assertIn("the client does not answer", record["exit"])
        self.assertMemoryFlat(self.before)
        wait_until(lambda: not self.workers_for("alice"), "the worker has ended")
