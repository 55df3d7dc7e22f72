# SPDX-License-Identifier: GPL-2.0-or-later

"""Checks what sshd does with a login to the account."""

from __future__ import annotations

import contextlib
import grp
import os
import shlex
import socket
from collections.abc import Iterator

from ..ssh.authorizedkeys import KeyLine, KeyLineError, split_line
from .checkprograms import check_brz, check_client
from .findings import Finding, error, note, warning
from .modes import strict_fault
from .place import SSHD_PATH, Place
from .programs import find, run
from .publickeys import Forced, command_of, parse_forced
from .sshdsettings import SshdFault, SshdSettings, ask_sshd

#: What a client sends, and the answer.
HELLO, ANSWER = "hello\n", "ok\x012\n"
_COMMAND = "bzr serve --inet --directory=/ --allow-writes"
_MOST = 1 << 24


def check_sshd(place: Place, serves: bool) -> Iterator[Finding]:
    """Check the configuration of sshd, and the keys of the account.

    :param serves: whether clients can be tried: no service would be started by it.
    """
    try:
        settings = ask_sshd(place)
    except SshdFault as fault:
        if fault.of_file:
            yield error(f"sshd: {fault}", f"correct {place.sshd_config}; try sshd -t")
        else:
            yield note(f"sshd was not checked: {fault}", "run this as root for that")
        settings = SshdSettings("")
    yield from _check_login(place, settings)
    files = [
        path
        for path in settings.key_files(place.account, place.home)
        if os.path.lexists(path)
    ]
    tried = not serves
    # `check` looks at this one.
    known = {os.path.realpath(place.find_client() or "")}
    for path in files:
        lines, found = _read(place, settings, path)
        yield from found
        for number, line in lines:
            at = f"{path}:{number}"
            forced = parse_forced(command_of(line))
            yield from _check_line(place, settings, at, line, forced, known)
            if forced is not None and not tried:
                tried = True
                yield from _try(place, settings, at, line)
    yield from _check_port(settings)


def _check_login(place: Place, settings: SshdSettings) -> Iterator[Finding]:
    correct = f"correct {place.sshd_config}, and reload sshd"
    if not settings.is_on("pubkeyauthentication", True):
        yield error("sshd accepts no public keys: PubkeyAuthentication no", correct)
    groups = [each.gr_name for each in grp.getgrall() if place.account in each.gr_mem]
    with contextlib.suppress(KeyError):
        groups.append(grp.getgrgid(place.gid).gr_name)
    if (refuses := settings.refuses(place.account, groups)) is not None:
        yield error(
            f"sshd does not let {place.account} log in: {refuses} of sshd_config",
            correct,
        )
    forced = settings.one("forcecommand", "none")
    if forced != "none" and parse_forced(forced) is None:
        yield error(
            f"sshd runs another command for {place.account} than authorized_keys "
            f"says: ForceCommand {forced}",
            correct,
        )
    methods = settings.one("authenticationmethods", "any")
    if methods != "any" and "publickey" not in methods:
        yield error(f"a key is not enough: AuthenticationMethods {methods}", correct)
    if place.uid == 0 and settings.one("permitrootlogin") == "no":
        yield error("sshd does not let root log in: PermitRootLogin no", correct)
    shell = place.shell
    if os.path.basename(shell) in ("nologin", "false") or not os.access(shell, os.X_OK):
        yield error(
            f"the login shell of {place.account} is {shell}: sshd cannot run a forced "
            "command with it",
            f"usermod --shell /bin/sh {place.account}",
        )


def _read(
    place: Place, settings: SshdSettings, path: str
) -> tuple[list[tuple[int, KeyLine]], list[Finding]]:
    """The keys in a file by the numbers of their lines, and what is wrong with it."""
    lines, found = [], []
    try:
        strict = settings.is_on("strictmodes", True)
        fault = strict_fault(path, place.uid, place.home) if strict else None
        if fault is not None:
            found.append(error(f"sshd ignores {path}: {fault[0]}", fault[1]))
        with open(path, encoding="utf-8", errors="replace") as file:
            text = file.read(_MOST)
    except OSError as problem:
        remedy = f"chown {place.account} {shlex.quote(path)}"
        return [], [error(f"{path} cannot be read: {problem.strerror}", remedy)]
    if "PRIVATE KEY-----" in text:
        found.append(
            error(
                f"{path} has a private key in it",
                "remove it, and have its owner make another one",
            )
        )
    users: dict[bytes, tuple[int, str]] = {}
    for number, line in enumerate(text.splitlines(), 1):
        try:
            key = split_line(line)
        except KeyLineError as problem:
            what = f"{path}:{number}: sshd ignores the line: {problem}"
            found.append(error(what, "correct or remove the line"))
            continue
        if key is None:
            continue
        lines.append((number, key))
        forced = parse_forced(command_of(key))
        user = forced.user if forced is not None else "somebody else"
        first, other = users.setdefault(key.blob, (number, user))
        if other != user:
            found.append(
                error(
                    f"{path}:{number}: the key of {user} is that of {other} in line "
                    f"{first}: who has it is always {other}",
                    "remove one of the lines",
                )
            )
    return lines, found


def _check_line(
    place: Place,
    settings: SshdSettings,
    at: str,
    line: KeyLine,
    forced: Forced | None,
    known: set[str],
) -> Iterator[Finding]:
    """Check one line.

    :param known: the clients that were looked at; more are added.
    """
    names = [name for name, _ in line.options]
    if forced is None:
        command = command_of(line)
        if settings.one("forcecommand", "none") != "none":
            return
        if command is None:
            yield warning(
                f"{at}: the key has no command=: its owner has a shell of "
                f"{place.account}, and is nobody to lpserve",
                'put command="lp-serve-client NAME",restrict before it, or remove it',
            )
        elif "lp-serve" in command:
            yield error(
                f"{at}: the command names no USER: {command}",
                "it should be: lp-serve-client NAME",
            )
        return
    path = settings.environ().get("PATH", SSHD_PATH)
    program = find(forced.program, path)
    client = os.path.basename(forced.program) == "lp-serve-client"
    if program is None and not os.path.isabs(forced.program):
        right = place.find_client() if client else None
        yield error(
            f"{at}: {forced.program} is not in the PATH of sshd ({path})",
            f"name {right or 'the absolute path of it'}",
        )
    elif client:
        program = program or forced.program
        if os.path.realpath(program) not in known:
            yield from check_client(place, program, at)
        known.add(os.path.realpath(program))
        if os.path.exists(program):
            yield from _check_fallback(place, settings, program)
    if "restrict" not in names and not settings.is_on("disableforwarding"):
        yield warning(
            f"{at}: without restrict, {forced.user} can forward ports through this "
            "host",
            "put restrict, before command= of the line",
        )


def _check_fallback(
    place: Place, settings: SshdSettings, program: str
) -> Iterator[Finding]:
    """Check the brz that the client runs where there is no service."""
    if (place.option("fallback") or "yes").lower() in ("no", "false", "off", "0", "n"):
        return
    beside = os.path.join(os.path.dirname(program), "brz")
    brz = beside if os.access(beside, os.X_OK) else "brz"
    environ = {**place.environ, **settings.environ()}
    who = f"{program} without a service"
    yield from check_brz((brz,), environ, place.version, who)


def _try(
    place: Place, settings: SshdSettings, at: str, line: KeyLine
) -> Iterator[Finding]:
    """Run a forced command as sshd would, and greet it as a client does."""
    environ = {
        **place.environ,
        **settings.environ(),
        "SSH_CLIENT": "127.0.0.1 1 22",
        "SSH_CONNECTION": "127.0.0.1 1 127.0.0.1 22",
        "SSH_ORIGINAL_COMMAND": _COMMAND,
    }
    done = run([place.shell, "-c", command_of(line) or ""], environ, HELLO)
    if done.out != ANSWER:
        yield error(
            f"{at}: the command does not answer a client: {done.why}",
            f"run it as {place.account}; the log of the service may say more",
        )
    elif "serving this connection without it" in done.err:
        yield warning(
            f"{at}: the command serves a client without the service, which is slow: "
            f"{done.why}",
            "have it look where the service is: lpserve.runtime_dir of breezy.conf",
        )


def _check_port(settings: SshdSettings) -> Iterator[Finding]:
    """Look whether sshd answers where it is configured to listen."""
    addresses = settings.addresses()
    for address in addresses:
        banner = read_banner(address)
        if banner.startswith("SSH-2.0-"):
            return
    if addresses:
        shown = ", ".join(f"{host}:{port}" for host, port in addresses)
        yield note(f"sshd does not answer at {shown}", "start it if it is to be used")


def read_banner(
    address: tuple[str, int], patience: float = 5.0, first: bytes = b""
) -> str:
    """The first line of an SSH server; "" if there is none.

    :param first: what it is sent before.
    """
    try:
        with socket.create_connection(address, patience) as made:
            made.sendall(first)
            return made.recv(255).decode("utf-8", "replace").partition("\r\n")[0]
    except OSError:
        return ""
