# Copyright (C) 2026 The lpserve developers
#
# This program is free software; you can redistribute it and/or modify
# it under the terms of the GNU General Public License as published by
# the Free Software Foundation; either version 2 of the License, or
# (at your option) any later version.

"""Ask the fork service for a worker and relay standard input and output to it.

With what it imports of us it is self-contained: nothing but the standard
library, because the stand-alone ``lp-serve-client`` runs this under ``python -I
-S``, without Breezy. It imports little for the same reason: every connection
pays for it.
"""

import os
import time

from .conversation import ClientError, Conversation, NoService
from .location import read_configuration, runtime_directory
from .relay import Relay, Signals
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

_USER = frozenset(
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._@+~-"
)


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
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number: this one
    fault = command_fault(os.environ, os.isatty(0))
    if fault is not None:
        raise ClientError(EX_USAGE, fault)
    signals = Signals()
    deadline = time.monotonic() + settings["connect_timeout"]
    conversation = None
    try:
        try:
            conversation, answer = _spawn(user, directory, settings, signals, deadline)
        except NoService:
            if not settings["autostart"]:
                raise
            # Only now: most connections find a service.
            from .autostart import start_service

            start_service(directory, brz, deadline)
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
