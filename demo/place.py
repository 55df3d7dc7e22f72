# SPDX-License-Identifier: GPL-2.0-or-later

"""Sets up branches, the fork service, an SSH server and a client in one directory.

Everything runs on loopback, as the user who runs it.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

CHECKOUT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
DEADLINE = 60.0
USER = "alice"
_CLIENT = """\
Host *
    IdentityFile "{home}/.ssh/id_rsa"
    UserKnownHostsFile "{home}/.ssh/known_hosts"
    GlobalKnownHostsFile /dev/null
    StrictHostKeyChecking no
    IdentitiesOnly yes
    IdentityAgent none
    BatchMode yes
    LogLevel ERROR
"""


class DemoError(Exception):
    """The demonstration has failed; ``str()`` tells why, in one line."""


def brz(*words: str) -> list[str]:
    """The command line that runs ``brz`` with *words*."""
    return [sys.executable, "-m", "breezy", *words]


class Place:
    """A directory with branches, servers and a client.

    :param directory: its path.
    :param extra: further variables for the environment of all processes.
    """

    def __init__(self, directory: str, extra: dict[str, str] | None = None):
        self.directory = directory
        self._extra = extra or {}
        self.ssh = shutil.which("ssh")
        self.tree: Any = None

    def path(self, *names: str) -> str:
        """A path in the directory."""
        return os.path.join(self.directory, *names)

    @property
    def env(self) -> dict[str, str]:
        """The environment of all processes."""
        env = {
            "HOME": self.path("home"),
            "BRZ_HOME": self.path("home"),
            "XDG_CACHE_HOME": self.path("home"),
            "BRZ_EMAIL": "Demo <demo@example.com>",
            # Without ssh, Breezy uses paramiko.
            "BRZ_SSH": self.path("ssh") if self.ssh else "paramiko",
            "LPSERVE_RUNTIME_DIR": self.path("run"),
            "LANG": "C.UTF-8",
            "PATH": os.pathsep.join(
                (os.path.dirname(sys.executable), os.environ.get("PATH", os.defpath))
            ),
            **self._extra,
        }
        if plugins := _plugins():
            env["BRZ_PLUGINS_AT"] = plugins
        return env

    # -- setting up ------------------------------------------------------------

    def make_client(self) -> None:
        """Create a key, and the configuration for ``ssh`` to use it."""
        from cryptography.hazmat.primitives.asymmetric import rsa
        from twisted.conch.ssh.keys import Key

        # The only type of key that Breezy looks for with paramiko.
        key = Key(rsa.generate_private_key(public_exponent=65537, key_size=2048))
        os.makedirs(self.path("home", ".ssh"), 0o700)
        self._write(key.toString("OPENSSH"), 0o600, "home", ".ssh", "id_rsa")
        os.makedirs(self.path("keys"), 0o755)
        public = key.public().toString("OPENSSH") + b"\n"
        self._write(public, 0o644, "keys", USER)
        if self.ssh:
            config = _CLIENT.format(home=self.path("home")).encode()
            self._write(config, 0o600, "ssh_config")
            words = [self.ssh, "-F", self.path("ssh_config")]
            script = f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n'
            self._write(script.encode(), 0o700, "ssh")

    def _write(self, data: bytes, mode: int, *names: str) -> None:
        path = self.path(*names)
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        with open(os.open(path, flags, mode), "wb") as file:
            os.chmod(path, mode)
            file.write(data)

    def make_branch(self, revisions: int, *names: str) -> None:
        """Create a branch with a history at the path *names*."""
        os.environ.update(self.env)
        import breezy.bzr
        from breezy.controldir import ControlDir, format_registry

        breezy.initialize(setup_ui=False)
        self.tree = ControlDir.create_standalone_workingtree(
            self.path(*names), format_registry.make_controldir("default")
        )
        self.commit(revisions)
        self.tree.branch.repository.pack()

    def commit(self, count: int) -> None:
        """Commit to that branch."""
        tree = self.tree
        with tree.lock_write():
            for _ in range(count):
                number = tree.branch.revno() + 1
                name = f"file{number % 20:02}.txt"
                with open(os.path.join(tree.basedir, name), "a") as file:
                    file.write(f"What revision {number} has to say.\n" * 5)
                if not tree.is_versioned(name):
                    tree.add([name])
                tree.commit(f"Revision {number}", reporter=_Silence())

    def copy_branch(self, *names: str) -> None:
        """Copy the branch, without its working tree, for a server."""
        target = self.path(*names, ".bzr")
        shutil.copytree(os.path.join(self.tree.basedir, ".bzr"), target)
        shutil.rmtree(os.path.join(target, "checkout"))

    # -- servers ---------------------------------------------------------------

    def start_service(self, served: str) -> subprocess.Popen[bytes]:
        """Start the fork service for the directory *served*; return once it listens."""
        options = ["--directory", served, "--allow-writes"]
        words = brz("lp-serve", "--fork-server", *options)
        return self._start(words, self.path("service.log"))[0]

    def start_ssh_server(
        self, name: str, port: int = 0, *options: str
    ) -> tuple[subprocess.Popen[bytes], int]:
        """Start an SSH server; its port, once it listens."""
        words = brz(
            *options,
            "lp-serve-ssh",
            f"--listen=127.0.0.1:{port}",
            f"--host-key={self.path('host_key')}",
            f"--authorized-keys={self.path('keys')}",
        )
        process, line = self._start(words, self.path(f"{name}.log"))
        return process, int(line.rpartition(":")[2])

    def _start(
        self, words: list[str], log_path: str
    ) -> tuple[subprocess.Popen[bytes], str]:
        hidden = ("BRZ_EMAIL", "BRZ_SSH")
        with open(log_path, "wb") as log:
            process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={k: v for k, v in self.env.items() if k not in hidden},
                cwd=self.directory,
                start_new_session=True,
            )
        deadline = time.monotonic() + DEADLINE
        while True:
            with open(log_path) as file:
                lines = file.read().splitlines(keepends=True)
            for line in lines:
                if line.startswith("Listening on ") and line.endswith("\n"):
                    return process, line.strip()
            if process.poll() is not None or time.monotonic() > deadline:
                end(process)
                why = lines[-1].strip() if lines else "it said nothing"
                raise DemoError(f"{' '.join(words[3:5])} did not start: {why}")
            time.sleep(0.01)


def end(process: subprocess.Popen[bytes]) -> None:
    """Stop a server gracefully; kill it if that takes long."""
    for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGKILL):
        if process.poll() is None:
            process.send_signal(number)
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                continue


def _plugins() -> str | None:
    """The value of BRZ_PLUGINS_AT, because the plug-in may not be installed."""
    if "BRZ_PLUGINS_AT" in os.environ:
        return os.environ["BRZ_PLUGINS_AT"]
    import breezy.plugins

    if any(os.path.isdir(f"{path}/lpserve") for path in breezy.plugins.__path__):
        return None
    return f"lpserve@{CHECKOUT}"


class _Silence:
    """A commit reporter that does not report."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *args, **kwargs: None
