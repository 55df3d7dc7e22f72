# SPDX-License-Identifier: GPL-2.0-or-later

"""Writes the files of deploy/ with the paths of this installation in them."""

from __future__ import annotations

import contextlib
import grp
import os
import re
import shlex

from ..errors import LpserveError, os_fault
from ..root import shared_part
from .place import Place

#: Words in the files of deploy/ that are about the host for which they are written.
BRZ = "/usr/local/bin/brz"
CLIENT = "/usr/local/bin/lp-serve-client"
RUNTIME = "/run/lpserve"
SERVED = "/srv/bzr"
#: Variables without which this Breezy would not find the plug-in, or its settings.
_NEEDED = ("BRZ_HOME", "BRZ_PLUGINS_AT", "BRZ_PLUGIN_PATH")


class TemplateError(LpserveError):
    """A file cannot be written; ``str()`` is one line."""


def deploy_directory() -> str:
    """The directory deploy/ of the plug-in."""
    here = os.path.dirname(os.path.abspath(__file__))
    return os.path.join(os.path.dirname(os.path.dirname(here)), "deploy")


def write_files(place: Place, directory: str, force: bool) -> list[str]:
    """Write all files into *directory*, which is made if it is missing; their paths.

    :param force: replace those that are there.
    :raises TemplateError: if one is there, or cannot be written.
    """
    texts = fill(place)
    paths = {name: os.path.join(directory, name) for name in texts}
    there = [path for path in paths.values() if os.path.lexists(path)]
    if there and not force:
        raise TemplateError(f"{there[0]} is there already; --force replaces it")
    try:
        if not os.path.isdir(directory):
            os.mkdir(directory, 0o755)
        for name, path in paths.items():
            _replace(path, texts[name])
    except OSError as error:
        raise TemplateError(os_fault(error)) from None
    return list(paths.values())


def _replace(path: str, text: str) -> None:
    temporary = f"{path}.{os.getpid()}.tmp"
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        with open(os.open(temporary, flags, 0o644), "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.rename(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def fill(place: Place) -> dict[str, str]:
    """The texts of all files by their names.

    :raises TemplateError: if the installation has no deploy/.
    """
    source = deploy_directory()
    texts = {}
    try:
        for name in sorted(os.listdir(source)):
            with open(os.path.join(source, name), encoding="utf-8") as file:
                texts[name] = _fill(place, name, file.read())
    except OSError as error:
        raise TemplateError(f"{os_fault(error)}; reinstall brz-lpserve") from None
    return texts


def _fill(place: Place, name: str, text: str) -> str:
    text = re.sub(r"~bzr/\.config/breezy/breezy\.conf", place.config, text)
    text = text.replace("~bzr/", f"{place.home}/")
    named = r"(?m)(^Match User |^\w*User=| -o | -u |\bsu )bzr\b"
    text = re.sub(named, rf"\g<1>{place.account}", text)
    text = re.sub(
        rf"(?m)(^\w*Group=| -g |\bsu {re.escape(place.account)} )bzr\b",
        rf"\g<1>{_group(place)}",
        text,
    )
    text = re.sub(r'(account,?) "bzr"', rf'\1 "{place.account}"', text)
    text = text.replace(CLIENT, place.find_client() or CLIENT)
    if name.endswith((".service", ".socket")):
        return _fill_unit(place, text)
    if name == "breezy.conf":
        return _fill_configuration(place, text)
    return text.replace(BRZ, shlex.join(_brz(place)))


def _brz(place: Place) -> tuple[str, ...]:
    """The words that run this Breezy, as few as there can be."""
    return (place.program,) if os.access(place.program, os.X_OK) else place.brz


def _group(place: Place) -> str:
    """The group of the account."""
    try:
        return grp.getgrgid(place.gid).gr_name
    except KeyError:
        return str(place.gid)


def _fill_unit(place: Place, text: str) -> str:
    brz = " ".join(_quote(word) for word in _brz(place))
    text = text.replace(BRZ, brz)
    lines = [
        f"Environment={_quote(f'{name}={os.environ[name]}')}\n"
        for name in _NEEDED
        if os.environ.get(name)
    ]
    text = re.sub(r"(?m)^(?=ExecStart=)", lambda match: "".join(lines), text)
    runtime = place.option("runtime_dir") or RUNTIME
    if re.fullmatch("/run/[A-Za-z0-9_.-]+", runtime):
        text = text.replace(
            "RuntimeDirectory=lpserve", f"RuntimeDirectory={runtime[5:]}"
        )
    else:
        # systemd makes directories in /run only; the service makes others itself.
        text = re.sub(r"(?m)^(RuntimeDirectory|# With what was in mem).*\n", "", text)
    text = re.sub(rf"{RUNTIME}(?![\w.-])", lambda match: runtime, text)
    # Where ProtectSystem=strict lets the service write.
    paths = [shared_part(place.option("directory") or SERVED)]
    if not runtime.startswith("/run/"):
        paths.append(runtime)
    for name in ("log_file", "access_log"):
        if (log := place.option(name)) is not None:
            paths.append(os.path.dirname(log))
    paths = list(dict.fromkeys(paths))
    shown = "ReadWritePaths=" + " ".join(_quote(path) for path in paths)
    return text.replace(f"ReadWritePaths={SERVED}", shown)


def _quote(word: str) -> str:
    """*word* as systemd.syntax(7) quotes it, and for its specifiers."""
    word = word.replace("%", "%%").replace("$", "$$")
    if re.fullmatch(r"[A-Za-z0-9_@%+=:,./~$-]+", word):
        return word
    return '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _fill_configuration(place: Place, text: str) -> str:
    """Have the text set what this installation sets, and what it does not as it is."""
    for name, value in place.options.items():
        line = f"lpserve.{name} = {value}"
        pattern = rf"(?m)^#?lpserve\.{re.escape(name)} *=.*$"
        if (found := re.search(pattern, text)) is not None:
            text = text[: found.start()] + line + text[found.end() :]
        else:
            text = f"{text.rstrip()}\n{line}\n"
    return text


def describe(paths: list[str]) -> str:
    """What to do with the files that were written, a line for each."""
    places = {
        "service": "copy it to /etc/systemd/system, then: systemctl daemon-reload",
        "socket": "copy it to /etc/systemd/system, then: systemctl daemon-reload",
        "sshd_config": "copy it to /etc/ssh/sshd_config.d/lpserve.conf; reload sshd",
        "breezy.conf": "edit it, then copy it to where its first line says",
        "lpserve.logrotate": "copy it to /etc/logrotate.d/lpserve",
        "before-systemd-253.conf": "with such a systemd, copy it to where it says",
        "access.conf.example": "edit it; lpserve.access of breezy.conf names a copy",
        "authorized_keys": "an example; 'lp-serve-setup user add' writes such lines",
    }
    lines = []
    for path in paths:
        name = os.path.basename(path)
        what = places.get(name) or places.get(name.rpartition(".")[2], "")
        lines.append(f"{shlex.quote(path)}{': ' if what else ''}{what}\n")
    return "".join(lines)
