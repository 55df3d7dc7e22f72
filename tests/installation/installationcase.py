# SPDX-License-Identifier: GPL-2.0-or-later

"""A sound installation, all of whose files are in one directory."""

from __future__ import annotations

import base64
import contextlib
import os
import pwd
import re
import shutil
import stat
import struct
import subprocess
import sys
from typing import Any

from breezy.tests import TestCaseInTempDir

from ... import __version__
from ...lpserve.installation.check import check
from ...lpserve.installation.findings import Finding, problems
from ...lpserve.installation.place import Place, find_place
from ...lpserve.installation.templates import write_files
from ..harness import PLUGIN

_BRZ = """\
#!{python}
import os
os.environ["BRZ_PLUGINS_AT"] = {plugins!r}
os.environ["BRZ_PLUGIN_PATH"] = "-site:-user"
os.environ["BRZ_DISABLE_PLUGINS"] = "" if {plugins!r} else "lpserve"
from breezy.__main__ import main
main()
"""
_CONFIGURATION = """\
[DEFAULT]
lpserve.runtime_dir = {top}/run
lpserve.directory = {top}/served
lpserve.allow_writes = True
lpserve.sandbox = writes
lpserve.autostart = True
lpserve.log_file = {top}/log/lpserve.log
lpserve.listen = 127.0.0.1:1
lpserve.authorized_keys = {top}/keys
lpserve.host_key = {top}/host_key
"""
_SSHD = """\
ListenAddress 127.0.0.1:1
HostKey {top}/host_key
AuthorizedKeysFile {top}/home/.ssh/authorized_keys
"""
_HOST_KEY = """\
-----BEGIN OPENSSH PRIVATE KEY-----
-----END OPENSSH PRIVATE KEY-----
"""


def make_key(name: str) -> str:
    """The text of a public key that is the same for the same *name*."""
    data = name.encode().ljust(32, b"-")
    kind = b"ssh-ed25519"
    blob = b"".join(struct.pack(">L", len(each)) + each for each in (kind, data))
    return f"ssh-ed25519 {base64.b64encode(blob).decode()} {name}@example.com"


def write(path: str, text: str, mode: int = 0o644) -> None:
    """Write a file, which has *mode* then."""
    with open(path, "w") as file:
        file.write(text)
    os.chmod(path, mode)


def read(path: str) -> str:
    """The text of a file."""
    with open(path) as file:
        return file.read()


class Installation:
    """The files of an installation.

    :param top: a directory, which is made.
    :param brz_plugins: what its brz finds as the plug-in.
    :ivar account: that of this process.
    """

    def __init__(self, top: str, brz_plugins: str = f"lpserve@{PLUGIN}"):
        self.top = top
        self.account = pwd.getpwuid(os.geteuid()).pw_name
        for name in ("bin", "served", "log", "keys", "units", "home"):
            os.makedirs(self.path(name), 0o755)
        for name in (".ssh", ".config/breezy"):
            os.makedirs(self.path("home", name), 0o700)
        os.mkdir(self.path("run"), 0o700)
        self.brz = self.path("bin/brz")
        self.make_brz(self.brz, brz_plugins)
        self.client = self.path("bin/lp-serve-client")
        shutil.copy(os.path.join(PLUGIN, "bin", "lp-serve-client"), self.client)
        # Where the client looks for the plug-in.
        for name in ("lpserve", "__init__.py"):
            os.symlink(os.path.join(PLUGIN, name), self.path(name))
        self.config = self.path("home/.config/breezy/breezy.conf")
        write(self.config, _CONFIGURATION.format(top=top), 0o600)
        self.lines = self.path("home/.ssh/authorized_keys")
        write(
            self.lines,
            "".join(
                f'command="{self.client} {user}",restrict {make_key(user)}\n'
                for user in ("alice", "bob")
            ),
            0o600,
        )
        write(self.path("keys/alice"), make_key("alice") + "\n")
        write(self.path("keys/bob"), make_key("bob") + "\n")
        write(self.path("host_key"), _HOST_KEY, 0o600)
        self.sshd_config = self.path("sshd_config")
        write(self.sshd_config, _SSHD.format(top=top))
        write_files(self.place(), self.path("files"), force=False)
        for name in ("lpserve.service", "lpserve-ssh.service"):
            text = read(self.path("files", name))
            # Its tests start the service by hand.
            text = re.sub("(?m)^(Requires|Also)=lpserve.socket\n", "", text)
            write(self.path("units", name), text)
            os.mkdir(self.path("units", f"{name}.d"))
            shutil.copy(
                self.path("files", "before-systemd-253.conf"),
                self.path("units", f"{name}.d", "before-systemd-253.conf"),
            )
        exporter = "lpserve-exporter.service"
        shutil.copy(self.path("files", exporter), self.path("units", exporter))

    def path(self, *names: str) -> str:
        """A path of it."""
        return os.path.join(self.top, *names)

    @staticmethod
    def make_brz(path: str, plugins: str) -> None:
        """Make a program that runs Breezy with these plug-ins."""
        write(path, _BRZ.format(python=sys.executable, plugins=plugins), 0o755)

    def place(self, **changes: Any) -> Place:
        """What checks look at."""
        environ = {"HOME": self.path("home"), "PATH": "/usr/bin:/bin"}
        with changed_environ(environ):
            return find_place(
                [sys.executable, self.brz],
                __version__,
                self.account,
                self.sshd_config,
                self.path("units"),
                **changes,
            )

    def make_host_key(self) -> None:
        """Make a host key that sshd can read."""
        os.unlink(self.path("host_key"))
        words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", ""]
        subprocess.run([*words, "-f", self.path("host_key")], check=True)


#: What tells Breezy and lpserve where something is.
_TELLING = (
    *("HOME", "PATH", "BRZ_HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"),
    *("XDG_RUNTIME_DIR", "LPSERVE_RUNTIME_DIR", "RUNTIME_DIRECTORY"),
    "CACHE_DIRECTORY",
    *("BRZ_PLUGINS_AT", "BRZ_PLUGIN_PATH"),
)


@contextlib.contextmanager
def changed_environ(environ: dict[str, str]):
    """A context in which only *environ* tells Breezy and lpserve where something is."""
    before = {name: os.environ.get(name) for name in _TELLING}
    for name in _TELLING:
        os.environ.pop(name, None)
    os.environ.update(environ)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


class InstallationCase(TestCaseInTempDir):
    """A test of a sound `installation`."""

    def setUp(self) -> None:
        super().setUp()
        os.chmod(self.test_dir, 0o755)
        self.installation = Installation(os.path.join(self.test_dir, "inst"))
        self._undo: list[Any] = []

    def check(self, **changes: Any) -> list[Finding]:
        """What the checks have found."""
        environ = {"HOME": self.installation.path("home"), "PATH": "/usr/bin:/bin"}
        with changed_environ(environ):
            place = self.installation.place()
            for name, value in changes.items():
                object.__setattr__(place, name, value)
            return check(place)

    def problems(self, **changes: Any) -> list[Finding]:
        """Those of them that are problems."""
        return problems(self.check(**changes))

    # -- changes that `restore` takes back ------------------------------------------

    def write(self, name: str, text: str, mode: int = 0o644) -> None:
        """Write a file of the installation."""
        path = self._save(name)
        write(path, text, mode)

    def edit(self, name: str, before: str, after: str) -> None:
        """Replace a part of a file."""
        path = self._save(name)
        text = read(path)
        self.assertIn(before, text)
        mode = stat.S_IMODE(os.stat(path).st_mode)
        write(path, text.replace(before, after), mode)

    def append(self, name: str, text: str) -> None:
        """Write *text* to the end of a file."""
        path = self._save(name)
        with open(path, "a") as file:
            file.write(text)

    def chmod(self, name: str, mode: int) -> None:
        """Change the mode of a file or directory."""
        path = self.installation.path(name)
        before = stat.S_IMODE(os.stat(path).st_mode)
        self._undo.append(lambda: os.chmod(path, before))
        os.chmod(path, mode)

    def remove(self, name: str) -> None:
        """Remove a file or directory."""
        path = self.installation.path(name)
        away = path + ".away"
        self._undo.append(lambda: os.rename(away, path))
        os.rename(path, away)

    def make(self, name: str, mode: int = 0o700) -> None:
        """Make a directory."""
        path = self.installation.path(name)
        self._undo.append(lambda: shutil.rmtree(path))
        os.mkdir(path)
        os.chmod(path, mode)

    def link(self, target: str, name: str) -> None:
        """Make a link."""
        path = self.installation.path(name)
        self._undo.append(lambda: os.unlink(path))
        os.symlink(target, path)

    def _save(self, name: str) -> str:
        path = self.installation.path(name)
        if os.path.lexists(path):
            kept = path + ".kept"
            shutil.copy2(path, kept)
            self._undo.append(lambda: os.replace(kept, path))
        else:
            self._undo.append(lambda: os.unlink(path))
        return path

    def restore(self) -> None:
        """Take back all changes."""
        while self._undo:
            self._undo.pop()()
