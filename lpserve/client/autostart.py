# SPDX-License-Identifier: GPL-2.0-or-later

"""Starts the service from a client, once for all clients that find none running.

Part of the stand-alone client: imports the standard library only (see ``client.py``).
"""

import fcntl
import os
import time

from .conversation import Conversation, NoService, place_fault

#: Seconds between two checks whether the service has been started.
PAUSE = 0.02


def start_service(directory, brz, deadline):
    """Start the service unless another client does so; wait until it is ready.

    :param deadline: in seconds of `time.monotonic`.
    :raises NoService: if the service is not ready by then.
    """
    steps = starting(directory, brz)
    try:
        words = next(steps)
        while True:
            words = steps.send(_pause(deadline) if words is None else _run(words))
    except StopIteration:
        pass
    finally:
        steps.close()


def starting(directory, brz):
    """The steps of starting the service, as a generator for callers that cannot wait.

    It yields None when the caller should resume it after `PAUSE` seconds. It
    yields a list of words for a command that the caller should run to its end. The
    caller then sends the reason why the command failed, or None. When the
    generator returns, the service is ready.

    :raises NoService: if it cannot be started.
    """
    try:
        os.makedirs(directory, 0o700, exist_ok=True)
        guard = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        why = f": {error.strerror}"
        raise place_fault(directory, why, "cannot make ") from None
    try:
        # The first client holds the directory locked until the service is ready;
        # the others then find it running.
        while not _lock(guard):
            yield None
        while True:
            try:
                Conversation(directory).close()
                return
            except NoService:
                if not _is_held(directory + "/lock"):
                    break
            # A client that was killed meanwhile has started it, and it is not ready.
            yield None
        daemon = ("lp-serve", "--fork-server", "--daemon", "--runtime-dir", directory)
        why = yield [*brz, *daemon]
        if why is not None:
            text = "the service cannot be started"
            raise NoService(f"{text}: {why}", text)
    finally:
        os.close(guard)


def last_line(said):
    """The last line of *said* (bytes), which a failed command wrote to stderr."""
    lines = said.decode("utf-8", "replace").split("\n")
    return [line for line in ["no reason given", *lines] if line.strip()][-1]


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
    time.sleep(PAUSE)


def _run(argv):
    """Run a command to its end; why it failed, or None."""
    # Our own stdin and stdout carry the Bazaar protocol.
    null = os.open(os.devnull, os.O_RDWR)
    errors, theirs = os.pipe()
    ours = ((null, 0), (null, 1), (theirs, 2))
    actions = [(os.POSIX_SPAWN_DUP2, number, target) for number, target in ours]
    try:
        pid = os.posix_spawnp(argv[0], argv, os.environ, file_actions=actions)
    except OSError as error:
        os.close(errors)
        return f"cannot run {argv[0]}: {error.strerror}"
    finally:
        os.close(null)
        os.close(theirs)
    with open(errors, "rb") as file:
        said = file.read()
    return last_line(said) if os.waitpid(pid, 0)[1] else None
