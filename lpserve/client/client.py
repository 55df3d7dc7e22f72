# SPDX-License-Identifier: GPL-2.0-or-later

"""Asks the fork service for a worker and relays standard input and output to it.

The stand-alone ``lp-serve-client`` runs this under ``python -I -S``, without
Breezy. Therefore this module, and the modules of lpserve that it imports, import
the standard library only. They import little of it, because every connection
waits for these imports.
"""

import os
import time

from ..location import read_configuration, runtime_directory
from .conversation import (
    EX_USAGE,
    ClientError,
    Conversation,
    NoService,
    Refused,
    spawn_words,
)
from .relay import ForwardedSignals, Relay
from .socketconversation import DirectSession, SocketConversation
from .sshcommand import command_fault

EX_UNAVAILABLE, EX_TEMPFAIL, EX_NOPERM = 69, 75, 77

USAGE = """\
usage: lp-serve-client [OPTIONS] USER

Ask the lpserve fork service for a worker that serves USER and relay standard
input and output to it.

  --runtime-dir DIR   where the service is (default: see 'brz help lpserve')
  --door fifo|socket  ask there only (default: the socket, else the FIFO)
  --no-fallback       fail instead of serving the connection without the service
  --version           show the version
  --help              show this text
"""

_USER = frozenset(
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._@+~-"
)


def open_door(directory, door=None, signals=None, service_user=None):
    """Open a conversation with the service.

    :param door: "fifo", "socket", or None for the socket if possible, else the FIFO.
    :param service_user: a user whose service is trusted, besides our own and root.
    :raises NoService: if the service cannot be reached.
    """
    if door != "fifo":
        try:
            return SocketConversation(directory, signals, service_user)
        except NoService:
            if door == "socket":
                raise
    return Conversation(directory, signals)


def _spawn(user, directory, door, settings, signals, deadline):
    """Ask for a worker; the conversation and the words of the ``ok`` answer.

    :raises ClientError: if the service refuses the request.
    :raises NoService: if the service cannot be reached or cannot fork.
    """
    conversation = open_door(directory, door, signals, settings["service_user"])
    try:
        words = spawn_words(user, settings["environment"], os.environ)
        conversation.send(words, deadline, stdio=(0, 1, 2))
        answer = conversation.wait_answer(deadline)
        if answer[0] == "ok":
            if len(answer) not in (2, 5) or not _is_number(answer[1], 2**31 - 1):
                raise conversation.not_understood()
            return conversation, answer
        if answer[0] in ("exit", "signal"):
            raise NoService("the worker ended before it had the connection")
        if answer[0] != "error" or len(answer) < 3:
            raise conversation.not_understood()
        code, text = answer[1], " ".join(answer[2:])
        if code in ("busy", "draining"):
            raise Refused(EX_TEMPFAIL, text)
        statuses = {"denied": EX_NOPERM, "bad-request": EX_USAGE}
        if code in statuses:
            raise ClientError(statuses[code], f"{code}: {text}")
        raise conversation.fault(f" says {code}: {text}")
    except BaseException:
        conversation.close()
        raise


def serve(user, directory, settings, brz, fallback=True, door=None):
    """Serve one connection for *user* on stdin and stdout; the exit status.

    Without a service, this process executes ``brz lp-serve --inet`` instead. A client
    of version 3 of the smart protocol that is refused is told why by an answer.

    :param settings: a dict as `location.read_configuration` returns it.
    :param brz: the command that runs Breezy, a list of words.
    :param door: see `open_door`.
    :raises ClientError: if the connection is not served; its status is the exit
        status.
    """
    if not _is_user(user):
        raise ClientError(EX_USAGE, "USER must be letters, digits and ._@+~-")
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number: this one
    fault = command_fault(os.environ, os.isatty(0))
    if fault is not None:
        raise ClientError(EX_USAGE, fault)
    signals = ForwardedSignals()
    try:
        return _serve(user, directory, settings, brz, fallback, door, signals)
    except Refused as error:
        # Imported late: most connections are served.
        from .refusal import answer

        if not answer(error.shown, signals):
            raise
        return error.status


def _serve(user, directory, settings, brz, fallback, door, signals):
    """Serve one connection as `serve` does, once stdio and the request are checked."""
    deadline = time.monotonic() + settings["connect_timeout"]
    wanted = (user, directory, door, settings)
    conversation = None
    try:
        try:
            conversation, answer = _spawn(*wanted, signals, deadline)
        except NoService:
            _check_drained(directory, settings["service_user"])
            if not settings["autostart"]:
                raise
            # Imported late: most connections find a service.
            from .autostart import start_service

            start_service(directory, brz, deadline)
            conversation, answer = _spawn(*wanted, signals, deadline)
    except NoService as error:
        if not fallback:
            raise Refused(EX_UNAVAILABLE, str(error), error.public) from None
        _print_error(f"{error.shown}; serving this connection without it")
        try:
            os.execvp(brz[0], [*brz, "lp-serve", "--inet", "--", user])
        except OSError as error:
            text, why = f"cannot run {brz[0]}", f": {error.strerror}"
            raise ClientError(
                EX_UNAVAILABLE, text + why, "cannot run Breezy" + why
            ) from None
    try:
        pid, paths = int(answer[1]), answer[2:]
        if paths:
            relay = Relay(conversation, signals, pid, paths)
        else:
            relay = DirectSession(conversation, signals, pid)
        last = relay.run()
        if last is None:
            raise NoService("the service and the worker were killed")
        kind, most = last[0], {"exit": 255, "signal": 64}.get(last[0], -1)
        if not _is_number(last[-1], most):
            raise conversation.not_understood()
        number = int(last[-1])
    except NoService as error:
        # Too late for the fallback: a worker may have read from the client.
        raise ClientError(EX_UNAVAILABLE, str(error), error.public) from None
    finally:
        conversation.close()
    if kind == "signal":
        raise ClientError(128 + number, f"the worker was ended by signal {number}")
    if number and not relay.explained(number):
        text = f"the worker ended with status {number}; the service's log says why"
        raise ClientError(number, text)
    return number


def _check_drained(directory, service_user):
    """Look whether the host is out of service.

    :raises Refused: with the administrator's message if it is.
    """
    from ..drained import read_drained  # only now: there is a service nearly always

    message = read_drained(directory, service_user)
    if message is not None:
        raise Refused(EX_TEMPFAIL, message)


def _is_user(text):
    """The same as ``wire.is_user``, without importing re."""
    return 0 < len(text) <= 64 and _USER.issuperset(text) and text[0] not in "-.@+"


def _is_number(text, most):
    return text.isascii() and text.isdigit() and int(text) <= most


def _print_error(text):
    try:
        os.write(2, f"lp-serve-client: {text}\n".encode("utf-8", "replace"))
    except OSError:
        pass


def _parse(words):
    """Parse the command line: USER, --runtime-dir, --door, and whether to fall back."""
    directory, door, fallback, users = None, None, True, []
    words = list(words)
    while words:
        word = words.pop(0)
        if word == "--no-fallback":
            fallback = False
        elif word == "--runtime-dir" and words:
            directory = words.pop(0)
        elif word.startswith("--runtime-dir="):
            directory = word.partition("=")[2]
        elif word == "--door" and words:
            door = words.pop(0)
        elif word.startswith("--door="):
            door = word.partition("=")[2]
        elif word.startswith("-"):
            raise ClientError(EX_USAGE, f"unknown option {word}; try --help")
        else:
            users.append(word)
    if len(users) != 1:
        raise ClientError(EX_USAGE, f"expected one USER, not {len(users)}; try --help")
    check_door(door)
    return users[0], directory, door, fallback


def check_door(door):
    """Check the value of ``--door``.

    :raises ClientError: if it is invalid.
    """
    if door not in (None, "fifo", "socket"):
        raise ClientError(EX_USAGE, f"--door must be fifo or socket, not {door}")


def _version():
    """The version that ``__init__.py`` of the plug-in states."""
    here = os.path.abspath(__file__)
    for _ in range(3):
        here = os.path.dirname(here)
    with open(here + "/__init__.py", encoding="utf-8") as source:
        return source.read().partition('__version__ = "')[2].partition('"')[0]


def main(words):
    """Run the stand-alone program; does not return.

    :param words: the directory of the program, where ``brz`` is looked for first,
        and then its arguments.
    """
    beside, *words = words
    try:
        if "--help" in words:
            os.write(1, USAGE.encode())
            os._exit(0)
        if "--version" in words:
            os.write(1, f"lp-serve-client {_version()} (Python)\n".encode())
            os._exit(0)
        user, directory, door, fallback = _parse(words)
        try:
            settings = read_configuration()
        except ValueError as error:
            raise ClientError(EX_USAGE, str(error)) from None
        directory = runtime_directory(directory, settings["runtime_dir"])
        brz = beside + "/brz"
        if not os.access(brz, os.X_OK):
            brz = "brz"
        fallback = fallback and settings["fallback"]
        status = serve(user, directory, settings, [brz], fallback, door)
    except ClientError as error:
        _print_error(error.shown)
        status = error.status
    except KeyboardInterrupt:
        status = 130
    # Nothing is buffered, and a normal exit of the interpreter takes time.
    os._exit(status)
