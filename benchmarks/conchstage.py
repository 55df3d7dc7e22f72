# SPDX-License-Identifier: GPL-2.0-or-later

"""An SSH server and a client of the least that Conch needs; see exec_time.py."""

from __future__ import annotations

import time
from collections.abc import Awaitable
from multiprocessing.connection import Connection as Pipe
from typing import Any

from stage import DEADLINE, HELLO, USER, BenchmarkError, check_hello
from twisted.conch.avatar import ConchUser
from twisted.conch.checkers import InMemorySSHKeyDB, SSHPublicKeyChecker
from twisted.conch.interfaces import IConchUser, ISession
from twisted.conch.ssh import channel, connection, factory, keys, session, transport
from twisted.conch.ssh import common as wire
from twisted.conch.ssh.userauth import SSHUserAuthClient
from twisted.cred.portal import IRealm, Portal
from twisted.internet import defer, error
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.protocol import ProcessProtocol
from twisted.python.components import registerAdapter
from twisted.python.failure import Failure
from zope.interface import implementer

from lpserve import conch

#: What the server can be told to execute.
ALONE, WORKER, SPAWN = "Conch, no process", "Conch, a worker", "Conch, spawnProcess"


# -- the small server -----------------------------------------------------------


class Timed(ProcessProtocol):
    """Passes all on to *proto*, and says when what happened."""

    def __init__(self, proto: Any, pipe: Pipe):
        self._proto = proto
        self._pipe = pipe
        self._times = [time.perf_counter()]

    def connectionMade(self) -> None:
        self._proto.makeConnection(self.transport)

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        if childFD == 1 and len(self._times) == 1:
            now = time.perf_counter()
            started = getattr(self.transport, "started", None)
            if started is not None:  # by the reactor's clock
                started = now - (time.time() - started)
            self._times += [started or now, now]
        self._proto.childDataReceived(childFD, data)

    def childConnectionLost(self, childFD: int) -> None:
        self._proto.childConnectionLost(childFD)

    def processEnded(self, reason: Failure) -> None:
        self._pipe.send(self._times)
        self._proto.processEnded(reason)


class NoProcess:
    """A process transport that answers ``hello`` by itself."""

    def __init__(self, proto: ProcessProtocol):
        self._proto = proto
        proto.makeConnection(self)

    def write(self, data: bytes) -> None:
        self._proto.childDataReceived(1, HELLO)

    def closeStdin(self) -> None:
        proto, self._proto = self._proto, None
        if proto is not None:
            proto.childConnectionLost(1)
            proto.childConnectionLost(2)
            proto.processEnded(Failure(error.ProcessDone(0)))

    loseConnection = closeStdin


class User(ConchUser):
    """Whoever has logged in; *ways* starts what is called after a command."""

    def __init__(self, ways: dict[bytes, Any], pipe: Pipe):
        super().__init__()
        self.ways = ways
        self.pipe = pipe
        self.channelLookup[b"session"] = session.SSHSession


@implementer(ISession)
class Execution:
    """A session of the small server, as far as the client needs it."""

    def __init__(self, user: User):
        self._user = user

    def execCommand(self, proto: Any, command: bytes) -> None:
        timed = Timed(proto, self._user.pipe)
        self._process = self._user.ways[command](timed)

    def eofReceived(self) -> None:
        self._process.closeStdin()

    def closed(self) -> None:
        self._process.loseConnection()


registerAdapter(Execution, User, ISession)


@implementer(IRealm)
class Realm:
    def __init__(self, user: User):
        self._user = user

    def requestAvatar(self, avatarId: Any, mind: Any, *interfaces: Any) -> Any:
        return IConchUser, self._user, lambda: None


class Peer(transport.SSHServerTransport):
    def connectionMade(self) -> None:
        self.transport.setTcpNoDelay(True)  # as sshd and lp-serve-ssh
        super().connectionMade()


def serve(pipe: Pipe, directory: str, key: str, today: list[str], env: dict) -> None:
    """Be the small server; sends its port, and then the times of each session.

    :param directory: the service's runtime directory.
    :param key: the path of the client's key.
    :param today: what is executed today, in the environment *env*.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from twisted.internet import reactor

    service = conch.ForkService(reactor, directory)
    ways = {
        ALONE: NoProcess,
        # No fallback: nothing else may be measured.
        WORKER: lambda proto: conch.WorkerTransport(service, proto, USER, env, None),
        SPAWN: lambda proto: reactor.spawnProcess(proto, today[0], today, env=env),
    }
    user = User({way.encode(): start for way, start in ways.items()}, pipe)
    public = {USER.encode(): [keys.Key.fromFile(key + ".pub")]}
    checker = SSHPublicKeyChecker(InMemorySSHKeyDB(public))
    made = factory.SSHFactory()
    made.protocol = Peer
    host_key = keys.Key(Ed25519PrivateKey.generate())
    made.publicKeys = {host_key.sshType(): host_key.public()}
    made.privateKeys = {host_key.sshType(): host_key}
    made.portal = Portal(Realm(user), [checker])
    port = reactor.listenTCP(0, made, interface="127.0.0.1")
    pipe.send(port.getHost().port)
    reactor.run()


# -- the client -------------------------------------------------------------------


class Client(transport.SSHClientTransport):
    """Logs in with *key*; `ready` fires with the connection."""

    def __init__(self, key: str):
        self._key = keys.Key.fromFile(key)
        self.ready: defer.Deferred[connection.SSHConnection] = defer.Deferred()

    def connectionMade(self) -> None:
        self.transport.setTcpNoDelay(True)
        super().connectionMade()

    def verifyHostKey(self, hostKey: bytes, fingerprint: bytes) -> Any:
        return defer.succeed(True)  # it is our own, on loopback

    def connectionSecure(self) -> None:
        made = connection.SSHConnection()
        made.serviceStarted = lambda: self.ready.callback(made)
        self.requestService(Login(USER.encode(), made, self._key))


class Login(SSHUserAuthClient):
    def __init__(self, user: bytes, instance: Any, key: keys.Key):
        super().__init__(user, instance)
        self._unused = [key]

    def getPublicKey(self) -> keys.Key | None:
        self._key = self._unused.pop() if self._unused else None
        return self._key and self._key.public()

    def getPrivateKey(self) -> Any:
        return defer.succeed(self._key)


class Session(channel.SSHChannel):
    """A session of the client's.

    :ivar times: of the request and of the first byte.
    """

    name = b"session"

    def __init__(self) -> None:
        super().__init__()
        self.opened: defer.Deferred[None] = defer.Deferred()
        self.answered: defer.Deferred[None] = defer.Deferred()
        self.over: defer.Deferred[None] = defer.Deferred()
        self.times: list[float] = []
        self._answer = b""
        self._status = b"none"

    def channelOpen(self, data: bytes) -> None:
        self.opened.callback(None)

    def openFailed(self, reason: Any) -> None:
        self.opened.errback(BenchmarkError(f"no session: {reason}"))

    def execute(self, command: str) -> None:
        """Have *command* executed, and say hello to it."""
        self.times = [time.perf_counter()]
        self.conn.sendRequest(self, b"exec", wire.NS(command.encode()), wantReply=True)
        self.write(b"hello\n")

    def dataReceived(self, data: bytes) -> None:
        if not self._answer:
            self.times.append(time.perf_counter())
        self._answer += data
        if len(self._answer) >= len(HELLO):
            self.answered.callback(None)

    def request_exit_status(self, data: bytes) -> bool:
        self._status = data
        return True

    def closed(self) -> None:
        if not self.answered.called:
            self.answered.errback(BenchmarkError("closed without an answer"))
        self.over.callback(None)

    async def finish(self) -> None:
        """Send the end of file, and wait until all has ended well."""
        self.conn.sendEOF(self)
        await in_time(self.over)
        check_hello(self._answer)
        if self._status != b"\0\0\0\0":
            raise BenchmarkError(f"a command ended with {self._status!r}")


def in_time(deferred: defer.Deferred[Any]) -> Awaitable[Any]:
    """*deferred*, which has to fire before long."""
    from twisted.internet import reactor

    return deferred.addTimeout(DEADLINE, reactor)


async def log_in(port: int, key: str) -> connection.SSHConnection:
    """A connection on which there can be sessions."""
    from twisted.internet import reactor

    client = Client(key)
    await connectProtocol(TCP4ClientEndpoint(reactor, "127.0.0.1", port), client)
    return await in_time(client.ready)


async def at_once(
    conn: connection.SSHConnection, command: str, count: int
) -> list[list[float]]:
    """The times of *count* sessions that begin at the same moment."""
    sessions = [Session() for _ in range(count)]
    for each in sessions:
        conn.openChannel(each)
        await in_time(each.opened)
    for each in sessions:
        each.execute(command)
    for each in sessions:
        await in_time(each.answered)
    for each in sessions:
        await each.finish()
    return [each.times for each in sessions]
