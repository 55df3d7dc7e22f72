# SPDX-License-Identifier: GPL-2.0-or-later

"""Much data through 'brz lp-serve-ssh', and clients that do not read it.

LPSERVE_FLOW_MEGABYTES and LPSERVE_FLOW_SECONDS say how much it is, and for how long
nobody takes it (see `flowcase`).
"""

import os
import re
import threading

from paramiko.common import MSG_KEXINIT

from ...harness import read_line, wait_until
from .flowcase import MEGABYTES, FlowCase
from .sshcase import SERVE

COUNT = MEGABYTES << 20
#: The bytes of tests in which fewer show the same.
LESS = 16 << 20


class TestVolume(FlowCase):
    """A side that does not read holds up the other; the server buffers little."""

    def test_down(self):
        """While nobody reads the client's output, the worker waits."""
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

    def test_down_to_a_huge_window(self):
        """With a window that is never full, the socket holds back the worker."""
        self.start()
        client = self.connect()
        session = self.execute(client, window=1 << 31)
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
        """While the worker does not read, the client waits."""
        self.start()
        process = self.start_ssh()
        self.say_hello(process)
        stdin, stdout = process.stdin.fileno(), process.stdout.fileno()
        self.begin_sink(process, COUNT)
        before = self.forget_peak()
        worker = self.worker()
        self.hold(worker)
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
    """A client may begin a key exchange at any time (:rfc:`4253`, section 9)."""

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
        self.begin_sink(process, LESS)
        answer = self.write_flow(stdin, LESS)
        self.assertEqual(answer, read_line(stdout))
        self.end_well(process)
        with open(log) as file:
            exchanges = re.findall("SSH2_MSG_NEWKEYS received", file.read())
        self.assertGreater(len(exchanges), 2 * LESS >> 20)

    def stall(self, **configuration):
        """Have a client begin to exchange keys while the worker sends, and stop."""
        self.start(**configuration)
        client = self.connect()
        session = self.execute(client, window=1 << 31)
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
        """The worker waits until the client goes on; nothing is lost."""
        session, go_on = self.stall()
        self.wait_until_held()
        self.assertMemoryFlat(self.before)
        go_on.set()
        self.receive_flow(session, LESS)
        self.end_session(session)
        self.assertMemoryFlat(self.before)

    def test_never_ended(self):
        """A client that never goes on is disconnected, and its worker ends."""
        self.stall(keepalive_interval=0.5)
        (record,) = self.server.wait_for_records(1)
        self.assertIn("the client does not answer", record["exit"])
        self.assertMemoryFlat(self.before)
        wait_until(lambda: not self.workers_for("alice"), "the worker has ended")
