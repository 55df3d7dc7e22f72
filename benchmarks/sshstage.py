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
import selectors
import shlex
import shutil
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
    Daemon,
    Service,
    Stage,
    check_hello,
)

sys.path.insert(0, os.path.join(PLUGIN, "tests", "live", "ssh"))

from sshd import Sshd, SshdError, make_key

SSHD, LP_SERVE_SSH = "sshd", "lp-serve-ssh"
#: By what a host has its connections served.
PROCESS, SERVICE, NOTHING = "process", "service", "nothing"
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
Host *
    HostName 127.0.0.1
    Port {port}
    User {user}
    IdentityFile "{key}"
    UserKnownHostsFile /dev/null
    GlobalKnownHostsFile /dev/null
    StrictHostKeyChecking no
    IdentitiesOnly yes
    IdentityAgent none
    BatchMode yes
    LogLevel ERROR
"""


@dataclass(frozen=True)
class Host:
    """An ssh server that serves the stage's root.

    :ivar server: `SSHD` or `LP_SERVE_SSH`.
    :ivar served_by: `PROCESS`, `SERVICE` or `NOTHING`.
    :ivar config: a configuration for ``ssh`` in which every host is it.
    """

    server: str
    served_by: str
    config: str


@contextlib.contextmanager
def hosts(stage: Stage) -> Iterator[tuple[Service, list[Host]]]:
    """A service, and the hosts."""
    with contextlib.ExitStack() as stack:
        service = stack.enter_context(stage.service())
        # Configured alike, and never started.
        nothing = stage.service("nothing")
        client = [os.path.join(PLUGIN, "bin", "lp-serve-client"), USER]
        today = stage.environ("today")
        made = []
        for served_by, command, environ in (
            (NOTHING, _PRINT, today),
            (PROCESS, shlex.join(stage.inet_words()), today),
            (SERVICE, shlex.join(client), service.environ),
        ):
            config = stack.enter_context(_sshd(stage, served_by, command, environ))
            made.append(Host(SSHD, served_by, config))
        for served_by, environ in (
            (PROCESS, nothing.environ),
            (SERVICE, service.environ),
        ):
            server = stack.enter_context(SshServer(stage, served_by, environ))
            made.append(Host(LP_SERVE_SSH, served_by, server.config))
        yield service, made


@contextlib.contextmanager
def _sshd(
    stage: Stage, name: str, command: str, environ: dict[str, str]
) -> Iterator[str]:
    """An sshd whose only command is *command*; a configuration for ``ssh``."""
    directory = os.path.join(stage.path, f"sshd-{name}")
    try:
        sshd = Sshd(directory, environ)
        # By this name its configuration for ssh has the key.
        sshd.allow("host", command)
        sshd.start(environ, DEADLINE)
        try:
            yield os.path.join(directory, "ssh_config")
            sshd.stop(DEADLINE)
        finally:
            sshd.kill()
    except SshdError as error:
        raise BenchmarkError(str(error)) from None


class SshServer(Daemon):
    """A 'brz lp-serve-ssh'.

    :param environ: its environment, with a breezy.conf that names the service.
    :ivar directory: where its files are: keys/ has those who may log in.
    :ivar port: where it listens.
    :ivar config: a configuration for ``ssh`` in which every host is it.
    """

    def __init__(self, stage: Stage, name: str, environ: dict[str, str]):
        super().__init__(stage, f"lp-serve-ssh-{name}", environ)
        self.directory = os.path.join(stage.path, f"lp-serve-ssh-{name}")
        self.config = os.path.join(self.directory, "ssh_config")

    def __enter__(self) -> SshServer:
        keys = os.path.join(self.directory, "keys")
        os.makedirs(keys, 0o700)
        key = make_key(self.directory, USER)
        host_key = make_key(self.directory, "host_key")
        shutil.copy(key + ".pub", os.path.join(keys, USER))
        words = [f"--host-key={host_key}", f"--authorized-keys={keys}"]
        place = self.start("lp-serve-ssh", "--listen=127.0.0.1:0", *words)
        self.port = int(place.rpartition(":")[2])
        quoted = key.replace("%", "%%")
        with open(self.config, "w") as file:
            file.write(_CLIENT.format(port=self.port, user=USER, key=quoted))
        return self

    def __exit__(self, *exc: object) -> None:
        self._process.terminate()
        self.stop()


def connect(config: str) -> tuple[float, float]:
    """Connect with the ``ssh`` of this system and say ``hello``.

    :returns: milliseconds from the exec of ``ssh`` until the server has let it in, and
        until the first byte of the smart server's answer has come.
    """
    words = ["ssh", "-F", config, *_OPTIONS, "host", COMMAND]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    began = time.perf_counter()
    with subprocess.Popen(words, bufsize=0, **pipes) as process:
        try:
            authenticated, answered = _moments(process)
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        raise BenchmarkError(f"ssh ended with status {process.returncode}")
    return (authenticated - began) * 1000, (answered - began) * 1000


def _moments(process: subprocess.Popen[bytes]) -> tuple[float, float]:
    """When it had been let in and when the answer began; ends it."""
    process.stdin.write(b"hello\n")
    said, authenticated, answered = b"", None, None
    with selectors.DefaultSelector() as selector:
        for stream in (process.stderr, process.stdout):
            selector.register(stream, selectors.EVENT_READ)
        while answered is None:
            ready = [key.fileobj for key, _ in selector.select(DEADLINE)]
            came = time.perf_counter()
            if not ready:
                raise BenchmarkError("no answer through ssh")
            if process.stderr in ready:
                data = process.stderr.read(4096)
                said += data
                if not data:
                    selector.unregister(process.stderr)
                elif authenticated is None and _AUTHENTICATED in said:
                    authenticated = came
            if process.stdout in ready:
                answered = came
    answer = process.stdout.read(64)
    if not answer or authenticated is None:
        text = said.decode(errors="replace").strip()
        raise BenchmarkError(f"ssh was closed without an answer: {text}")
    check_hello(answer)
    process.stdin.close()
    process.stdout.read()
    return authenticated, answered
