# SPDX-License-Identifier: GPL-2.0-or-later

"""What an installation is: an account, its configuration, and where the system's is."""

from __future__ import annotations

import os
import pwd
import shutil
from dataclasses import dataclass

from ..errors import ConfigurationError
from ..location import read_options, runtime_directory
from .unitfiles import UNIT_DIRECTORIES, find_unit

CLIENT = "lp-serve-client"
SSHD_CONFIG = "/etc/ssh/sshd_config"
#: The PATH of commands that sshd runs, unless it is configured.
SSHD_PATH = "/usr/local/bin:/usr/bin:/bin:/usr/games"


@dataclass(frozen=True)
class Place:
    """One installation.

    :ivar account: the name of the account that runs the service.
    :ivar uid, gid: of it.
    :ivar home: its home directory, where sshd and Breezy look for files.
    :ivar shell: its login shell.
    :ivar config: its breezy.conf.
    :ivar options: the raw texts of its ``lpserve.*`` options.
    :ivar brz: the words that run this Breezy.
    :ivar version: of this plug-in.
    :ivar sshd_config: sshd's configuration file.
    :ivar units: the directories of systemd's units, the first one that has a unit
        counts.
    :ivar sshd_said: what ``sshd -T`` printed to root; None if it was not asked.
    """

    account: str
    uid: int
    gid: int
    home: str
    shell: str
    config: str
    options: dict[str, str]
    brz: tuple[str, ...]
    version: str
    sshd_config: str = SSHD_CONFIG
    units: tuple[str, ...] = UNIT_DIRECTORIES
    sshd_said: str | None = None

    @property
    def is_own(self) -> bool:
        """Whether this process runs as the account."""
        return self.uid == os.geteuid()

    @property
    def environ(self) -> dict[str, str]:
        """The environment in which systemd or sshd start something for the account."""
        return {
            "HOME": self.home,
            "USER": self.account,
            "LOGNAME": self.account,
            "SHELL": self.shell,
            "PATH": SSHD_PATH,
            "LANG": "C.UTF-8",
        }

    @property
    def runtime_dir(self) -> str:
        """The runtime directory that clients of the account find."""
        configured = self.option("runtime_dir")
        if self.is_own:
            return runtime_directory(None, configured)
        if configured is None and self.uid != 0:
            return os.path.join(self.home, ".cache/breezy/lpserve")
        return runtime_directory(None, configured or "/run/lpserve")

    def option(self, name: str) -> str | None:
        """The text of an option, without quotes and comment; None if it is not set."""
        text = self.options.get(name, "").strip()
        if text[:1] in ("'", '"') and text.find(text[0], 1) > 0:
            text = text[1 : text.index(text[0], 1)]
        else:
            text = text.partition("#")[0].strip()
        return text or None

    @property
    def keys_directory(self) -> str:
        """The directory of public keys for 'lp-serve-ssh'."""
        return self._beside("authorized_keys", "authorized_keys")

    @property
    def host_key(self) -> str:
        """The host key of 'lp-serve-ssh'."""
        return self._beside("host_key", "ssh_host_ed25519_key")

    def _beside(self, option: str, name: str) -> str:
        found = self.option(option)
        if found is None:
            found = os.path.join(os.path.dirname(self.config), "lpserve", name)
        elif found.startswith("~/"):
            found = self.home + found[1:]
        return os.path.abspath(found)

    @property
    def program(self) -> str:
        """The file that runs this Breezy: a script or a program."""
        return self.brz[-1] if self.brz[-1] != "breezy" else self.brz[0]

    def find_client(self) -> str | None:
        """The stand-alone client that was installed with this Breezy, or any other."""
        beside = os.path.join(os.path.dirname(self.program), CLIENT)
        if os.access(beside, os.X_OK):
            return beside
        paths = [os.environ.get("PATH", os.defpath), SSHD_PATH]
        return shutil.which(CLIENT, path=os.pathsep.join(paths))


def find_place(
    brz: list[str],
    version: str,
    account: str | None = None,
    sshd_config: str | None = None,
    units: str | None = None,
    sshd_said: str | None = None,
) -> Place:
    """Find the installation of *account*.

    :param account: a name; None means our own, and for root that of the unit.
    :param units: the directory of systemd's units; None means the usual ones.
    :raises ConfigurationError: if there is no such account, or root names none.
    """
    where = (units,) if units else UNIT_DIRECTORIES
    entry = _find_account(account, where)
    home = entry.pw_dir
    if entry.pw_uid == os.geteuid():
        # Breezy looks there.
        home = os.path.abspath(os.environ.get("HOME") or home)
        environ = dict(os.environ)
    else:
        environ = {"XDG_CONFIG_HOME": home + "/.config"}
    base = environ.get("BRZ_HOME") or environ.get("XDG_CONFIG_HOME")
    config = os.path.join(base or home + "/.config", "breezy", "breezy.conf")
    return Place(
        account=entry.pw_name,
        uid=entry.pw_uid,
        gid=entry.pw_gid,
        home=home,
        shell=entry.pw_shell or "/bin/sh",
        config=os.path.abspath(config),
        options=read_options(environ),
        brz=tuple(brz),
        version=version,
        sshd_config=sshd_config or SSHD_CONFIG,
        units=where,
        sshd_said=sshd_said,
    )


def _find_account(account: str | None, units: tuple[str, ...]) -> pwd.struct_passwd:
    try:
        if account is not None:
            return pwd.getpwnam(account)
        if os.geteuid() != 0:
            return pwd.getpwuid(os.geteuid())
        unit = find_unit("lpserve.service", units)
        user = unit.last("Service", "User") if unit is not None else None
        if user:
            return pwd.getpwnam(user)
    except KeyError as fault:
        raise ConfigurationError(f"there is no such account: {fault}") from None
    raise ConfigurationError(
        "root has to say whose installation it is: --account=NAME, the account that "
        "runs the service"
    )
