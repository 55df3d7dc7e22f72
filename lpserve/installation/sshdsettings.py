# SPDX-License-Identifier: GPL-2.0-or-later

"""What sshd is configured to do for the account: ``sshd -T`` (sshd(8))."""

from __future__ import annotations

import fnmatch
import os

from .place import Place
from .programs import find_admin, run


class SshdFault(Exception):
    """sshd cannot be asked; ``str()`` is one line.

    :ivar of_file: whether that is because its configuration is wrong.
    """

    def __init__(self, text: str, of_file: bool = False):
        super().__init__(text)
        self.of_file = of_file


class SshdSettings:
    """The settings that hold for a login to the account.

    :param text: what ``sshd -T`` printed.
    """

    def __init__(self, text: str):
        self.text = text
        self._values: dict[str, list[str]] = {}
        for line in text.splitlines():
            name, _, value = line.partition(" ")
            self._values.setdefault(name.lower(), []).append(value.strip())

    def all(self, name: str) -> list[str]:
        """The values of a setting, a string for each line that has it."""
        return self._values.get(name, [])

    def one(self, name: str, default: str = "") -> str:
        """The value of a setting."""
        return self.all(name)[0] if self.all(name) else default

    def words(self, name: str) -> list[str]:
        """All words of a setting."""
        return [word for value in self.all(name) for word in value.split()]

    def is_on(self, name: str, default: bool = False) -> bool:
        """Whether a setting is ``yes``."""
        return self.one(name, "yes" if default else "no") == "yes"

    def key_files(self, account: str, home: str) -> list[str]:
        """The authorized_keys files of *account*, as absolute paths."""
        found = []
        for word in self.words("authorizedkeysfile") or [".ssh/authorized_keys"]:
            if word == "none":
                continue
            parts = [
                part.replace("%h", home).replace("%u", account)
                for part in word.split("%%")
            ]
            found.append(os.path.join(home, "%".join(parts)))
        return found

    def environ(self) -> dict[str, str]:
        """The variables of ``SetEnv``."""
        pairs = [word.partition("=") for word in self.words("setenv")]
        return {name: value.strip('"') for name, _, value in pairs if name != "none"}

    def refuses(self, account: str, groups: list[str]) -> str | None:
        """The name of the setting that keeps *account* out; None if none does."""
        for name, names in (("Users", [account]), ("Groups", groups)):
            denied = self.words(f"deny{name.lower()}")
            if any(_matches(each, denied) for each in names):
                return f"Deny{name}"
            allowed = self.words(f"allow{name.lower()}")
            if allowed and not any(_matches(each, allowed) for each in names):
                return f"Allow{name}"
        return None

    def addresses(self) -> list[tuple[str, int]]:
        """Where sshd listens, as addresses to connect to."""
        found = []
        for word in self.words("listenaddress"):
            host, _, port = word.rpartition(":")
            host = host.strip("[]")
            if host in ("0.0.0.0", "::", "*"):
                host = "127.0.0.1" if host != "::" else "::1"
            if port.isdigit():
                found.append((host, int(port)))
        return sorted(set(found))


def _matches(name: str, patterns: list[str]) -> bool:
    return any(
        fnmatch.fnmatchcase(name, pattern.partition("@")[0]) for pattern in patterns
    )


def ask_sshd(place: Place) -> SshdSettings:
    """Ask sshd what holds for the account.

    :raises SshdFault: if it cannot be asked.
    """
    if place.sshd_said is not None:
        if place.sshd_said.startswith("!"):
            raise SshdFault(place.sshd_said[1:], True)
        return SshdSettings(place.sshd_said)
    program = find_admin("sshd")
    if program is None:
        raise SshdFault("sshd is not installed")
    if not os.path.exists(place.sshd_config):
        raise SshdFault(f"there is no {place.sshd_config}")
    connection = f"user={place.account},host=localhost,addr=127.0.0.1"
    words = ["-T", "-f", place.sshd_config, "-C", f"{connection},laddr=127.0.0.1"]
    done = run([program, *words], {"PATH": os.defpath, "LANG": "C"})
    if done.status == 0:
        return SshdSettings(done.out)
    if "no hostkeys available" in done.err or "Permission denied" in done.err:
        raise SshdFault("only root can ask sshd for its configuration")
    if "privilege separation directory" in done.err:
        raise SshdFault("sshd has not run since the host was started")
    lines = [line for line in done.err.splitlines() if line.strip()]
    raise SshdFault(lines[0].strip() if lines else done.why, True)
