# Copyright (C) 2026 The lpserve developers
#
# This program is free software; you can redistribute it and/or modify
# it under the terms of the GNU General Public License as published by
# the Free Software Foundation; either version 2 of the License, or
# (at your option) any later version.

"""A client starts the service: once, however many clients find none.

Part of the stand-alone client: the standard library only (see ``client.py``).
"""

import fcntl
import os
import time

from .conversation import Conversation, NoService


def start_service(directory, brz, deadline):
    """Start the service unless another client is at it; wait until it is ready.

    :raises NoService: if that fails.
    """
    try:
        os.makedirs(directory, 0o700, exist_ok=True)
        guard = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise NoService(f"cannot make {directory}: {error.strerror}") from None
    try:
        # One start however many ask: the first holds the directory locked until
        # the service is ready, the others find it running.
        while not _lock(guard):
            _pause(deadline)
        while True:
            try:
                Conversation(directory).close()
                return
            except NoService:
                if not _is_held(directory + "/lock"):
                    break
            # It is being started, by a client that was killed meanwhile.
            _pause(deadline)
        why = _run_daemon([*brz, "lp-serve", "--fork-server", "--daemon"], directory)
        if why is not None:
            raise NoService(f"the service cannot be started: {why}")
    finally:
        os.close(guard)


def _lock(descriptor):
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_held(path):
    """Whether a process has the lock file *path* locked."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        return not _lock(descriptor)
    finally:
        os.close(descriptor)


def _pause(deadline):
    if time.monotonic() > deadline:
        raise NoService("the service is still being started")
    time.sleep(0.02)


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
