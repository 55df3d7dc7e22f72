# SPDX-License-Identifier: GPL-2.0-or-later

"""ssh servers on loopback, with and without the fork service, and logins to them.

OpenSSH's sshd runs ``brz serve --inet``, lp-serve-client, or a command that only prints
an answer; ``brz lp-serve-ssh`` starts processes or asks the service. None needs root.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence

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
#: What serves the connections of an ssh server.
PROCESS, SERVICE, NOTHING = "process", "service", "nothing"
#: The ssh server, and what serves its connections.
Host = tuple[str, str]
#: The command that a Bazaar client sends.
COMMAND = "bzr serve --inet --directory=/ --allow-writes"
#: As Breezy calls ssh (breezy.transport.ssh); VERBOSE has it tell of the login.
_AS_BREEZY = (
    *("-oForwardX11=no", "-oForwardAgent=no", "-oClearAllForwardings=yes"),
    *("-oNoHostAuthenticationForLocalhost=yes", "-oLogLevel=VERBOSE"),
)
_AUTHENTICATED = b"Authenticated to "
#: These keep the account's own keys and known hosts out.
_ALONE = (
    *("-F", "none", "-oIdentitiesOnly=yes", "-oIdentityAgent=none", "-oBatchMode=yes"),
    *("-oStrictHostKeyChecking=no", "-oUserKnownHostsFile=/dev/null"),
)
#: Answers ``hello`` as a smart server does, and waits for the end of file.
_PRINT = f"echo '{HELLO.decode().strip()}'; exec cat >/dev/null"


@contextlib.contextmanager
def hosts(stage: Stage) -> Iterator[tuple[Service, dict[Host, list[str]]]]:
    """A service, and the options of ``ssh`` for each of the hosts."""
    client = shlex.join([os.path.join(PLUGIN, "bin", "lp-serve-client"), USER])
    inet = shlex.join(stage.inet_words())
    with contextlib.ExitStack() as stack:
        service = stack.enter_context(stage.service())
        never_started = stage.service("nothing")
        today = stage.environ("today")
        made: dict[Host, list[str]] = {}
        for served_by, command, environ in (
            (NOTHING, _PRINT, today),
            (PROCESS, inet, today),
            (SERVICE, client, service.environ),
        ):
            sshd = stack.enter_context(_sshd(stage, served_by, command, environ))
            made[SSHD, served_by] = sshd
        for served_by, environ in (
            (PROCESS, never_started.environ),
            (SERVICE, service.environ),
        ):
            server = stack.enter_context(SshServer(stage, served_by, environ))
            made[LP_SERVE_SSH, served_by] = server.ssh()
        yield service, made


@contextlib.contextmanager
def _sshd(
    stage: Stage, name: str, command: str, environ: dict[str, str]
) -> Iterator[list[str]]:
    """An sshd with the forced command *command*; the options of ``ssh`` for it."""
    directory = os.path.join(stage.path, f"sshd-{name}")
    try:
        sshd = Sshd(directory, environ)
        sshd.allow("host", command)
        sshd.start(environ, DEADLINE)
        try:
            yield ["-F", os.path.join(directory, "ssh_config"), "host"]
            sshd.stop(DEADLINE)
        finally:
            sshd.kill()
    except SshdError as error:
        raise BenchmarkError(str(error)) from None


class SshServer(Daemon):
    """A ``brz lp-serve-ssh``.

    :param environ: its environment, with a breezy.conf that names the service.
    :ivar directory: the directory of its files: keys/ has those who may log in.
    :ivar port: where it listens.
    """

    def __init__(self, stage: Stage, name: str, environ: dict[str, str]):
        super().__init__(stage, f"lp-serve-ssh-{name}", environ)
        self.directory = os.path.join(stage.path, f"lp-serve-ssh-{name}")

    def __enter__(self) -> SshServer:
        keys = os.path.join(self.directory, "keys")
        os.makedirs(keys, 0o700)
        self._key = make_key(self.directory, USER)
        host_key = make_key(self.directory, "host_key")
        shutil.copy(self._key + ".pub", os.path.join(keys, USER))
        words = [f"--host-key={host_key}", f"--authorized-keys={keys}"]
        place = self.start("lp-serve-ssh", "--listen=127.0.0.1:0", *words)
        self.port = int(place.rpartition(":")[2])
        return self

    def __exit__(self, *exc: object) -> None:
        self._process.terminate()
        self.stop()

    def ssh(self, key: str = "", user: str = USER) -> list[str]:
        """The options of ``ssh`` that log in to it, with the right key unless given."""
        words = ["-p", str(self.port), "-i", key or self._key, "-l", user]
        return [*_ALONE, *words, "127.0.0.1"]


def connect(ssh: Sequence[str]) -> tuple[float, float]:
    """Connect with OpenSSH's ``ssh`` and say ``hello``.

    :param ssh: the options for the host.
    :returns: milliseconds from the exec of ``ssh`` to the end of the handshake, and to
        the first byte of the smart server's answer.
    """
    words = ["ssh", *_AS_BREEZY, *ssh, COMMAND]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    began = time.perf_counter()
    with subprocess.Popen(words, bufsize=0, **pipes) as process:
        timer = threading.Timer(DEADLINE, process.kill)
        timer.start()
        try:
            process.stdin.write(b"hello\n")
            said = line = process.stderr.readline()
            while not line.startswith(_AUTHENTICATED):
                if not line:
                    raise BenchmarkError(f"no login: {said.decode(errors='replace')}")
                line = process.stderr.readline()
                said += line
            authenticated = time.perf_counter()
            answer = process.stdout.read(64)
            answered = time.perf_counter()
            check_hello(answer)
            process.stdin.close()
            process.stdout.read()
        except BaseException:
            process.kill()
            raise
        finally:
            timer.cancel()
    if process.returncode:
        raise BenchmarkError(f"ssh ended with status {process.returncode}")
    return (authenticated - began) * 1000, (answered - began) * 1000
