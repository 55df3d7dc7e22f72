# Copyright (C) 2026 The lpserve developers
#
# This program is free software; you can redistribute it and/or modify
# it under the terms of the GNU General Public License as published by
# the Free Software Foundation; either version 2 of the License, or
# (at your option) any later version.

"""Ask the fork service for a worker and relay standard input and output to it.

With ``relay.py``, ``location.py`` and ``sshcommand.py`` self-contained: nothing
but the standard library, because the stand-alone ``lp-serve-client`` runs them
under ``python -I -S``, without Breezy. They import little for the same reason:
every connection pays for it.
"""

import os
import select
import stat
import time

from .location import directory_fault, read_configuration, runtime_directory
from .relay import Relay, Signals, wait
from .sshcommand import command_fault

EX_USAGE, EX_UNAVAILABLE, EX_TEMPFAIL, EX_NOPERM = 64, 69, 75, 77

USAGE = """\
usage: lp-serve-client [OPTIONS] USER

Ask the lpserve fork service for a worker that serves USER and relay standard
input and output to it.

  --runtime-dir DIR   where the service is (default: see 'brz help lpserve')
  --no-fallback       fail instead of serving the connection without the service
  --help              show this text
"""

MAX_REQUEST = 4096
_ALNUM = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
_SAFE = frozenset(_ALNUM + "@%_-+=:,./~")
_USER = frozenset(_ALNUM + "._@+~-")


class ClientError(Exception):
    """The end of this client: *status* is its exit code, ``str()`` its line."""

    def __init__(self, status, text):
        super().__init__(text)
        self.status = status


class NoService(Exception):
    """The service cannot be reached; ``str()`` says why."""


# -- the request --------------------------------------------------------------


def quote(word):
    """*word* quoted for a request, as `shlex.quote` does."""
    if word and _SAFE.issuperset(word):
        return word
    return "'" + word.replace("'", "'\"'\"'") + "'"


def _unquote(line):
    if "'" not in line and '"' not in line and "\\" not in line:
        return line.split()
    import shlex  # only for a runtime directory with unusual characters

    return shlex.split(line)


class Conversation:
    """One request to the control FIFO and the answers to it.

    :ivar control: the FIFO, kept open: when the service dies it has no reader.
    :ivar reply: the reply FIFO, opened for both so that it has no end of file.
    """

    def __init__(self, directory, signals=None):
        """Open the control FIFO in *directory*.

        :param signals: a `relay.Signals` that ends the waiting, or None.
        :raises NoService: if there is none, nobody reads it, or it cannot be
            trusted.
        """
        self.control = self.reply = -1
        self._path = None
        self._buffer = b""
        self._directory = directory
        self._signals = signals
        try:
            fault = directory_fault(directory)
            if fault is not None:
                raise NoService(fault)
            self.control = os.open(directory + "/control", os.O_WRONLY | os.O_NONBLOCK)
        except OSError as error:
            raise NoService(f"no service at {directory} ({error.strerror})") from None
        if not stat.S_ISFIFO(os.fstat(self.control).st_mode):
            self.close()
            raise NoService(f"{directory}/control is not a FIFO")

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

    def send(self, words, deadline):
        """Write one request; *deadline* is in seconds of `time.monotonic`."""
        # The service removes FIFOs so named whose process is gone.
        name = f"client.{os.getpid()}.{os.urandom(4).hex()}"
        path = f"{self._directory}/replies/{name}"
        # The newline in front ends half a line that somebody else may have left.
        line = "\n" + " ".join([*map(quote, words), "reply=" + name]) + "\n"
        try:
            data = line.encode("utf-8")
        except UnicodeEncodeError:
            data = b""
        if not 0 < len(data) <= MAX_REQUEST or line.count("\n") > 2:
            raise NoService("what this connection needs does not fit into a request")
        try:
            os.mkfifo(path, 0o600)
            self._path = path
            self.reply = os.open(path, os.O_RDWR | os.O_NONBLOCK)
            while True:
                try:
                    os.write(self.control, data)
                    return
                except BlockingIOError:
                    self._wait(self.control, select.POLLOUT, deadline)
        except OSError as error:
            raise NoService(f"{self._directory}: {error.strerror}") from None

    def read_answer(self):
        """The next answer if it is there, as a list of words, else None."""
        while b"\n" not in self._buffer:
            try:
                self._buffer += os.read(self.reply, 65536)
            except BlockingIOError:
                return None
        line, _, self._buffer = self._buffer.partition(b"\n")
        return _unquote(line.decode("utf-8", "surrogateescape"))

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
        for number in self._signals.seen() if self._signals is not None else ():
            raise ClientError(128 + number, f"ended by signal {number}")
        if not ready and left <= 0:
            raise NoService(f"the service at {self._directory} does not answer")
        if descriptor not in ready and self.control in ready:
            raise NoService(f"the service at {self._directory} ended")


def ask(directory, words, timeout=30.0):
    """Send one request and return the words of its first answer.

    :raises NoService: if the service cannot be reached or does not answer.
    """
    conversation = Conversation(directory)
    try:
        deadline = time.monotonic() + timeout
        conversation.send(words, deadline)
        return conversation.wait_answer(deadline)
    finally:
        conversation.close()


# -- the program --------------------------------------------------------------


def _start_service(directory, brz, deadline):
    """Start the service unless another client is at it; wait until it is ready.

    :raises NoService: if that fails.
    """
    import fcntl

    try:
        os.makedirs(directory, 0o700, exist_ok=True)
        guard = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise NoService(f"cannot make {directory}: {error.strerror}") from None
    try:
        # One start however many ask: the first holds the directory locked until
        # the service is ready, the others find it running.
        while True:
            try:
                fcntl.flock(guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise NoService("the service is still being started") from None
                time.sleep(0.02)
        try:
            Conversation(directory).close()
            return
        except NoService:
            pass
        why = _run_daemon([*brz, "lp-serve", "--fork-server", "--daemon"], directory)
        if why is not None:
            raise NoService(f"the service cannot be started: {why}")
    finally:
        os.close(guard)


def _run_daemon(argv, directory):
    """Run what starts the service to its end; why it failed, or None."""
    # Nothing of it may get to our stdio, which is the protocol's.
    null = os.open(os.devnull, os.O_RDWR)
    errors, theirs = os.pipe()
    ours = ((null, 0), (null, 1), (theirs, 2))
    actions = [(os.POSIX_SPAWN_DUP2, number, target) for number, target in ours]
    argv += ["--runtime-dir", directory]
    try:
        pid = os.posix_spawnp(argv[0], argv, os.environ, file_actions=actions)
    except OSError as error:
        os.close(errors)
        return f"cannot run {argv[0]}: {error.strerror}"
    finally:
        os.close(null)
        os.close(theirs)
    with open(errors, "rb") as file:
        lines = file.read().decode("utf-8", "replace").split("\n")
    if not os.waitpid(pid, 0)[1]:
        return None
    return [line for line in ["no reason given", *lines] if line.strip()][-1]


def _spawn(user, directory, settings, signals, deadline):
    """Ask for a worker: a `Conversation` and the words of the ``ok``.

    :raises ClientError, NoService: where there is none to be had.
    """
    words = ["spawn", user]
    for name in settings["environment"]:
        if name in os.environ:
            words.append(f"env.{name}={os.environ[name]}")
    conversation = Conversation(directory, signals)
    try:
        conversation.send(words, deadline)
        answer = conversation.wait_answer(deadline)
        if answer[0] == "ok":
            return conversation, answer
        code, text = answer[1], " ".join(answer[2:])
        statuses = {"busy": EX_TEMPFAIL, "denied": EX_NOPERM, "bad-request": EX_USAGE}
        if code in statuses:
            raise ClientError(statuses[code], f"{code}: {text}")
        raise NoService(f"the service at {directory} says {code}: {text}")
    except BaseException:
        conversation.close()
        raise


def serve(user, directory, settings, brz, fallback=True):
    """Serve one connection for *user* on stdin and stdout; the exit status.

    Without a service this process becomes ``brz lp-serve --inet`` instead.

    :param settings: a dict with ``environment`` (names), ``autostart`` (bool)
        and ``connect_timeout`` (seconds).
    :param brz: the words that run Breezy.
    :raises ClientError: where the connection is not served.
    """
    if not _is_user(user):
        raise ClientError(EX_USAGE, "USER must be letters, digits and ._@+~-")
    fault = command_fault(os.environ)
    if fault is not None:
        raise ClientError(EX_USAGE, fault)
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number: this one
    signals = Signals()
    deadline = time.monotonic() + settings["connect_timeout"]
    conversation = None
    try:
        try:
            conversation, answer = _spawn(user, directory, settings, signals, deadline)
        except NoService:
            if not settings["autostart"]:
                raise
            _start_service(directory, brz, deadline)
            conversation, answer = _spawn(user, directory, settings, signals, deadline)
    except NoService as error:
        if not fallback:
            raise ClientError(EX_UNAVAILABLE, str(error)) from None
        _tell(f"{error}; serving this connection without it")
        try:
            os.execvp(brz[0], [*brz, "lp-serve", "--inet", "--", user])
        except OSError as error:
            text = f"cannot run {brz[0]}: {error.strerror}"
            raise ClientError(EX_UNAVAILABLE, text) from None
    try:
        relay = Relay(conversation, signals, int(answer[1]), answer[2:])
        last = relay.run()
    finally:
        conversation.close()
    if last is None:
        raise ClientError(EX_UNAVAILABLE, "the service and the worker were killed")
    kind, number = last[0], int(last[1])
    if kind == "signal":
        raise ClientError(128 + number, f"the worker was ended by signal {number}")
    if number and not relay.told:
        text = f"the worker ended with status {number}; the service's log says why"
        raise ClientError(number, text)
    return number


def _is_user(text):
    """What ``wire.is_user`` says, without a regular expression."""
    return 0 < len(text) <= 64 and _USER.issuperset(text) and text[0] not in "-.@+"


def _tell(text):
    try:
        os.write(2, f"lp-serve-client: {text}\n".encode("utf-8", "replace"))
    except OSError:
        pass


def _parse(words):
    """USER, the value of ``--runtime-dir`` and whether to fall back."""
    directory, fallback, users = None, True, []
    words = list(words)
    while words:
        word = words.pop(0)
        if word == "--no-fallback":
            fallback = False
        elif word == "--runtime-dir" and words:
            directory = words.pop(0)
        elif word.startswith("--runtime-dir="):
            directory = word.partition("=")[2]
        elif word.startswith("-"):
            raise ClientError(EX_USAGE, f"unknown option {word}; try --help")
        else:
            users.append(word)
    if len(users) != 1:
        raise ClientError(EX_USAGE, f"expected one USER, not {len(users)}; try --help")
    return users[0], directory, fallback


def main(words):
    """The stand-alone program; does not return.

    :param words: the directory that the program is in, where ``brz`` is looked
        for first, and its arguments.
    """
    beside, *words = words
    try:
        if "--help" in words:
            os.write(1, USAGE.encode())
            os._exit(0)
        user, directory, fallback = _parse(words)
        try:
            settings = read_configuration()
        except ValueError as error:
            raise ClientError(EX_USAGE, str(error)) from None
        directory = runtime_directory(directory, settings["runtime_dir"])
        brz = beside + "/brz"
        if not os.access(brz, os.X_OK):
            brz = "brz"
        status = serve(user, directory, settings, [brz], fallback)
    except ClientError as error:
        _tell(str(error))
        status = error.status
    except KeyboardInterrupt:
        status = 130
    # What there was to flush is flushed; tearing an interpreter down takes time.
    os._exit(status)
