# SPDX-License-Identifier: GPL-2.0-or-later

"""Streams that end or are cut in the middle, and many sessions at once."""

import contextlib
import hashlib
import os
import queue
import signal
import socket

import paramiko
from paramiko.common import MSG_CHANNEL_REQUEST, MSG_GLOBAL_REQUEST

from ...harness import DEADLINE, read_line, wait_until
from .flowcase import SECONDS, FlowCase

#: Connections at once.
MANY = 100
#: More bytes than all buffers between worker and client hold.
COUNT = 16 << 20


class TestHalfClose(FlowCase):
    """One side has closed its output, and the other still sends."""

    def write_file(self, size):
        """Make a file; all that a session answers to `get`."""
        data = os.urandom(size)
        with open(os.path.join(self.root, "file"), "wb") as file:
            file.write(data)
        return b"ok\n%d\n%bdone\n" % (size, data)

    def test_client_first_and_a_full_window(self):
        """What did not fit into the window is sent before the end of file."""
        self.start()
        expected = self.write_file(50000)
        client = self.connect()
        session = self.execute(client, window=1 << 15)
        session.sendall(b"get\x01file\n")
        session.shutdown_write()
        self.server.wait_for_records(1)
        self.assertSameBytes(expected, session.makefile("rb").read())
        self.assertEqual(0, session.recv_exit_status())

    def push_too_much(self):
        """Stop a worker, and send it more than its FIFO holds."""
        self.start()
        client = self.connect()
        session = self.execute(client)
        session.sendall(b"flow.sink\x01%d\n" % (1 << 20))
        self.assertEqual(b"go\n", session.recv(3))
        worker = self.worker()
        self.hold(worker)
        data = os.urandom(300000)
        session.sendall(data)
        # The server has it all when it answers this.
        client.global_request("round-trip", wait=True)
        return client, session, worker, data

    def test_client_first_and_a_worker_that_has_enough(self):
        """The worker reads all that was sent, and then the end of file."""
        client, session, worker, data = self.push_too_much()
        session.shutdown_write()
        client.global_request("round-trip", wait=True)
        self.wake(worker)
        answer = f"ok\x01{hashlib.sha1(data).hexdigest()}\n".encode()
        self.assertEqual(answer, session.makefile("rb").read())
        self.assertEqual(0, session.recv_exit_status())

    def test_client_gone_and_a_worker_that_has_enough(self):
        """The worker ends when its client is gone."""
        client, _, worker, _ = self.push_too_much()
        connected = self.sockets()
        client.sock.shutdown(socket.SHUT_RDWR)
        wait_until(lambda: self.sockets() < connected, "the server has noticed")
        self.wake(worker)
        wait_until(lambda: not self.workers_for("alice"), "the worker has ended")
        self.server.wait_for_records(1)

    def test_worker_first(self):
        """A client that would send more ends when its worker does."""
        self.start()
        process = self.start_ssh()
        self.say_hello(process)
        os.kill(self.worker(), signal.SIGHUP)
        self.assertEqual(0, process.wait(DEADLINE))
        self.assertEqual((b"", b""), (process.stdout.read(), process.stderr.read()))
        # What the client is just sending is dropped.
        process = self.start_ssh()
        stdin = process.stdin.fileno()
        self.begin_sink(process, 1 << 16)
        worker = self.worker()
        self.hold(worker)
        self.write_until_held(stdin, COUNT)
        os.kill(worker, signal.SIGTERM)
        self.wake(worker)
        self.assertNotEqual(0, process.wait(DEADLINE))
        records = self.server.wait_for_records(2)
        self.assertEqual(["0", "signal 15"], [each["exit"] for each in records])


class TestMidStream(FlowCase):
    """A process is killed while it sends or receives; others go on."""

    def start_flow(self, **configuration):
        """A client, some of what it is sent, and one that only waits."""
        self.start(**configuration)
        other = self.start_ssh()
        self.say_hello(other)
        (waiting,) = self.workers_for("alice")
        process = self.start_ssh()
        request = b"flow.source\x01%d\x01held\n" % COUNT
        os.write(process.stdin.fileno(), request)
        self.assertNotEqual(b"", os.read(process.stdout.fileno(), 1))
        (worker,) = set(self.workers_for("alice")) - {waiting}
        return process, worker, other

    def end_other(self, other):
        """It is served to its end."""
        self.say_hello(other)
        self.end_well(other)

    def test_client_killed(self):
        """While it receives, and while it sends."""
        process, worker, other = self.start_flow()
        process.kill()
        wait_until(lambda: len(self.workers_for("alice")) == 1, "its worker has ended")
        (record,) = self.server.wait_for_records(1)
        self.assertEqual(f"worker {worker}", record["served"])
        self.assertNotEqual("0", record["exit"])
        process = self.start_ssh()
        self.begin_sink(process, COUNT)
        os.write(process.stdin.fileno(), bytes(1 << 20))
        process.kill()
        wait_until(lambda: len(self.workers_for("alice")) == 1, "its worker has ended")
        self.end_other(other)
        self.assertEqual(3, len(self.server.wait_for_records(3)))

    def test_output_lost(self):
        """Nobody reads what ssh gets any more: ssh and the worker end."""
        process, worker, other = self.start_flow(keepalive_interval=0.5)
        # ssh drops what its window allowed, and does not open the window again. It
        # sends "eow@openssh.com" to servers of OpenSSH only.
        self.wait_until_held()
        process.stdin.close()
        process.stdout.close()
        process.wait(DEADLINE)
        wait_until(lambda: len(self.workers_for("alice")) == 1, "its worker has ended")
        (record,) = self.server.wait_for_records(1)
        self.assertEqual(f"worker {worker}", record["served"])
        self.end_other(other)

    def test_session_closed(self):
        """A client closes a session whose window is full."""
        self.start()
        client = self.connect()
        # The last block that is read from the worker does not fit into it.
        session = self.execute(client, window=100001)
        session.sendall(b"flow.source\x01%d\x01held\n" % COUNT)
        self.wait_until_held()
        session.close()
        self.server.wait_for_records(1)
        wait_until(lambda: not self.workers_for("alice"), "the worker has ended")
        # It does not count as one of the ten sessions any more.
        for each in [self.execute(client) for _ in range(10)]:
            self.hello(each)

    def test_worker_killed(self):
        """The client gets what was sent before, and "exit-signal"."""
        process, worker, other = self.start_flow()
        (waiting,) = set(self.workers_for("alice")) - {worker}
        os.kill(worker, signal.SIGKILL)
        rest = len(self.read_rest(process))
        self.assertLess(rest, COUNT)
        self.assertNotEqual(0, process.wait(DEADLINE))
        (record,) = self.server.wait_for_records(1)
        self.assertEqual("signal 9", record["exit"])
        # All that the server had from the worker has come.
        self.assertEqual(int(record["sent"]), rest + 1)
        # ssh does not show the message (:rfc:`4254`, section 6.10).
        client = self.connect()
        session = self.execute(client)
        self.hello(session)
        (worker,) = set(self.workers_for("alice")) - {waiting}
        requests = []

        def handle(channel, message):
            requests.append(message.get_text())
            message.rewind()

        client._channel_handler_table = {
            **client._channel_handler_table,
            MSG_CHANNEL_REQUEST: handle,
        }
        os.kill(worker, signal.SIGKILL)
        self.assertEqual(b"", session.recv(1))
        wait_until(lambda: session.closed, "it is closed")
        self.assertEqual(["exit-signal"], requests)
        self.end_other(other)

    def test_service_killed(self):
        """Running sessions go on; a new one is served without the service."""
        process, _, other = self.start_flow()
        os.kill(self.service.pid, signal.SIGKILL)
        self.service.wait(DEADLINE)
        new = self.start_ssh()
        self.say_hello(new)
        # One byte has been read already.
        rest = COUNT - 1
        stdout = process.stdout.fileno()
        while rest:
            data = self.read_some(stdout, min(rest, 1 << 20))
            self.assertNotEqual(b"", data)
            rest -= len(data)
        self.assertRegex(read_line(stdout), b"^ok\x01[0-9a-f]{40}\n$")
        for each in process, new, other:
            self.end_other(each)
        served = [each["served"] for each in self.server.wait_for_records(3)]
        self.assertEqual(1, len([each for each in served if "process" in each]))
        self.assertEqual(2, len([each for each in served if "worker" in each]))
        self.assertIn("serving this connection without it", self.server.log())
        self.start_service()  # clears what the other left


class TestMany(FlowCase):
    """None is lost, and none waits for another."""

    def test_connections(self):
        """A hundred at once, each served to its end by a worker of its own."""
        self.start()
        processes = [self.start_ssh() for _ in range(MANY)]
        for process in processes:
            os.write(process.stdin.fileno(), b"hello\n")
        for process in processes:
            line = read_line(process.stdout.fileno(), DEADLINE * 2)
            self.assertEqual(b"ok\x012\n", line)
        self.assertEqual(MANY, self.status()["workers"]["busy"])
        for process in processes:
            process.stdin.close()
        for process in processes:
            self.end_well(process)
            self.assertEqual(b"", process.stdout.read())
        records = self.server.wait_for_records(MANY)
        self.assertEqual({"0"}, {each["exit"] for each in records})
        self.assertEqual(MANY, len({each["served"] for each in records}))
        self.assertEqual(MANY, len({each["peer"] for each in records}))

    def test_sessions(self):
        """One session is not read from, one worker does not read, others go on."""
        self.start()
        client = self.connect()
        unreading = self.execute(client)
        unreading.sendall(b"flow.sink\x01%d\n" % COUNT)
        self.assertEqual(b"go\n", unreading.recv(3))
        worker = self.worker()
        self.hold(worker)
        data, done = os.urandom(COUNT), 0
        unreading.settimeout(SECONDS)
        with contextlib.suppress(TimeoutError):
            while done < COUNT:
                done += unreading.send(data[done : done + 65536])
        self.assertLess(done, COUNT)
        unread = self.execute(client)
        unread.sendall(b"flow.source\x01%d\x01unread\n" % COUNT)
        self.wait_until_held("unread")
        others = [self.execute(client) for _ in range(8)]
        for other in others:
            self.hello(other)
        others[0].sendall(b"flow.source\x01%d\x01flows\n" % COUNT)
        self.receive_flow(others[0], COUNT)
        # The limit is ten sessions at once.
        for _ in range(3):
            fault = self.assertRaises(paramiko.ChannelException, client.open_session)
            self.assertEqual((4, "Resource shortage"), fault.args)
        for other in others:
            self.end_session(other)
        another = self.execute(client)
        self.hello(another)
        self.end_session(another)
        self.wake(worker)
        unreading.settimeout(DEADLINE)
        unreading.sendall(data[done:])
        answer = f"ok\x01{hashlib.sha1(data).hexdigest()}\n".encode()
        self.assertEqual(answer, unreading.recv(len(answer)))
        self.end_session(unreading)
        self.receive_flow(unread, COUNT)
        self.end_session(unread)
        records = self.server.wait_for_records(11)
        self.assertEqual(["0"] * 11, [each["exit"] for each in records])
        self.assertEqual(11, len({each["served"] for each in records}))
        self.assertEqual(1, len({each["peer"] for each in records}))


class TestMisbehaviour(FlowCase):
    """What OpenSSH's client does not do."""

    def test_packets_of_no_size(self):
        """A session whose packets may have no bytes is refused."""
        self.start()
        client = self.connect()
        client._sanitize_packet_size = lambda size: size
        window = 1 << 20
        self.assertRaises(paramiko.ChannelException, client.open_session, window, 0)
        # The connection goes on.
        del client._sanitize_packet_size
        session = self.execute(client)
        self.hello(session)
        self.end_session(session)

    def test_busy_and_silent(self):
        """A client that sends data need not answer the keepalive messages."""
        self.start(keepalive_interval=0.5)
        client = self.connect()
        session = self.execute(client)
        asked = queue.Queue()
        client._handler_table[MSG_GLOBAL_REQUEST] = asked.put
        # On a slow line the answers wait behind what is being sent.
        for _ in range(6):
            asked.get(timeout=DEADLINE)
            self.hello(session)
        self.end_session(session)
