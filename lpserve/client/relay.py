# SPDX-License-Identifier: GPL-2.0-or-later

"""The client's relay: bytes between its own stdio and the FIFOs of a worker.

Part of the stand-alone client: the standard library only (see ``client.py``).
"""

# The C modules: the Python ones around them import enum, re and selectors,
# which is a quarter of the time that the client takes to start.
import _signal
import _socket
import os
import select
import stat

_CHUNK = 1 << 20
#: What a pipe holds, and what one holds that much goes through, in bytes.
_FULL, _LARGE = 1 << 16, 1 << 18
_F_SETPIPE_SZ = 1031
_MSG_DONTWAIT = 0x40
_SHUT_WR = 1
_EINVAL = 22
_LONGEST = 2**31 - 1  # that poll(2) can wait, in ms
_BROKEN = select.POLLERR | select.POLLHUP | select.POLLNVAL
_PASSED_ON = (_signal.SIGHUP, _signal.SIGTERM, _signal.SIGINT)


class ForwardedSignals:
    """The signals that are passed on; their handlers only wake the loop."""

    def __init__(self):
        self.descriptor, self._write = os.pipe()
        os.set_blocking(self.descriptor, False)
        os.set_blocking(self._write, False)
        _signal.set_wakeup_fd(self._write)
        for number in _PASSED_ON:
            # One that was ignored when we were started (nohup) stays ignored.
            if _signal.getsignal(number) != _signal.SIG_IGN:
                _signal.signal(number, lambda number, frame: None)

    def seen(self):
        """The numbers of the signals that came since the last call."""
        try:
            return [each for each in os.read(self.descriptor, 64) if each in _PASSED_ON]
        except BlockingIOError:
            return []


def wait(wanted, timeout=None):
    """Poll *wanted*, a dict of descriptor to events; a dict of those ready.

    :param timeout: in seconds, or None.
    """
    poller = select.poll()
    for descriptor, events in wanted.items():
        poller.register(descriptor, events)
    if timeout is not None:
        timeout = min(max(0, timeout) * 1000, _LONGEST)
    return dict(poller.poll(timeout))


class Pump:
    """One direction of the relay: from *source* to *sink* until end of file.

    Never blocks: *source* is read when it has something, and *sink* written as
    `_writer` says, so that a full sink does not stop the other direction.
    """

    def __init__(self, source, sink):
        self.source = source
        self.sink = sink
        self.done = False
        #: Whether anything came through.
        self.moved = False
        self._room_wanted = self._grown = False
        self._pending = b""
        self._write = _writer(sink)
        self._splice = hasattr(os, "splice") and _can_splice(source, sink)

    def events(self):
        """What to poll for, a dict of descriptor to events (0: errors only)."""
        if self._room_wanted:
            return {self.sink: select.POLLOUT}
        return {self.source: select.POLLIN, self.sink: 0}

    def step(self, ready):
        """Move what can be moved; *ready* is what `wait` returned."""
        if not self._room_wanted and not ready.get(self.source):
            if ready.get(self.sink, 0) & _BROKEN:
                self.finish()
            return
        if self._room_wanted and not ready.get(self.sink):
            return
        try:
            self._move()
        except BlockingIOError:
            self._room_wanted = bool(self._pending) or self._source_ready()
        except OSError:
            # A broken pipe or connection at either end: this direction is over.
            self.finish()

    def _move(self):
        if self._splice:
            try:
                while number := os.splice(
                    self.source,
                    self.sink,
                    _CHUNK,
                    flags=os.SPLICE_F_NONBLOCK | os.SPLICE_F_MOVE,
                ):
                    self.moved = True
                    if number >= _FULL and not self._grown:
                        self._grow()
                self.finish()
                return
            except OSError as error:
                if error.errno != _EINVAL:
                    raise
                self._splice = False  # not for these kinds of file after all
        if not self._pending:
            self._pending = os.read(self.source, 65536)
        if self._pending:
            self.moved = True
            self._pending = self._pending[self._write(self._pending) :]
            self._room_wanted = bool(self._pending)
        else:
            self.finish()

    def _grow(self):
        """Make our pipe larger, now that much goes through it.

        Not before: a user may have only so many pages in pipes (pipe(7)).
        """
        self._grown = True
        import fcntl  # only now: most connections are small

        for end in (self.source, self.sink):
            try:
                fcntl.fcntl(end, _F_SETPIPE_SZ, _LARGE)
            except OSError:
                pass  # not a pipe, or there are too many pages already

    def _source_ready(self):
        return bool(wait({self.source: select.POLLIN}, 0).get(self.source, 0))

    def idle(self):
        """Whether nothing is on its way, neither here nor in *source*."""
        if self._pending:
            return False
        return not wait({self.source: select.POLLIN}, 0).get(self.source, 0) & 1

    def finish(self):
        """Pass the end of file on and close both ends; may be called again."""
        if self.done:
            return
        self.done = True
        os.close(self.source)
        if stat.S_ISSOCK(os.fstat(self.sink).st_mode):
            # Another descriptor may be open on the same socket: sshd gives one
            # for stdin and stdout.
            _shut_down_writing(self.sink)
        os.close(self.sink)


def _can_splice(source, sink):
    """Whether splice(2) between these would never block (one is our FIFO)."""
    if not stat.S_ISFIFO(os.fstat(sink).st_mode):
        # Into a socket or a terminal it blocks whatever flags it is given.
        return stat.S_ISREG(os.fstat(sink).st_mode)
    return not stat.S_ISCHR(os.fstat(source).st_mode)


def _writer(sink):
    """A function that writes some bytes to *sink* and returns how many.

    It raises BlockingIOError instead of blocking.
    """
    mode = os.fstat(sink).st_mode
    if stat.S_ISSOCK(mode):

        def send(data):
            connection = _socket.socket(fileno=sink)
            try:
                return connection.send(data, _MSG_DONTWAIT)
            finally:
                connection.detach()

        return send
    if os.get_blocking(sink) and not stat.S_ISREG(mode):
        # PIPE_BUF bytes fit into a pipe that poll calls writable (pipe(7)).
        return lambda data: os.write(sink, data[: select.PIPE_BUF])
    return lambda data: os.write(sink, data)


def _shut_down_writing(number):
    connection = _socket.socket(fileno=number)
    try:
        connection.shutdown(_SHUT_WR)
    except OSError:
        pass
    finally:
        connection.detach()


def _own_description(number):
    """A new descriptor for what *number* is open on, non-blocking where it can be.

    O_NONBLOCK belongs to the open file description, which we share with whoever
    started us: set on an inherited descriptor it would change theirs.
    """
    mode = os.fstat(number).st_mode
    if stat.S_ISFIFO(mode) or stat.S_ISCHR(mode):
        try:
            flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY
            return os.open(f"/proc/self/fd/{number}", flags)
        except OSError:
            pass
    return os.dup(number)


def leave_stdio():
    """Have nothing open of our standard input and output any more."""
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.close(null)


class Relay:
    """The life of one connection, from the ``ok`` of ``spawn`` to its end.

    :param conversation: the `conversation.Conversation` that got the answer.
    :param signals: a `ForwardedSignals`.
    :param pid: the worker's.
    :param paths: of its stdin, stdout and stderr FIFOs.
    """

    def __init__(self, conversation, signals, pid, paths):
        self._conversation = conversation
        self._signals = signals
        self._service_gone = False
        self._explained = False
        try:
            self._pidfd = os.pidfd_open(pid)
        except OSError:
            self._pidfd = -1  # it has ended already: the next answer says how
        self._flows = []
        try:
            # The service has opened the read end of stdin before it answered.
            ends = [os.open(paths[0], os.O_WRONLY | os.O_NONBLOCK)]
            for path in paths[1:]:
                ends.append(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
        except OSError:
            return  # the worker died before it served: likewise
        self._flows = [
            Pump(os.dup(0), ends[0]),
            Pump(ends[1], _own_description(1)),
            Pump(ends[2], _own_description(2)),
        ]
        # The flows alone hold the two ends, so that closing them is seen.
        leave_stdio()

    def run(self):
        """Relay until the worker has ended.

        :returns: the last answer as a list of words, or None where neither the
            service nor the worker lived to give one.
        """
        while True:
            answer = self._conversation.read_answer()
            if answer is not None:
                break
            wanted = self._wanted()
            ready = wait(wanted)
            for number in self._signals.seen():
                if self._pidfd >= 0:
                    pass_on(self._pidfd, number)
            for flow in self._flows:
                if not flow.done:
                    flow.step(ready)
            if self._service_gone and (self._pidfd < 0 or self._pidfd in ready):
                answer = self._conversation.read_answer()
                break
            if self._conversation.control in ready:
                # The worker goes on, and says itself how it ended.
                self._service_gone = True
        for flow in self._flows[1:]:
            self._drain(flow)
        self._explained = bool(self._flows) and self._flows[2].moved
        return answer

    def explained(self, status):
        """Whether the worker has told why it ends with *status*."""
        return self._explained

    def _wanted(self):
        wanted = {
            self._conversation.reply: select.POLLIN,
            self._signals.descriptor: select.POLLIN,
        }
        if not self._service_gone:
            wanted[self._conversation.control] = 0
        elif self._pidfd >= 0:
            wanted[self._pidfd] = select.POLLIN
        for flow in self._flows:
            if not flow.done:
                wanted.update(flow.events())
        return wanted

    def _drain(self, flow):
        """Deliver what the worker wrote before it ended."""
        while not flow.done and not flow.idle():
            wanted = flow.events()
            wanted[self._signals.descriptor] = select.POLLIN
            flow.step(wait(wanted))
            if self._signals.seen():
                break
        flow.finish()


def pass_on(pidfd, number):
    """Send a signal to the process of *pidfd*, if it is still there.

    :raises PermissionError: if it is another user's.
    """
    try:
        _signal.pidfd_send_signal(pidfd, number)
    except ProcessLookupError:
        pass  # it has just ended
