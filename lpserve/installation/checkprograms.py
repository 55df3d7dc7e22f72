# SPDX-License-Identifier: GPL-2.0-or-later

"""Checks the programs: each brz that is run, the client, the sandbox of the kernel."""

from __future__ import annotations

import functools
import os
import re
import shlex
from collections.abc import Iterator, Mapping

from .. import plugins
from ..sandbox import landlock
from ..settings import Settings
from .findings import Finding, error, note, warning
from .place import CLIENT, Place
from .programs import find, run

_INSTALL = "install brz-lpserve for this brz"


def check_brz(
    words: tuple[str, ...], environ: Mapping[str, str], version: str, who: str
) -> Iterator[Finding]:
    """Check that a brz runs, and has this plug-in.

    :param words: that run it; the first one is absolute, or in PATH of *environ*.
    :param version: that the plug-in should have.
    :param who: runs it, for the findings.
    """
    shown = shlex.join(words)
    program = find(words[0], environ.get("PATH", os.defpath))
    if program is None:
        why = "is missing" if "/" in words[0] else "is not in PATH"
        if os.path.exists(words[0]):
            why = "is no program that this account may run"
        yield error(f"{shown}, which {who} runs, {why}", "install it, or correct it")
        return
    # A brz that is run as the checks are run is known by what it has loaded.
    found, fault = _ask_brz((program, *words[1:]), tuple(sorted(environ.items())))
    if fault:
        yield error(f"{shown}, which {who} runs, fails: {fault}", "repair it")
    elif found is None:
        yield error(f"{shown}, which {who} runs, has no plug-in lpserve", _INSTALL)
    elif found != version:
        yield error(
            f"{shown}, which {who} runs, has lpserve {found}, and this is {version}",
            _INSTALL + ", and 'brz lp-serve-control reload'",
        )


@functools.lru_cache(maxsize=32)
def _ask_brz(
    words: tuple[str, ...], environ: tuple[tuple[str, str], ...]
) -> tuple[str | None, str]:
    """The version of the plug-in, or None, and why that cannot be told, or ""."""
    done = run([*words, "plugins", "-v"], dict(environ))
    if done.status != 0:
        return None, done.why
    # A line "lpserve VERSION", and after the description, indented, its path.
    match = re.search(r"(?m)^lpserve .*\n(?:  .*\n)*? {3}(/.*)$", done.out)
    if match is None:
        return None, ""
    path = os.path.join(match[1], "__init__.py")
    try:
        with open(path, encoding="utf-8") as source:
            stated = re.search(r'(?m)^__version__ = "(.*)"', source.read())
    except OSError as fault:
        return None, f"{path}: {fault.strerror}"
    return (stated[1] if stated else "of no version"), ""


def check_client(place: Place, path: str | None, who: str = "") -> Iterator[Finding]:
    """Check that the stand-alone client is there, and belongs to this plug-in.

    :param who: names it, for the findings; "" if nobody does.
    """
    by = f", which {who} names," if who else ""
    if path is None:
        yield error(
            f"there is no {CLIENT}, which sshd runs", "reinstall brz-lpserve for brz"
        )
        return
    if not os.access(path, os.X_OK) or os.path.isdir(path):
        why = "cannot be run" if os.path.exists(path) else "is missing"
        right = place.find_client()
        remedy = f"name {right} instead" if right else "reinstall brz-lpserve"
        yield error(f"{path}{by} {why} by {place.account}", remedy)
        return
    done = run([path, "--version"], place.environ)
    words = done.out.split()
    if done.status != 0 or len(words) < 2:
        yield error(f"{path}{by} fails: {done.why}", "reinstall brz-lpserve")
    elif words[1] != place.version:
        yield error(
            f"{path}{by} is of lpserve {words[1]}, and this brz has {place.version}",
            "remove the one of them that is not wanted",
        )
    elif words[2:] == ["(Python)"]:
        yield note(
            f"{path} is the client in Python, which takes some 20 ms longer for each "
            "connection than the one in C",
            "reinstall brz-lpserve where there is a C compiler",
        )


def check_sandbox(place: Place, settings: Settings) -> Iterator[Finding]:
    """Check whether the kernel restricts workers as lpserve.sandbox says."""
    if settings.sandbox == "off":
        yield note(
            "lpserve.sandbox is off: workers may change all that the account may",
            f"remove the line in {place.config}",
        )
        return
    try:
        version = landlock.version()
    except OSError as fault:
        yield warning(
            f"the kernel cannot restrict workers: Landlock: {fault.strerror}",
            "use Linux 5.19 or newer with landlock in its lsm= list, or set "
            "lpserve.sandbox = off",
        )
        return
    if version < 2:
        yield warning(
            "the kernel's Landlock cannot restrict workers that write (ABI 1)",
            "use Linux 5.19 or newer",
        )
    if settings.sandbox == "auto" and (names := plugins.foreign()):
        yield note(
            f"workers are not restricted, since {', '.join(names)} did not come with "
            "Breezy",
            "set lpserve.sandbox = writes if these plug-ins need no more than that",
        )
