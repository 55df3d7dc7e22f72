# SPDX-License-Identifier: GPL-2.0-or-later

"""Greets a running service through each of its doors, as clients do."""

from __future__ import annotations

import time
from collections.abc import Iterator

from ..client.conversation import Conversation, NoService
from ..client.health import health_fault
from ..client.socketconversation import SocketConversation
from ..errors import os_fault
from ..location import HEALTH_USER
from ..settings import Settings
from .checkdirectories import has_socket, is_locked
from .checksshd import ANSWER, HELLO
from .findings import Finding, error, note, warning
from .place import Place
from .programs import run

DOORS = {"fifo": Conversation, "socket": SocketConversation}
#: Seconds until the service has to answer.
PATIENCE = 10.0
_LOG = "see the log of the service: journalctl -u lpserve, or lpserve.log_file"


def is_served(place: Place) -> bool:
    """Whether a service holds the runtime directory."""
    return is_locked(place.runtime_dir)


def check_doors(place: Place, settings: Settings) -> Iterator[Finding]:
    """Have a worker answer through each door."""
    if not is_served(place):
        if has_socket(place):
            yield note(
                f"no service runs in {place.runtime_dir}; lpserve.socket starts it for "
                "the first client",
                "systemctl start lpserve, and check again to have it greeted",
            )
        elif not settings.autostart:
            slow = (
                "each connection starts Breezy"
                if settings.fallback
                else "nobody is served"
            )
            yield warning(
                f"no service runs in {place.runtime_dir}: {slow}",
                "systemctl enable --now lpserve, or: brz lp-serve --fork-server "
                "--daemon",
            )
        return
    for door in DOORS:
        answer = _hello(place, settings, door)
        if isinstance(answer, Finding):
            yield answer
            continue
        yield from _check_version(place, answer)
        yield from _greet(place, settings, door)


def _hello(place: Place, settings: Settings, door: str) -> list[str] | Finding:
    """The answer to ``hello`` through *door*, or why there is none."""
    talk = None
    what = f"the service in {place.runtime_dir} does not answer through the {door}"
    try:
        if door == "socket":
            talk = SocketConversation(place.runtime_dir, None, settings.service_user)
        else:
            talk = Conversation(place.runtime_dir)
        deadline = time.monotonic() + PATIENCE
        talk.send(["hello"], deadline)
        return talk.wait_answer(deadline)
    except NoService as fault:
        return error(f"{what}: {fault}", _LOG)
    except OSError as fault:
        return error(f"{what}: {os_fault(fault)}", _LOG)
    finally:
        if talk is not None:
            talk.close()


def _check_version(place: Place, answer: list[str]) -> Iterator[Finding]:
    version = answer[2] if len(answer) > 2 else " ".join(answer)
    if answer[:2] != ["ok", "lpserve"]:
        yield error(f"the service gives a strange answer: {' '.join(answer)}", _LOG)
    elif version != place.version:
        yield warning(
            f"the service that runs is lpserve {version}, and {place.version} is "
            "installed",
            "systemctl restart lpserve, which lets connections finish",
        )


def _greet(place: Place, settings: Settings, door: str) -> Iterator[Finding]:
    """Have a worker answer a greeting."""
    client = place.find_client()
    what = f"no worker answers through the {door}"
    if client is None:
        if door == "socket" and (
            fault := health_fault(place.runtime_dir, settings.service_user, PATIENCE)
        ):
            yield error(f"{what}: {fault}", _LOG)
        return
    words = [client, f"--door={door}", "--no-fallback"]
    words += [f"--runtime-dir={place.runtime_dir}", HEALTH_USER]
    # Its own environment would lead it to another service.
    done = run(words, place.environ, HELLO, 3 * PATIENCE)
    if done.out != ANSWER:
        yield error(f"{what}: {done.why.removeprefix('lp-serve-client: ')}", _LOG)
