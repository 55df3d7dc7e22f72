# SPDX-License-Identifier: GPL-2.0-or-later

"""Real ssh servers on loopback, before and after, and logins to them.

OpenSSH's sshd with 'brz serve --inet' as the forced command, and with
lp-serve-client as that; 'brz lp-serve-ssh' without the fork service, and with it;
and sshd with a command that only prints an answer: what it takes itself. Nobody
has to be root. Their files are in the stage's directory.
"""

from __future__ import annotations

import contextlib
import os
import re
import selectors
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

from stage import (
    DEADLINE,
    HELLO,
    PLUGIN,
    USER,
    BenchmarkError,
    Service,
    Stage,
    check_hello,
    wait_until,
)

sys.path.insert(0, os.path.join(PLUGIN, "tests", "live"))

from sshd import Sshd, SshdError

SSHD, LP_SERVE_SSH = "sshd", "lp-serve-ssh"
#: By what a host has its connections served.
PROCESS, SERVICE, NOTHING = "process", "fork service", "nothing"
#: What a Bazaar client asks for.
COMMAND = "bzr serve --inet --directory=/ --allow-writes"
#: As Breezy calls ssh (breezy.transport.ssh), and one line of what it is told.
_OPTIONS = [
    *("-oForwardX11=no", "-oForwardAgent=no", "-oClearAllForwardings=yes"),
    *("-oNoHostAuthenticationForLocalhost=yes", "-oLogLevel=VERBOSE"),
]
#: Answers ``hello`` as a smart server does, and waits for the end.
_PRINT = f"echo '{HELLO.decode().strip()}'; exec cat >/dev/null"
_AUTHENTICATED = b"Authenticated to "
_CLIENT = """\
Host {name}
    HostName 127.0.0.1
    Port {port}
    User {user}
    IdentityFile "{key}"
    UserKnownHostsFile "{known}"
    GlobalKnownHostsFile /dev/null
    HostKeyAlias lpserve
    StrictHostKeyChecking yes
    IdentitiesOnly yes
    IdentityAgent none
    BatchMode yes
    LogLevel ERROR
"""


_LABELS = {
    (SSHD, NOTHING): "sshd, a command that prints",
    (SSHD, PROCESS): "sshd, brz serve --inet",
    (SSHD, SERVICE): "sshd, lp-serve-client",
    (LP_SERVE_SSH, PROCESS): "lp-serve-ssh, a process",
    (LP_SERVE_SSH, SERVICE): "lp-serve-ssh, fork service",
}


@dataclass(frozen=True)
class Host:
    """An ssh server that serves the stage's root.

    :ivar server: `SSHD` or `LP_SERVE_SSH`.
    :ivar served_by: `PROCESS`, `SERVICE` or `NOTHING`.
    :ivar name: what ``ssh`` calls it.
    :ivar config: a configuration for ``ssh`` that knows it.
    """

    server: str
    served_by: str
    name: str
    config: str

    @property
    def label(self) -> str:
        """What to call it in a table."""
        return label(self.server, self.served_by)

    @property
    def program(self) -> str:
        """A program in place of ``ssh`` that knows it, as BRZ_SSH takes it."""
        return os.path.join(os.path.dirname(self.config), "ssh")


def label(server: str, served_by: str) -> str:
    """What to call such a host in a table."""
    return _LABELS[server, served_by]


@contextlib.contextmanager
def hosts(stage: Stage) -> Iterator[tuple[Service, list[Host]]]:
    """A service, and the hosts, in the order of `_LABELS`."""
    with contextlib.ExitStack() as stack:
        service = stack.enter_context(stage.service())
        # Configured alike, and never started.
        nothing = stage.service("nothing")
        client = [os.path.join(PLUGIN, "bin", "lp-serve-client"), USER]
        today = stage.environ("today", plugin=False)
        made = []
        for name, served_by, command, environ in (
            ("sshd-alone", NOTHING, _PRINT, today),
            ("sshd-before", PROCESS, shlex.join(stage.inet_words()), today),
            ("sshd-after", SERVICE, shlex.join(client), service.environ),
        ):
            config = stack.enter_context(_sshd(stage, name, command, environ))
            made.append(Host(SSHD, served_by, name, config))
        for name, served_by, environ in (
            ("lp-serve-ssh-before", PROCESS, nothing.environ),
            ("lp-serve-ssh-after", SERVICE, service.environ),
        ):
            server = stack.enter_context(SshServer(stage, name, environ))
            made.append(Host(LP_SERVE_SSH, served_by, name, server.config))
        yield service, made


@contextlib.contextmanager
def _sshd(
    stage: Stage, name: str, command: str, environ: dict[str, str]
) -> Iterator[str]:
    """An sshd whose only command is *command*; its ``ssh_config``."""
    directory = os.path.join(stage.path, name)
    try:
        sshd = Sshd(directory, environ)
        sshd.allow(name, command)
        sshd.start(environ, DEADLINE)
        try:
            yield os.path.join(directory, "ssh_config")
            sshd.stop(DEADLINE)
        finally:
            sshd.kill()
    except SshdError as error:
        raise BenchmarkError(str(error)) from None


class SshServer:
    """A running 'brz lp-serve-ssh', as a context manager.

    :param environ: its environment, with a breezy.conf that names the service.
    :ivar key: the path of `USER`'s private key.
    :ivar port: where it listens.
    :ivar config: a configuration for ``ssh`` in which it is the host *name*.
    """

    def __init__(self, stage: Stage, name: str, environ: dict[str, str]):
        self.directory = os.path.join(stage.path, name)
        self.key = os.path.join(self.directory, USER)
        self.config = os.path.join(self.directory, "ssh_config")
        self._name = name
        self._stage = stage
        self._environ = environ
        self._log_path = os.path.join(self.directory, "log")

    def __enter__(self) -> SshServer:
        keys = os.path.join(self.directory, "keys")
        os.makedirs(keys, 0o700)
        host_key = os.path.join(self.directory, "host_key")
        for path in (self.key, host_key):
            make_key(path)
        shutil.copy(self.key + ".pub", os.path.join(keys, USER))
        words = ["lp-serve-ssh", "--listen=127.0.0.1:0", f"--host-key={host_key}"]
        with open(self._log_path, "wb") as log:
            self._process = subprocess.Popen(
                [*self._stage.brz, *words, f"--authorized-keys={keys}"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environ,
                cwd=self._stage.path,
            )
        try:
            found = wait_until(self._listens, "lp-serve-ssh listens")
        except BaseException:
            self._process.kill()
            self._process.wait()
            raise
        self.port = int(found[1])
        self._write_client(host_key)
        return self

    def _listens(self) -> re.Match[str] | None:
        if self._process.poll() is not None:
            raise BenchmarkError(f"lp-serve-ssh has ended:\n{self.log_text()}")
        return re.search(r"Listening on 127\.0\.0\.1:(\d+)\n", self.log_text())

    def _write_client(self, host_key: str) -> None:
        known = os.path.join(self.directory, "known_hosts")
        with open(host_key + ".pub") as public, open(known, "w") as file:
            file.write(f"lpserve {public.read()}")
        with open(self.config, "w") as file:
            file.write(
                _CLIENT.format(
                    name=self._name,
                    port=self.port,
                    user=USER,
                    key=self.key.replace("%", "%%"),
                    known=known.replace("%", "%%"),
                )
            )
        program = os.path.join(self.directory, "ssh")
        real = shlex.quote(shutil.which("ssh") or "ssh")
        with open(program, "w") as file:
            file.write(f'#!/bin/sh\nexec {real} -F {shlex.quote(self.config)} "$@"\n')
        os.chmod(program, 0o700)

    def log_text(self) -> str:
        """What it has logged."""
        with open(self._log_path, encoding="utf-8", errors="replace") as log:
            return log.read()

    def __exit__(self, *exc: object) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise BenchmarkError("lp-serve-ssh did not stop") from None


def make_key(path: str) -> None:
    """Make a key without a passphrase: *path*, and *path*.pub."""
    words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", path]
    subprocess.run(words, stdin=subprocess.DEVNULL, check=True)


def connect(host: Host) -> tuple[float, float]:
    """Connect with the ``ssh`` of this system and say ``hello``.

    :returns: seconds from the exec of ``ssh`` until the server has let it in, and
        until the first byte of the smart server's answer has come.
    """
    words = ["ssh", "-F", host.config, *_OPTIONS, host.name, COMMAND]
    began = time.perf_counter()
    process = subprocess.Popen(
        words,
        bufsize=0,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        return _times(process, began)
    except BaseException:
        process.kill()
        raise
    finally:
        process.stderr.close()
        process.wait()


def _times(process: subprocess.Popen[bytes], began: float) -> tuple[float, float]:
    process.stdin.write(b"hello\n")
    said = b""
    authenticated = answered = None
    with selectors.DefaultSelector() as selector:
        for stream in (process.stderr, process.stdout):
            selector.register(stream, selectors.EVENT_READ)
        while answered is None:
            ready = [key.fileobj for key, _ in selector.select(DEADLINE)]
            came = time.perf_counter()
            if not ready:
                raise BenchmarkError("no answer through ssh")
            if process.stderr in ready:
                data = os.read(process.stderr.fileno(), 4096)
                said += data
                if not data:
                    selector.unregister(process.stderr)
                elif authenticated is None and _AUTHENTICATED in said:
                    authenticated = came
            if process.stdout in ready:
                answered = came
    answer = os.read(process.stdout.fileno(), 1)
    if not answer or authenticated is None:
        text = said.decode(errors="replace").strip()
        raise BenchmarkError(f"ssh was closed without an answer: {text}")
    check_hello(answer + os.read(process.stdout.fileno(), 64))
    process.stdin.close()
    process.stdout.read()
    if process.wait():
        raise BenchmarkError(f"ssh ended with status {process.returncode}")
    return authenticated - began, answered - began
