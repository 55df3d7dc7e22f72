# SPDX-License-Identifier: GPL-2.0-or-later

"""Sends one request to the service's control FIFO and reads the answers.

``socketconversation.py`` does the same for the socket.

Part of the stand-alone client: imports the standard library only (see ``client.py``).
"""

import os
import select
import stat
import time

from ..location import LPSERVE_USER, directory_fault, is_remote
from .relay import wait

EX_USAGE = 64
MAX_REQUEST = 4096
#: Bytes of a request for its verb, words and variables; the rest is for the name of
#: the reply FIFO and the newlines.
_ROOM = 4000
#: The longest name of a locale or a time zone, in bytes.
_LONGEST_LABEL = 255
#: The longest answer, in bytes.
_LONGEST = 65536
_UNFIT = "does not fit into a request (4096 bytes of UTF-8 without a newline)"
_SAFE = frozenset(
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789@%_-+=:,./~"
)


class _Told(Exception):
    """An error; ``str()`` is one line for the administrator.

    :ivar public: one line for a remote user, which names no path of this host.
    """

    def __init__(self, text, public=None):
        super().__init__(text)
        self.public = text if public is None else public

    @property
    def shown(self):
        """The line for the reader of our standard error."""
        return self.public if is_remote(os.environ) else str(self)


class ClientError(_Told):
    """The client ends, with *status* as its exit code."""

    def __init__(self, status, text, public=None):
        super().__init__(text, public)
        self.status = status


class Refused(ClientError):
    """The connection is not served; no worker uses our stdio, now or later."""


class NoService(_Told):
    """The service cannot be reached; the line tells why."""


def service_fault(directory, subject, rest):
    """The `NoService` "SUBJECT at DIRECTORY REST"; in public without the directory."""
    return NoService(f"{subject} at {directory}{rest}", subject + rest)


def place_fault(directory, rest, before=""):
    """The `NoService` "BEFORE DIRECTORY REST"; in public without the path."""
    return NoService(
        f"{before}{directory}{rest}", f"{before}the runtime directory{rest}"
    )


def check_directory(directory, owner=None):
    """Check that *directory* can be trusted; see `location.directory_fault`.

    :raises NoService: if not.
    :raises OSError: if stat(2) fails.
    """
    fault = directory_fault(directory, owner)
    if fault is not None:
        raise place_fault(directory, fault[len(directory) :])


def quote(word):
    """*word* quoted for a request, as `shlex.quote` does."""
    if word and _SAFE.issuperset(word):
        return word
    return "'" + word.replace("'", "'\"'\"'") + "'"


def _size(word):
    """The bytes of a blank and *word* in a request; `MAX_REQUEST` if it is invalid."""
    try:
        return MAX_REQUEST if "\n" in word else 1 + len(quote(word).encode("utf-8"))
    except UnicodeEncodeError:
        return MAX_REQUEST


def _kind(name):
    """The priority of the variable *name* in a request: 0 (first), 1 or 2."""
    if name in ("LANG", "LANGUAGE", "TZ") or name.startswith("LC_"):
        return 1
    return 2 if name == "SSH_ORIGINAL_COMMAND" else 0


def _is_label(value):
    """Whether *value* can be the name of a locale or a time zone."""
    return len(value.encode("utf-8", "replace")) <= _LONGEST_LABEL and not any(
        each < " " or each == "\x7f" for each in value
    )


def _cut(name, value, room):
    """The word for as much of the beginning of *value* as fits into *room* bytes."""
    begin = f"env.{name}="
    size, quotes, kept = 1 + len(begin.encode("utf-8")), 0, 0
    if size > room:
        return None
    for each in value:
        try:
            size += 5 if each == "'" else len(each.encode("utf-8"))
        except UnicodeEncodeError:
            break
        if each not in _SAFE:
            quotes = 2
        if each == "\n" or size + quotes > room:
            break
        kept += 1
    return begin + value[:kept]


def spawn_words(user, names, environ):
    """The words of a ``spawn`` for *user* with the variables *names* of *environ*.

    A remote user chooses the values of some of them, and must not be able to make
    the request too long. If they do not fit, locale and time zone are left out, and
    the command is cut.

    :raises ClientError: if another variable does not fit.
    """
    words, room = ["spawn", user], _ROOM - 5 - _size(user)
    for kind in range(3):
        for name in names:
            value = environ.get(name)
            if value is None or name == LPSERVE_USER or _kind(name) != kind:
                continue
            word = f"env.{name}={value}"
            if kind == 1 and (_size(word) > room or not _is_label(value)):
                continue
            if kind == 2 and _size(word) > room:
                word = _cut(name, value, room)
                if word is None:
                    continue
            room -= _size(word)
            if room < 0:
                raise ClientError(EX_USAGE, f"{name} {_UNFIT}")
            words.append(word)
    return words


def _unquote(line):
    if "'" not in line and '"' not in line and "\\" not in line:
        return line.split()
    import shlex  # only for a runtime directory with unusual characters

    return shlex.split(line)


class Exchange:
    """One request to the service and the answers to it, through either door.

    :ivar control: a descriptor on which poll(2) reports an error once the service
        has ended.
    :ivar reply: the descriptor at which answers arrive.
    :ivar directory: the runtime directory.
    :ivar longest: bytes of an answer that are waited for.
    """

    longest = _LONGEST

    def __init__(self, directory, signals=None):
        """Open nothing yet.

        :param signals: a `relay.ForwardedSignals` that ends the waiting, or None.
        """
        self.control = self.reply = -1
        self.directory = directory
        self._buffer = b""
        self._signals = signals

    def _encode(self, words):
        """The line of a request.

        :raises ClientError: if it does not fit.
        """
        line = " ".join(map(quote, words)) + "\n"
        try:
            request = line.encode("utf-8")
        except UnicodeEncodeError:
            request = b""
        # One byte less: at the FIFO a newline precedes the request.
        if not 0 < len(request) < MAX_REQUEST or line.count("\n") > 1:
            raise ClientError(EX_USAGE, f"what this connection needs {_UNFIT}")
        return request

    def _receive(self):
        """The bytes that have arrived.

        :raises BlockingIOError: if there are none.
        """
        raise NotImplementedError

    def read_answer(self):
        """The next answer as a list of words; None if it has not arrived.

        :raises NoService: if none will arrive.
        """
        while b"\n" not in self._buffer:
            if len(self._buffer) > self.longest:
                raise self.not_understood()
            try:
                self._buffer += self._receive()
            except BlockingIOError:
                return None
        line, _, self._buffer = self._buffer.partition(b"\n")
        try:
            words = _unquote(line.decode("utf-8", "surrogateescape"))
        except ValueError:
            words = []
        if not words:
            raise self.not_understood()
        return words

    def wait_answer(self, deadline):
        """The next answer, as a list of words.

        :raises NoService: if none comes before *deadline*, or the service ends.
        """
        while True:
            answer = self.read_answer()
            if answer is not None:
                return answer
            self._wait(self.reply, select.POLLIN, deadline)

    def _wait(self, descriptor, events, deadline):
        left = deadline - time.monotonic()
        wanted = {self.control: 0, descriptor: events}
        if self._signals is not None:
            wanted[self._signals.descriptor] = select.POLLIN
        ready = wait(wanted, left)
        if descriptor in ready:
            return  # the answer first: the worker may be the one to get the signal
        for number in self._signals.seen() if self._signals is not None else ():
            raise ClientError(128 + number, f"ended by signal {number}")
        if not ready and left <= 0:
            raise self.fault(" does not answer")
        if self.control in ready:
            raise self.ended()

    def fault(self, rest):
        """The `NoService` "the service at DIRECTORY REST"."""
        return service_fault(self.directory, "the service", rest)

    def not_understood(self):
        """The `NoService` for an invalid answer."""
        return self.fault(" gives an answer that this client does not understand")

    def ended(self):
        """The `NoService` for a service that has ended."""
        return self.fault(" ended")


class Conversation(Exchange):
    """One request to the control FIFO and the answers to it.

    ``control`` stays open: poll(2) reports when it has no reader, and thereby the
    end of the service. ``reply`` is opened for reading and writing, so that it
    never reports an end of file.
    """

    def __init__(self, directory, signals=None):
        """Open the control FIFO in *directory*.

        :param signals: a `relay.ForwardedSignals` that ends the waiting, or None.
        :raises NoService: if there is no FIFO, no process reads it, or it cannot
            be trusted.
        """
        super().__init__(directory, signals)
        self._path = None
        self._request = b""
        try:
            check_directory(directory)
            self.control = os.open(directory + "/control", os.O_WRONLY | os.O_NONBLOCK)
        except OSError as error:
            why = f" ({error.strerror})"
            raise service_fault(directory, "no service", why) from None
        found = os.fstat(self.control)
        # Nobody else can create a FIFO that belongs to our user.
        if not stat.S_ISFIFO(found.st_mode) or found.st_uid != os.geteuid():
            self.close()
            raise place_fault(directory, " is not a FIFO of ours", "control in ")

    def close(self):
        """Close the FIFOs and remove the reply FIFO; idempotent."""
        for descriptor in (self.control, self.reply):
            if descriptor >= 0:
                os.close(descriptor)
        self.control = self.reply = -1
        if self._path is not None:
            try:
                os.unlink(self._path)
            except OSError:
                pass
            self._path = None

    def prepare(self, words):
        """Create the reply FIFO, and encode the request that `write` writes.

        :raises NoService: if the FIFO cannot be created.
        :raises ClientError: if the request does not fit.
        """
        # The service removes FIFOs of this name once their process has ended.
        name = f"client.{os.getpid()}.{os.urandom(4).hex()}"
        path = f"{self.directory}/replies/{name}"
        # The newline in front ends an incomplete line of another writer.
        self._request = b"\n" + self._encode([*words, "reply=" + name])
        try:
            os.mkfifo(path, 0o600)
            self._path = path
            self.reply = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        except OSError as error:
            raise place_fault(self.directory, f": {error.strerror}") from None

    def write(self):
        """Write the request; False if the FIFO is full.

        :raises NoService: if no process reads the FIFO.
        """
        try:
            os.write(self.control, self._request)
        except BlockingIOError:
            return False
        except OSError as error:
            raise place_fault(self.directory, f": {error.strerror}") from None
        return True

    def send(self, words, deadline, stdio=()):
        """Write one request; *deadline* is in seconds of `time.monotonic`.

        :param stdio: ignored: the worker uses FIFOs.
        """
        self.prepare(words)
        while not self.write():
            self._wait(self.control, select.POLLOUT, deadline)

    def _receive(self):
        return os.read(self.reply, 65536)


def ask(directory, words, timeout=30.0, door=Conversation):
    """Send one request; the words of its first answer.

    :param timeout: in seconds.
    :param door: a function of *directory* that opens a conversation.
    :raises NoService: if the service cannot be reached or does not answer.
    """
    talk = door(directory)
    try:
        deadline = time.monotonic() + timeout
        talk.send(words, deadline)
        return talk.wait_answer(deadline)
    finally:
        talk.close()
