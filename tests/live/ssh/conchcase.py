# SPDX-License-Identifier: GPL-2.0-or-later

"""What the tests of 'brz lp-serve-ssh' share: one that runs, and clients of it."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import subprocess

from ....lpserve.service import processes
from ...harness import DEADLINE, descriptors_of, wait_until
from ...processes import title_of
from .sshcase import ALICE, SshClientCase
from .sshd import SshHosts


class ConchServer(SshHosts):
    """A ``brz lp-serve-ssh``, all of whose files are in one directory.

    :param brz: the words that run Breezy.
    :ivar keys: the directory with a file of public keys for each user.
    :ivar process: the server, or None.
    """

    def __init__(self, directory: str, brz: list[str]):
        super().__init__(directory)
        self._brz = brz
        self._at_rest = 0
        self.process: subprocess.Popen[bytes] | None = None
        self.host_key = os.path.join(directory, "host_key")
        self.keys = os.path.join(directory, "keys")
        os.mkdir(self.keys, 0o755)

    # -- keys and hosts --------------------------------------------------------

    def add_key(self, user: str, key: str, options: str = "") -> None:
        """Let *user* log in with the key *key*, with these options in its line."""
        path = os.path.join(self.keys, user)
        before = ""
        with contextlib.suppress(FileNotFoundError), open(path) as file:
            before = file.read()
        self.write(path, before + self._line(key, options), 0o644)

    def remove_key(self, user: str, key: str) -> None:
        """Do not let *user* log in with the key *key* any more."""
        path = os.path.join(self.keys, user)
        line = self._line(key)
        with open(path) as file:
            left = [each for each in file if not each.endswith(line)]
        self.write(path, "".join(left), 0o644)

    @staticmethod
    def _line(key: str, options: str = "") -> str:
        with open(key + ".pub") as public:
            return (options and f"{options} ") + public.read()

    def fingerprint(self, key: str) -> str:
        """The fingerprint of the key *key*, as the log has it."""
        done = subprocess.run(
            ["ssh-keygen", "-l", "-f", key + ".pub"], capture_output=True, check=True
        )
        return done.stdout.decode().split()[1]

    def allow(
        self,
        name: str,
        user: str,
        account: str | None = None,
        options: str = "",
        kind: str = "ed25519",
    ) -> str:
        """Make a key for *user*, and a host that ``ssh`` uses it for.

        :param name: of the key and of the host.
        :param account: what to log in to, if not to that of the user's name.
        :returns: the path of the private key.
        """
        key = self.make_key(name, kind)
        self.add_key(user, key, options)
        self.add_host(name, account or user, key)
        return key

    # -- the server ------------------------------------------------------------

    def start(self, *options: str, env: dict[str, str]) -> None:
        """Start it, with these options, and wait until it listens.

        :param env: its environment.
        """
        words = [
            *("lp-serve-ssh", "--listen=127.0.0.1:0"),
            *(f"--host-key={self.host_key}", f"--authorized-keys={self.keys}"),
            *options,
        ]
        with open(self.log_path, "ab") as log:
            start = log.tell()
            self.process = subprocess.Popen(
                [*self._brz, *words],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=env,
                cwd=self._directory,
            )
        found = self.wait_for_log(r"Listening on 127\.0\.0\.1:(\d+)\n", start)
        self.port = int(found[1])
        self.write_client(self.public_host_key())
        self._at_rest = self._count_descriptors()

    def public_host_key(self) -> str:
        """Its host key, as in a file of public keys."""
        words = ["ssh-keygen", "-y", "-f", self.host_key]
        return subprocess.run(words, capture_output=True, check=True).stdout.decode()

    @property
    def pid(self) -> int:
        """The process id of the server."""
        assert self.process is not None
        return self.process.pid

    def running(self) -> bool:
        """Whether it has been started and has not ended."""
        return self.process is not None and self.process.poll() is None

    def signal(self, number: int) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    def stop(self, deadline: float = DEADLINE) -> int:
        """Tell it to stop, and wait until it has; its exit status."""
        assert self.process is not None
        self.process.terminate()
        return self.wait(deadline)

    def wait(self, deadline: float = DEADLINE) -> int:
        """Wait until it has ended; its exit status."""
        assert self.process is not None
        try:
            return self.process.wait(deadline)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def kill(self) -> None:
        """End it at once."""
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()

    # -- how it is -------------------------------------------------------------

    def log(self, start: int = 0) -> str:
        """What it has logged."""
        with open(self.log_path, "rb") as log:
            log.seek(start)
            return log.read().decode("utf-8", "replace")

    def log_size(self) -> int:
        """How much it has logged, as a *start* for later."""
        return os.path.getsize(self.log_path)

    def wait_for_log(self, pattern: str, start: int = 0) -> re.Match[str]:
        """Wait until it has logged what matches *pattern*."""

        def found() -> re.Match[str] | None:
            ended = not self.running()
            log = self.log(start)
            match = re.search(pattern, log)
            if match is None and ended:
                raise AssertionError(f"it ended without {pattern!r}: {log}")
            return match

        return wait_until(found, f"{pattern!r} in the log of lp-serve-ssh")

    def records(self, start: int = 0) -> list[dict[str, str]]:
        """The lines that it has logged about connections that are over."""
        found = []
        for line in self.log(start).splitlines():
            words = line[line.find("user=") :]
            if words.startswith("user=") and " peer=" in words:
                pairs = (word.partition("=") for word in shlex.split(words))
                found.append({name: value for name, _, value in pairs})
        return found

    def wait_for_records(self, count: int, start: int = 0) -> list[dict[str, str]]:
        """Wait until it has logged this many of those lines."""

        def found() -> list[dict[str, str]] | None:
            records = self.records(start)
            return records if len(records) >= count else None

        return wait_until(found, f"{count} connections in the log of lp-serve-ssh")

    def descriptors(self) -> dict[int, str]:
        """The open descriptors of the server."""
        return descriptors_of(self.pid)

    def rss(self) -> int:
        """The bytes of memory that the server occupies now."""
        with open(f"/proc/{self.pid}/status") as status:
            match = re.search(r"VmRSS:\s+(\d+) kB", status.read())
        assert match is not None
        return int(match[1]) << 10

    def wait_until_at_rest(self) -> None:
        """Until it has no more descriptors open than when it was new."""
        wait_until(
            lambda: self._count_descriptors() == self._at_rest,
            f"lp-serve-ssh has {self._at_rest} descriptors open again",
        )

    def _count_descriptors(self) -> int:
        """How many descriptors are open in all of its processes."""
        return sum(len(descriptors_of(pid)) for pid in [self.pid, *self.processes()])

    def processes(self) -> list[int]:
        """The pids of the processes that serve connections, if there are several."""
        return [
            each.pid
            for each in processes.processes()
            if each.parent == self.pid and title_of(each.pid) == "lp-ssh-process"
        ]


class ConchTestCase(SshClientCase):
    """A service, ``lp-serve-ssh`` in front of it, and the host ``now`` there.

    Neither is started yet: `start_service`, `start_server`. At the end both have
    to be at rest, unless a test has ended them.

    :cvar ssh_processes: the setting.
    :ivar server: the server; at the host ``now`` it is alice who logs in.
    :ivar key: the path of her private key.
    """

    ssh_processes: int | str = 1

    def setUp(self):
        super().setUp()
        self.server = ConchServer(os.path.join(self.test_dir, "ssh"), self.brz())
        self.key = self.server.allow("now", "alice")
        self.configure()
        self.addCleanup(self.stop_server)

    def configure(self, **options):
        """The same; one address may do what else takes many, unless told otherwise."""
        many = {"max_startups": 500, "per_source_penalties": "no"}
        many["ssh_processes"] = self.ssh_processes
        super().configure(**{**many, **options})

    @property
    def ssh_program(self):
        return self.server.ssh

    @property
    def env(self):
        found = {**super().env, "BRZ_EMAIL": ALICE}
        if hasattr(self, "server"):
            found["BRZ_SSH"] = self.ssh_program
        return found

    def start_service(self, *options, **keywords):
        """Start a service; unless it is ended, it has to be at rest at the end."""
        started = super().start_service(*options, **keywords)
        self.addCleanup(self.check_at_rest, started)
        return started

    def start_server(self, *options, **env):
        """Start ``lp-serve-ssh`` and wait until it listens."""
        # Not in the name of a client.
        clean = {k: v for k, v in self.env.items() if k not in ("BRZ_EMAIL", "BRZ_SSH")}
        self.server.start(*options, env={**clean, **env})
        return self.server

    def stop_server(self):
        """Stop it if it runs, and have it found nothing wrong with itself."""
        if self.server.process is None:
            return
        if self.server.running():
            self.assertEqual(0, self.server.stop())
        log = self.server.log()
        for text in ("Traceback", "Unhandled", " ERROR "):
            self.assertNotIn(text, log)

    def check_at_rest(self, service):
        """No session is left, neither at the service nor at the server."""
        if service.poll() is None:
            self.assertEqual(0, self.settled_status()["workers"]["busy"])
        if self.server.running():
            self.server.wait_until_at_rest()
