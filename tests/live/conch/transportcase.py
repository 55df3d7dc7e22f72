# SPDX-License-Identifier: GPL-2.0-or-later

"""What the tests of `conch` share: workers that do as the test wants."""

import os
import signal

from twisted.internet.error import ProcessDone, ProcessExitedAlready, ProcessTerminated

from ....lpserve.conch.transport import ForkService
from ...conch.reactorcase import LiveReactorTestCase, Recorder
from ...harness import wait_until
from ..client.fake_service import HELLO

#: What a worker does by its USER, as ``exit-7``; others serve as ever.
ROLES = """
import hashlib, json, os, signal
from breezy.plugins.lpserve.lpserve.serving import smartserver as serving

def exit(status):
    "Say something on both and end."
    os.write(1, b"output")
    os.write(2, b"error")
    return int(status)

def cat():
    while data := os.read(0, 65536):
        while data:
            data = data[os.write(1, data):]
    return 0

def env():
    os.write(1, json.dumps(dict(os.environ)).encode())
    return 0

def wait():
    signal.sigwait([signal.SIGUSR1])

def deaf():
    "Read nothing before SIGUSR1; then everything, and say what that was."
    os.write(1, b"here")
    wait()
    seen = hashlib.sha256()
    while data := os.read(0, 65536):
        seen.update(data)
    os.write(1, seen.hexdigest().encode())
    return 0

def flood(size):
    "Write that much, of which no two places look the same."
    block = b""
    for number in range(int(size) // 32):
        block += hashlib.sha256(b"%d" % number).digest()
        if len(block) == 32768:
            while block:
                block = block[os.write(1, block):]
    return 0

def close(*order):
    "Close these, each at a SIGUSR1; and at another one end."
    os.write(1, b"here")
    for number in order:
        wait()
        os.close(int(number))
    wait()
    return 0

def leave():
    "Leave a process behind that has everything open, and end."
    if not os.fork():
        os.setsid()
        os.write(1, b"%d\\n" % os.getpid())
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR1])
        signal.pause()
    wait()
    return 0

ROLES = {each.__name__: each for each in (exit, cat, env, deaf, flood, close, leave)}

def serve_and_report(user, *args, real=serving.serve_and_report, **options):
    role, *words = user.split("-")
    if role not in ROLES:
        return real(user, *args, **options)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    return ROLES[role](*words)

serving.serve_and_report = serve_and_report
"""


class ConnectionTestCase(LiveReactorTestCase):
    """What the protocol and the transport of a connection know of it."""

    def hello(self, protocol):
        """One request, and its answer."""
        protocol.out = b""
        protocol.transport.write(b"hello\n")
        self.wait_out(protocol, HELLO)

    def wait_out(self, protocol, said):
        """Wait until the worker has said this, and nothing else."""
        self.run_until(
            lambda: protocol.out == said or protocol.ended,
            f"{said!r} comes: {protocol.events}",
        )
        self.assertEqual((said, b""), (protocol.out, protocol.err))

    def check_end(self, protocol):
        """The protocol was told each event once; the transport knows of the end."""
        for event in ("made", "lost 0", "lost 1", "lost 2", "exited", "ended"):
            self.assertEqual(1, protocol.events.count(event), protocol.events)
        self.assertEqual("ended", protocol.events[-1])
        self.assertIs(protocol.ended, protocol.exited)
        self.assertIs(None, protocol.transport.pid)
        self.assertRaises(
            ProcessExitedAlready, protocol.transport.signalProcess, "TERM"
        )


class TransportTestCase(ConnectionTestCase):
    """With a service whose workers have `ROLES`, and transports to them."""

    def setUp(self):
        super().setUp()
        self.add_plugin("roles", ROLES)
        self.here = ForkService(self.reactor, self.runtime)

    def spawn(self, user="alice", protocol=None, **keywords):
        """A protocol that is connected to what will be a worker."""
        protocol = protocol or Recorder()
        words = ["absent", "lp-serve", "--inet", user]
        transport = self.here.spawnProcess(protocol, "/absent", words, **keywords)
        self.assertIs(transport, protocol.transport)
        return protocol

    def spawn_until(self, said, user):
        """One whose worker has said that."""
        protocol = self.spawn(user)
        self.wait_out(protocol, said)
        return protocol

    def spawn_hello(self, user="alice"):
        """One whose worker has served a request."""
        protocol = self.spawn(user)
        self.hello(protocol)
        return protocol

    def wait_pid(self, protocol):
        return self.run_until(lambda: protocol.transport.pid, "it has a worker")

    def assertEnded(self, protocol, status=0, number=None):
        """Wait for the end, with this exit status or signal, after all other events."""
        self.run_to_end(protocol)
        self.turn()
        self.check_end(protocol)
        self.assertEqual("made", protocol.events[0])
        ended = protocol.ended
        self.assertEqual(
            (status if number is None else None, number, number or status << 8),
            (ended.exitCode, ended.signal, ended.status),
            protocol.err,
        )
        kind = ProcessTerminated if status or number else ProcessDone
        self.assertIs(kind, type(ended))
        self.assertFalse(protocol.transport.fallback)
        self.assertEqual({}, protocol.transport.pipes)

    def wait_reaped(self, pid):
        """Until *pid* is nobody's; the reactor does not notice yet."""
        wait_until(lambda: not os.path.exists(f"/proc/{pid}"), "it was reaped")

    def kill(self, pid):
        """Kill a worker; the reactor does not notice yet."""
        os.kill(pid, signal.SIGKILL)
        self.wait_reaped(pid)


class Source:
    """A producer of numbered parts, which closes standard input after the last.

    :ivar parts: how many it has left.
    :ivar written: all that it has produced.
    :ivar stopped: whether it was told to stop.
    """

    def __init__(self, transport, parts):
        self.transport = transport
        self.parts = parts
        self.going = True
        self.stopped = False
        self.written = b""

    def pauseProducing(self):
        self.going = False

    def stopProducing(self):
        self.going = False
        self.stopped = True

    def resumeProducing(self):
        """Produce until it is paused."""
        self.going = True
        while self.going and self.parts:
            self.produce()

    def produce(self):
        self.parts -= 1
        part = b"%d" % self.parts * 10_000
        self.written += part
        self.transport.write(part)
        if not self.parts:
            self.transport.unregisterProducer()
            self.transport.closeStdin()


class PullSource(Source):
    """It produces one part each time it is asked."""

    resumeProducing = Source.produce
