# SPDX-License-Identifier: GPL-2.0-or-later

"""Copies bytes between the client's stdio and the FIFOs of a worker.

Part of the stand-alone client: imports the standard library only (see ``client.py``).
"""

# The C modules, because `signal` and `socket` import enum, re and selectors: a
# quarter of the start-up time of the client.
import _signal
import _socket
import os
import select
import stat

_CHUNK = 1 << 20
#: The size of a pipe, and of one that was enlarged for a large transfer, in bytes.
_FULL, _LARGE = 1 << 16, 1 << 18
_F_SETPIPE_SZ = 1031
_MSG_DONTWAIT = 0x40
_SHUT_WR = 1
_EINVAL = 22
_LONGEST = 2**31 - 1  # that poll(2) can wait, in ms
_BROKEN = select.POLLERR | select.POLLHUP | select.POLLNVAL
_PASSED_ON = (_signal.SIGHUP, _signal.SIGTERM, _signal.SIGINT)


class ForwardedSignals:
    """Handles the signals that are forwarded; the handlers only wake the loop."""

    def __init__(self):
        self.descriptor, self._write = os.pipe()
        os.set_blocking(self.descriptor, False)
        os.set_blocking(self._write, False)
        _signal.set_wakeup_fd(self._write)
        for number in _PASSED_ON:
            # A signal that was ignored at the start (nohup) stays ignored.
            if _signal.getsignal(number) != _signal.SIG_IGN:
                _signal.signal(number, lambda number, frame: None)

    def seen(self):
        """The numbers of the signals that came since the last call."""
        try:
            return [each for each in os.read(self.descriptor, 64) if each in _PASSED_ON]
        except BlockingIOError:
            return []


def wait(wanted, timeout=None):
    """Wait with poll(2).

    :param wanted: a dict of descriptors to events.
    :param timeout: in seconds, or None.
    :returns: a dict of the ready descriptors to their events.
    """
    poller = select.poll()
    for descriptor, events in wanted.items():
        poller.register(descriptor, events)
    if timeout is not None:
        timeout = min(max(0, timeout) * 1000, _LONGEST)
    return dict(poller.poll(timeout))


class Pump:
    """One direction of the relay: copies *source* to *sink* until end of file.

    It never blocks, so that a full sink does not stop the other direction. It
    reads *source* when that is ready, and writes with the function of `writer`.
    """

    def __init__(self, source, sink):
        self.source = source
        self.sink = sink
        self.done = False
        #: Whether any bytes were copied.
        self.moved = False
        self._room_wanted = self._grown = False
        self._pending = b""
        self._write = writer(sink)
        self._splice = hasattr(os, "splice") and _can_splice(source, sink)

    def events(self):
        """What to poll for: a dict of descriptors to events (0: errors only)."""
        if self._room_wanted:
            return {self.sink: select.POLLOUT}
        return {self.source: select.POLLIN, self.sink: 0}

    def step(self, ready):
        """Copy what can be copied; *ready* is the result of `wait`."""
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
            # A broken pipe or connection at either end ends this direction.
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
                self._splice = False  # not supported for these kinds of file
        if not self._pending:
            self._pending = os.read(self.source, 65536)
        if self._pending:
            self.moved = True
            self._pending = self._pending[self._write(self._pending) :]
            self._room_wanted = bool(self._pending)
        else:
            self.finish()

    def _grow(self):
        """Enlarge the pipe, once a transfer has filled it.

        Most transfers are small, and the pages of a user's pipes are limited
        (pipe(7)).
        """
        self._grown = True
        import fcntl  # seldom needed

        for end in (self.source, self.sink):
            try:
                fcntl.fcntl(end, _F_SETPIPE_SZ, _LARGE)
            except OSError:
                pass  # not a pipe, or the limit of pages is reached

    def _source_ready(self):
        return bool(wait({self.source: select.POLLIN}, 0).get(self.source, 0))

    def idle(self):
        """Whether no bytes are pending, neither here nor in *source*."""
        if self._pending:
            return False
        return not wait({self.source: select.POLLIN}, 0).get(self.source, 0) & 1

    def finish(self):
        """Pass the end of file on and close both ends; idempotent."""
        if self.done:
            return
        self.done = True
        os.close(self.source)
        if stat.S_ISSOCK(os.fstat(self.sink).st_mode):
            # close(2) alone may not end the connection: sshd passes the same
            # socket as stdin and stdout.
            _shut_down_writing(self.sink)
        os.close(self.sink)


def _can_splice(source, sink):
    """Whether splice(2) between these never blocks; one of them is a worker's FIFO."""
    if not stat.S_ISFIFO(os.fstat(sink).st_mode):
        # Into a socket or a terminal it blocks, with any flags.
        return stat.S_ISREG(os.fstat(sink).st_mode)
    return not stat.S_ISCHR(os.fstat(source).st_mode)


def writer(sink):
    """A function that writes some bytes to *sink* and returns their number.

    The function raises BlockingIOError instead of blocking.
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
    """A new descriptor for the file of *number*, non-blocking if possible.

    O_NONBLOCK belongs to the open file description, which other processes share.
    Setting it on an inherited descriptor would affect them.
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
    """Replace standard input and output of this process by /dev/null."""
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.close(null)


class Relay:
    """Relays one connection, from the ``ok`` of ``spawn`` to its end.

    :param conversation: the `conversation.Conversation` that got the answer.
    :param signals: a `ForwardedSignals`.
    :param pid: of the worker.
    :param paths: of the worker's stdin, stdout and stderr FIFOs.
    """

    def __init__(self, conversation, signals, pid, paths):
        self._conversation = conversation
        self._signals = signals
        self._service_gone = False
        self._service = service_pidfd(conversation.directory)
        self._explained = False
        try:
            self._pidfd = os.pidfd_open(pid)
        except OSError:
            self._pidfd = -1  # the worker has ended: the next answer tells how
        self._flows = []
        try:
            # The service opens the read end of stdin before it answers.
            ends = [os.open(paths[0], os.O_WRONLY | os.O_NONBLOCK)]
            for path in paths[1:]:
                ends.append(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
        except OSError:
            return  # the worker ended before it served: likewise
        self._flows = [
            Pump(os.dup(0), ends[0]),
            Pump(ends[1], _own_description(1)),
            Pump(ends[2], _own_description(2)),
        ]
        # Only the pumps keep stdio open, so that a close takes effect.
        leave_stdio()

    def run(self):
        """Relay until the worker has ended.

        :returns: the last answer as a list of words; None if both the service and
            the worker ended without one.
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
            if self._conversation.control in ready or self._service in ready:
                # The worker goes on, and writes the last answer itself.
                self._service_gone = True
        for flow in self._flows[1:]:
            self._drain(flow)
        self._explained = bool(self._flows) and self._flows[2].moved
        return answer

    def explained(self, status):
        """Whether the worker wrote to standard error why it ends with *status*."""
        return self._explained

    def _wanted(self):
        wanted = {
            self._conversation.reply: select.POLLIN,
            self._signals.descriptor: select.POLLIN,
        }
        if not self._service_gone:
            wanted[self._conversation.control] = 0
            if self._service >= 0:
                wanted[self._service] = select.POLLIN
        elif self._pidfd >= 0:
            wanted[self._pidfd] = select.POLLIN
        for flow in self._flows:
            if not flow.done:
                wanted.update(flow.events())
        return wanted

    def _drain(self, flow):
        """Copy the bytes that the worker wrote before it ended."""
        while not flow.done and not flow.idle():
            wanted = flow.events()
            wanted[self._signals.descriptor] = select.POLLIN
            flow.step(wait(wanted))
            if self._signals.seen():
                break
        flow.finish()


def service_pidfd(directory):
    """A pidfd of the service that has *directory* locked, or -1.

    Where systemd has made the control FIFO, that has a reader without a service.
    """
    try:
        lock = os.open(directory + "/lock", os.O_RDONLY)
    except OSError:
        return -1
    try:
        return os.pidfd_open(int(os.read(lock, 32)))
    except (OSError, ValueError):
        return -1
    finally:
        os.close(lock)


def pass_on(pidfd, number):
    """Send signal *number* to the process of *pidfd*, unless it has ended.

    :raises PermissionError: if the process belongs to another user.
    """
    try:
        _signal.pidfd_send_signal(pidfd, number)
    except ProcessLookupError:
        pass
