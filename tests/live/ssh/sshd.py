# SPDX-License-Identifier: GPL-2.0-or-later

"""An OpenSSH server of one's own, on loopback, and a client that knows it.

It runs as whoever starts it, lets in only the keys that it made, and keeps all
of its files in one directory. Standard library only: the demo uses it too.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shlex
import shutil
import signal
import socket
import subprocess
import time

#: Where systems keep sshd, which is on nobody's PATH but root's.
_SBIN = (
    "/usr/sbin",
    "/usr/local/sbin",
    "/sbin",
    "/usr/lib/ssh",
    "/usr/lib/openssh",
    "/usr/libexec",
)
#: What sshd wants to exist when root starts it.
_PRIVILEGE_SEPARATION = "/run/sshd"

_SERVER = """\
Port {port}
ListenAddress 127.0.0.1
HostKey "{directory}/host_key"
AuthorizedKeysFile "{directory}/authorized_keys"
PidFile none
StrictModes no
UsePAM no
UseDNS no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
PrintMotd no
PrintLastLog no
MaxStartups 200
MaxSessions 200
LogLevel VERBOSE
Subsystem sftp internal-sftp
SetEnv {environment}
"""
_CLIENT = """\
Host {name}
    HostName 127.0.0.1
    Port {port}
    User {account}
    IdentityFile "{key}"
    HostKeyAlias lpserve
    UserKnownHostsFile "{known_hosts}"
    GlobalKnownHostsFile /dev/null
    StrictHostKeyChecking yes
    IdentitiesOnly yes
    IdentityAgent none
    BatchMode yes
    LogLevel ERROR
"""


def find_sshd() -> str | None:
    """The path of sshd if this system has it, and the programs that go with it."""
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), *_SBIN])
    if shutil.which("ssh") is None or shutil.which("ssh-keygen") is None:
        return None
    return shutil.which("sshd", path=path)


def make_key(directory: str, name: str, kind: str = "ed25519") -> str:
    """Make a key in *directory*; the path of its private half."""
    path = os.path.join(directory, name)
    subprocess.run(
        ["ssh-keygen", "-q", "-t", kind, "-N", "", "-C", name, "-f", path],
        stdin=subprocess.DEVNULL,
        check=True,
    )
    return path


class SshdError(Exception):
    """It cannot be started; ``str()`` says why."""


class SshHosts:
    """The keys of clients of one server, and a configuration of ``ssh`` with them.

    :param directory: where the files go; made here.
    :ivar ssh: a program to use in place of ``ssh``; every name that `add_host` was
        given is a host to it.
    :ivar known_hosts: a file with the server's host key, as that of ``lpserve``.
    :ivar config: the configuration file of ``ssh``.
    :ivar log_path: where the server logs.
    :ivar port: where it listens; 0 while it does not.
    """

    def __init__(self, directory: str):
        self._directory = directory
        self._hosts: dict[str, tuple[str, str]] = {}
        self._include = ""
        self.port = 0
        self.ssh = os.path.join(directory, "ssh")
        self.config = os.path.join(directory, "ssh_config")
        self.known_hosts = os.path.join(directory, "known_hosts")
        self.log_path = os.path.join(directory, "log")
        os.mkdir(directory, 0o700)
        config, real = (
            shlex.quote(self.config),
            shlex.quote(shutil.which("ssh") or "ssh"),
        )
        self.write(self.ssh, f'#!/bin/sh\nexec {real} -F {config} "$@"\n', 0o700)

    def make_key(self, name: str, kind: str = "ed25519") -> str:
        """Make a key that no server knows yet; the path of its private half."""
        return make_key(self._directory, name, kind)

    def add_host(self, name: str, account: str, key: str) -> None:
        """Have ``ssh NAME`` log in to *account* with the key *key*."""
        self._hosts[name] = (account, key)
        self.write_client()

    def include(self, path: str) -> None:
        """Have ``ssh`` know also the hosts of this configuration."""
        self._include = f'Host *\n    Include "{path}"\n'
        self.write_client()

    def write_client(self, public_key: str = "") -> None:
        """Write the configuration of ``ssh``, if it is known where the server listens.

        :param public_key: the host key of the server, where that is new.
        """
        if not self.port:
            return
        if public_key:
            self.write(self.known_hosts, f"lpserve {public_key}")
        hosts = [
            _CLIENT.format(
                name=name,
                account=account,
                key=key.replace("%", "%%"),
                port=self.port,
                known_hosts=self.known_hosts.replace("%", "%%"),
            )
            for name, (account, key) in self._hosts.items()
        ]
        self.write(self.config, "".join([*hosts, self._include]))

    @staticmethod
    def write(path: str, text: str, mode: int = 0o600) -> None:
        """Replace a file, which somebody may be reading."""
        # In a directory of keys, a name with a dot is no user's.
        new = os.path.join(os.path.dirname(path), f".{os.path.basename(path)}")
        with open(new, "w") as file:
            file.write(text)
        os.chmod(new, mode)
        os.rename(new, path)


class Sshd(SshHosts):
    """See the module.

    :param environment: what the commands that it runs find in theirs.
    """

    def __init__(self, directory: str, environment: dict[str, str]):
        program = find_sshd()
        if program is None:
            raise SshdError("there is no sshd on this system; install openssh-server")
        super().__init__(directory)
        self._program = program
        self._environment = dict(environment)
        self._process: subprocess.Popen[bytes] | None = None
        self._authorized_keys = os.path.join(directory, "authorized_keys")
        self.make_key("host_key")
        self.write(self._authorized_keys, "")

    @property
    def user(self) -> str:
        """The account that everyone logs in to: ours."""
        return pwd.getpwuid(os.geteuid()).pw_name

    def allow(self, name: str, command: str, kind: str = "ed25519") -> str:
        """Make a key for which *command* is run, as operators write it down.

        :param name: of the key, and the host name that ``ssh`` uses it for.
        :returns: the path of the private key.
        """
        path = self.make_key(name, kind)
        with open(path + ".pub") as public:
            key = public.read()
        # Only quotes: sshd takes backslashes as they are.
        quoted = command.replace('"', '\\"')
        with open(self._authorized_keys, "a") as keys:
            keys.write(f'command="{quoted}",restrict {key}')
        self.add_host(name, self.user, path)
        return path

    def start(self, env: dict[str, str] | None = None, seconds: float = 120.0) -> None:
        """Start it and wait until it listens.

        :param env: its own environment.
        :raises SshdError: with what it had to say.
        """
        if os.geteuid() == 0:
            os.makedirs(_PRIVILEGE_SEPARATION, 0o755, exist_ok=True)
        for _ in range(5):
            self.port = _free_port()
            environment = " ".join(
                '"' + f"{name}={value}".replace("\\", "\\\\").replace('"', '\\"') + '"'
                for name, value in sorted(self._environment.items())
            )
            text = _SERVER.format(
                port=self.port, directory=self._directory, environment=environment
            )
            self.write(os.path.join(self._directory, "sshd_config"), text)
            with open(os.path.join(self._directory, "host_key.pub")) as public:
                self.write_client(public.read())
            if self._started(env, time.monotonic() + seconds):
                return
        raise SshdError(f"sshd did not start: {self.log().strip()}")

    def _started(self, env: dict[str, str] | None, deadline: float) -> bool:
        """Start it once; False if it ended at once (somebody took the port)."""
        config = os.path.join(self._directory, "sshd_config")
        with open(self.log_path, "wb") as log:
            self._process = subprocess.Popen(
                [self._program, "-D", "-e", "-f", config],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=env,
                start_new_session=True,
            )
        while self._process.poll() is None:
            if "Server listening on" in self.log():
                return True
            if time.monotonic() > deadline:
                self.kill()
                raise SshdError(f"sshd does not listen: {self.log().strip()}")
            time.sleep(0.005)  # nothing but its log tells
        return False

    def log(self) -> str:
        """What it has logged, of itself and of everyone who came."""
        with open(self.log_path, errors="replace") as log:
            return log.read()

    def sessions(self) -> list[int]:
        """The processes with which it serves connections that are open."""
        if self._process is None:
            return []
        return _children_of(self._process.pid)

    def stop(self, seconds: float = 120.0) -> None:
        """Let open connections end, then stop.

        :raises SshdError: if there still are some after *seconds*.
        """
        deadline = time.monotonic() + seconds
        while self.sessions():
            if time.monotonic() > deadline:
                left = self.sessions()
                self.kill()
                raise SshdError(f"connections are still open: {left}")
            time.sleep(0.005)  # it does not tell when a session is over
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
            self._process = None

    def kill(self) -> None:
        """Stop at once, with all connections."""
        if self._process is None:
            return
        left = self.sessions()
        self._process.kill()
        self._process.wait()
        self._process = None
        while left:
            pid = left.pop()
            # A session has children of its own: the unprivileged half, and what
            # it runs, which ends when its stdin does.
            left += [each for each in _children_of(pid) if _is_sshd(each)]
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _children_of(pid: int) -> list[int]:
    """The children of the process *pid* that have not ended."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            state, parent = _stat(int(name))
            if parent == pid and state not in "ZX":
                found.append(int(name))
    return found


def _stat(pid: int) -> tuple[str, int]:
    """The state and the parent of *pid*."""
    try:
        with open(f"/proc/{pid}/stat", errors="replace") as file:
            # The name, in parentheses, may contain anything.
            words = file.read().rpartition(")")[2].split()
    except OSError:
        return "X", 0
    return words[0], int(words[1])


def _is_sshd(pid: int) -> bool:
    with contextlib.suppress(OSError), open(f"/proc/{pid}/comm") as comm:
        return comm.read().startswith("sshd")
    return False
