# SPDX-License-Identifier: GPL-2.0-or-later

"""Checks systemd's units."""

from __future__ import annotations

import os
import pwd
import re
from collections.abc import Iterator

from ..root import shared_part
from ..settings import Settings
from .checkprograms import check_brz
from .findings import Finding, error, note, warning
from .place import Place
from .programs import find_admin, run
from .unitfiles import Unit, find_unit

#: The services, and a word of the command that each runs.
SERVICES = {
    "lpserve.service": "--fork-server",
    "lpserve-ssh.service": "lp-serve-ssh",
    "lpserve-exporter.service": "lp-serve-exporter",
}
_SUBCOMMANDS = ("lp-serve", "lp-serve-ssh", "lp-serve-exporter")
_UNITS = {"s": 1, "sec": 1, "min": 60, "m": 60, "h": 3600}


def check_units(place: Place, settings: Settings) -> Iterator[Finding]:
    """Check the units that are installed."""
    found = False
    for name, word in SERVICES.items():
        try:
            unit = find_unit(name, place.units)
        except OSError as fault:
            yield error(f"{name}: {fault.strerror}: {fault.filename}", "correct that")
            found = True
            continue
        if unit is not None:
            found = True
            yield from _check_unit(place, settings, unit, word)
    if not found and os.path.isdir("/run/systemd/system"):
        yield note(
            "no unit starts the service when the host starts",
            "brz lp-serve-setup files DIR, and copy lpserve.service to "
            "/etc/systemd/system",
        )


def _check_unit(
    place: Place, settings: Settings, unit: Unit, word: str
) -> Iterator[Finding]:
    correct = f"correct {unit.path}, and systemctl daemon-reload"
    mode = os.stat(unit.path).st_mode
    if mode & 0o022:
        yield error(
            f"{unit.path} is writable by others (mode {mode & 0o7777:04o})",
            f"chmod go-w {unit.path}",
        )
    user = unit.last("Service", "User") or "root"
    if not _exists(user):
        yield error(
            f"{unit.path}: there is no user {user}",
            f"useradd --system --create-home {user}, or {correct}",
        )
    elif user not in (place.account, str(place.uid)):
        yield error(
            f"{unit.path} runs as {user}, whose breezy.conf is another one than that "
            f"of {place.account}",
            correct + f" (User={place.account})",
        )
    words = unit.command()
    if word not in words:
        yield error(f"{unit.path} does not run a brz with {word}", correct)
        return
    subcommand = [each for each in words if each in _SUBCOMMANDS]
    brz = words[: words.index(subcommand[0])] if subcommand else words[:1]
    if not os.path.isabs(brz[0]):
        yield error(f"{unit.path}: ExecStart is no absolute path: {brz[0]}", correct)
    else:
        environ = {**place.environ, **unit.environ()}
        programs = tuple(each for each in brz if not each.startswith("-O"))
        yield from check_brz(programs, environ, place.version, unit.name)
    if unit.last("Service", "Type") not in ("notify", "notify-reload"):
        yield warning(
            f"{unit.path} has not Type=notify: systemd does not know when the service "
            "is ready",
            correct,
        )
    for required in unit.all("Unit", "Requires"):
        for name in required.split():
            if name.startswith("lpserve") and find_unit(name, place.units) is None:
                yield error(
                    f"{unit.path} requires {name}, which is not installed",
                    f"copy deploy/{name} beside it, or {correct}",
                )
    if word == "lp-serve-exporter":
        return  # it has no connections, and writes nothing
    yield from _check_systemd(unit)
    yield from _check_writable(place, settings, unit, correct)
    yield from _check_times(settings, unit, correct)
    if word == "--fork-server":
        yield from _check_runtime(place, unit, correct)


def _check_systemd(unit: Unit) -> Iterator[Finding]:
    """Check that this systemd knows the type of the unit."""
    program = find_admin("systemctl")
    if unit.last("Service", "Type") != "notify-reload" or program is None:
        return
    said = run([program, "--version"], {"PATH": os.defpath}).out
    version = re.match(r"systemd (\d+)", said)
    if version is not None and int(version[1]) < 253:
        yield error(
            f"{unit.path}: systemd {version[1]} does not know Type=notify-reload",
            "copy deploy/before-systemd-253.conf to "
            f"/etc/systemd/system/{unit.name}.d/",
        )


def _check_writable(
    place: Place, settings: Settings, unit: Unit, correct: str
) -> Iterator[Finding]:
    """Check that the service may write where it has to."""
    if unit.last("Service", "ProtectSystem") != "strict":
        return
    names = " ".join(unit.all("Service", "ReadWritePaths"))
    made = (unit.last("Service", "RuntimeDirectory") or "").split()
    allowed = [f"/run/{name}" for name in made]
    for each in names.split():
        allowed.append(os.path.realpath(each.lstrip("-+")))
        if not each.startswith("-") and not os.path.exists(each.lstrip("+")):
            yield error(
                f"{unit.path}: {each} of ReadWritePaths= is missing, so that systemd "
                "does not start the service",
                f"make it, or {correct} (ReadWritePaths=-{each})",
            )
    wanted = {}
    if settings.allow_writes and settings.directory:
        wanted["lpserve.directory"] = shared_part(os.path.abspath(settings.directory))
    wanted["lpserve.runtime_dir"] = place.runtime_dir
    for name in ("log_file", "access_log"):
        if (log := place.option(name)) is not None:
            wanted[f"lpserve.{name}"] = os.path.dirname(log)
    for name, path in wanted.items():
        if name != "lpserve.runtime_dir" and not os.path.isdir(path):
            continue  # another check says so
        real = os.path.realpath(path)
        if not any(os.path.commonpath((each, real)) == each for each in allowed):
            yield error(
                f"{unit.path}: the service may not write to {path} ({name}), because "
                "of ProtectSystem=strict",
                f"{correct} (ReadWritePaths={path})",
            )


def _check_times(settings: Settings, unit: Unit, correct: str) -> Iterator[Finding]:
    text = unit.last("Service", "TimeoutStopSec") or "90"
    stop = _seconds(text)
    if stop is not None and stop <= settings.shutdown_timeout:
        yield warning(
            f"{unit.path}: systemd kills connections after {stop:g} s, "
            f"lpserve.shutdown_timeout is {settings.shutdown_timeout:g} s",
            f"{correct} (TimeoutStopSec={settings.shutdown_timeout + 10:g})",
        )
    if unit.last("Service", "KillMode") not in ("mixed", "process"):
        yield warning(
            f"{unit.path}: without KillMode=mixed a stop ends running connections",
            correct,
        )


def _check_runtime(place: Place, unit: Unit, correct: str) -> Iterator[Finding]:
    """Check that the directory that systemd makes is that of clients."""
    names = (unit.last("Service", "RuntimeDirectory") or "").split()
    made = [f"/run/{name}" for name in names]
    if made and place.runtime_dir not in made:
        yield error(
            f"{unit.path} has the service meet clients in {made[0]}, and they look in "
            f"{place.runtime_dir}",
            f"set lpserve.runtime_dir = {made[0]} in {place.config}",
        )
    mode = unit.last("Service", "RuntimeDirectoryMode")
    if made and mode is not None and mode.lstrip("0") not in ("700", "711", "710"):
        yield error(f"{unit.path}: RuntimeDirectoryMode={mode} lets others in", correct)
    elif made and mode is None:
        yield warning(
            f"{unit.path}: RuntimeDirectoryMode is not set, which lets others look in",
            f"{correct} (RuntimeDirectoryMode=0700)",
        )


def _exists(user: str) -> bool:
    try:
        if user.isdigit():
            pwd.getpwuid(int(user))
        else:
            pwd.getpwnam(user)
    except KeyError:
        return False
    return True


def _seconds(text: str) -> float | None:
    """A time span of systemd.time(7); None for ever, or if it is not understood."""
    if text == "infinity":
        return None
    total = 0.0
    for number, unit in re.findall(r"([0-9.]+)\s*([a-z]*)", text):
        if (unit or "s") not in _UNITS:
            return None
        total += float(number) * _UNITS[unit or "s"]
    return total
