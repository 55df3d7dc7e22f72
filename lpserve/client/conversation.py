# SPDX-License-Identifier: GPL-2.0-or-later

"""One request to the service's control FIFO and the answers to it.

``socketconversation.py`` has the same for the socket.

Part of the stand-alone client: the standard library only (see ``client.py``).
"""

import os
import select
import stat
import time

from ..location import LPSERVE_USER, directory_fault, is_remote
from .relay import wait

EX_USAGE = 64
MAX_REQUEST = 4096
#: Of these for the verb, its words and its variables; the rest is for the reply
#: FIFO's name and the newlines.
_ROOM = 4000
#: Longest value in bytes that is taken for the name of a locale or a time zone.
_LONGEST_LABEL = 255
#: Longest answer in bytes that is waited for.
_LONGEST = 65536
_UNFIT = "does not fit into a request (4096 bytes of UTF-8 without a newline)"
_SAFE = frozenset(
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789@%_-+=:,./~"
)


class _Told(Exception):
    """One line for a person: ``str()``.

    :ivar public: the same for a user of ssh: it names no path of this host.
    """

    def __init__(self, text, public=None):
        super().__init__(text)
        self.public = text if public is None else public

    @property
    def shown(self):
        """The line for whoever reads our standard error."""
        return self.public if is_remote(os.environ) else str(self)


class ClientError(_Told):
    """The end of this client: *status* is its exit code."""

    def __init__(self, status, text, public=None):
        super().__init__(text, public)
        self.status = status


class NoService(_Told):
    """The service cannot be reached; its line says why."""


def service_fault(directory, subject, rest):
    """The `NoService` with *subject*, where that is, and what the matter is."""
    return NoService(f"{subject} at {directory}{rest}", subject + rest)


def place_fault(directory, rest, before=""):
    """The `NoService` for a *directory* with which something is the matter."""
    return NoService(
        f"{before}{directory}{rest}", f"{before}the runtime directory{rest}"
    )


def check_directory(directory, owner=None):
    """Look whether *directory* can be trusted; see `location.directory_fault`.

    :raises NoService: if not.
    :raises OSError: if it cannot be looked at.
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
    """Bytes of a blank and *word* in a request; too many if it cannot be in one."""
    try:
        return MAX_REQUEST if "\n" in word else 1 + len(quote(word).encode("utf-8"))
    except UnicodeEncodeError:
        return MAX_REQUEST


def _kind(name):
    """When the variable *name* gets its place in a request: 0, 1 or 2."""
    if name in ("LANG", "LANGUAGE", "TZ") or name.startswith("LC_"):
        return 1
    return 2 if name == "SSH_ORIGINAL_COMMAND" else 0


def _is_label(value):
    """Whether *value* can be what a locale or a time zone is called."""
    return len(value.encode("utf-8", "replace")) <= _LONGEST_LABEL and not any(
        each < " " or each == "\x7f" for each in value
    )


def _cut(name, value, room):
    """The word for *value*, or for as much of its beginning as has a place."""
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

    A user of ssh may choose what is in some of them, but not that they do not fit:
    what only says how text is shown is left out then, and the command is cut.

    :raises ClientError: where another one does not fit.
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

    :ivar control: a descriptor that is broken when the service has gone.
    :ivar reply: the descriptor at which answers arrive.
    :ivar directory: the runtime directory.
    """

    def __init__(self, directory, signals=None):
        """Nothing is opened yet.

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
        # One more for the newline that a FIFO wants in front.
        if not 0 < len(request) < MAX_REQUEST or line.count("\n") > 1:
            raise ClientError(EX_USAGE, f"what this connection needs {_UNFIT}")
        return request

    def _receive(self):
        """What has arrived; BlockingIOError if nothing has."""
        raise NotImplementedError

    def read_answer(self):
        """The next answer if it is there, as a list of words, else None.

        :raises NoService: if there will be none.
        """
        while b"\n" not in self._buffer:
            if len(self._buffer) > _LONGEST:
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

        :raises NoService: if none comes before *deadline* or the service ends.
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
            return  # a signal can wait until it is known who is to have it
        for number in self._signals.seen() if self._signals is not None else ():
            raise ClientError(128 + number, f"ended by signal {number}")
        if not ready and left <= 0:
            raise self.fault(" does not answer")
        if self.control in ready:
            raise self.ended()

    def fault(self, rest):
        """The `NoService` for a service of which *rest* is to be said."""
        return service_fault(self.directory, "the service", rest)

    def not_understood(self):
        """The `NoService` for a service that says something strange."""
        return self.fault(" gives an answer that this client does not understand")

    def ended(self):
        """The `NoService` for a service that has gone."""
        return self.fault(" ended")


class Conversation(Exchange):
    """One request to the control FIFO and the answers to it.

    ``control`` is kept open: when the service dies it has no reader. ``reply``
    is opened for both so that it has no end of file.
    """

    def __init__(self, directory, signals=None):
        """Open the control FIFO in *directory*.

        :param signals: a `relay.ForwardedSignals` that ends the waiting, or None.
        :raises NoService: if there is none, nobody reads it, or it cannot be
            trusted.
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
        # Whoever could put another directory in place cannot make one of ours.
        if not stat.S_ISFIFO(found.st_mode) or found.st_uid != os.geteuid():
            self.close()
            raise place_fault(directory, " is not a FIFO of ours", "control in ")

    def close(self):
        """Leave nothing of the conversation behind; may be called again."""
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
        """Make the reply FIFO and one request, which `write` writes.

        :raises NoService: if it cannot be made.
        """
        # The service removes FIFOs so named whose process is gone.
        name = f"client.{os.getpid()}.{os.urandom(4).hex()}"
        path = f"{self.directory}/replies/{name}"
        # The newline in front ends half a line that somebody else may have left.
        self._request = b"\n" + self._encode([*words, "reply=" + name])
        try:
            os.mkfifo(path, 0o600)
            self._path = path
            self.reply = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        except OSError as error:
            raise place_fault(self.directory, f": {error.strerror}") from None

    def write(self):
        """Write the request if there is room for it; whether there was.

        :raises NoService: if nobody reads it.
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

        :param stdio: of no use here: the worker's are FIFOs.
        """
        self.prepare(words)
        while not self.write():
            self._wait(self.control, select.POLLOUT, deadline)

    def _receive(self):
        return os.read(self.reply, 65536)


def ask(directory, words, timeout=30.0, door=Conversation):
    """Send one request and return the words of its first answer.

    :param door: opens a conversation with the service in *directory*.
    :raises NoService: if the service cannot be reached or does not answer.
    """
    talk = door(directory)
    try:
        deadline = time.monotonic() + timeout
        talk.send(words, deadline)
        return talk.wait_answer(deadline)
    finally:
        talk.close()
