# SPDX-License-Identifier: GPL-2.0-or-later

"""Three hosts that serve one tree, and HAProxy in front of them, all on loopback.

Each host has an address, a runtime directory, a breezy.conf, a fork service and a
'brz lp-serve-ssh' of its own. HAProxy has the configuration deploy/haproxy.cfg, with
the addresses of these hosts in it. HAProxy's log tells which host each connection
was sent to.
"""

from __future__ import annotations

import contextlib
import csv
import os
import shlex
import shutil
import signal
import socket
import subprocess
import tempfile
import time

from .place import CHECKOUT, DEADLINE, USER, DemoError, Place, brz, end

#: As deploy/haproxy.cfg has them, with the last part of their addresses.
NAMES = {"one": 11, "two": 12, "three": 13}
#: The last part of HAProxy's address.
FRONT = 10
PORT, AGENT_PORT = 5022, 5023
#: A plug-in: Breezy writes the name of the host into locks.
_NAMED = "from breezy import lockdir\nlockdir.get_host_name = lambda: {!r}\n"
_CONF = """\
[DEFAULT]
lpserve.directory = {tree}
lpserve.allow_writes = True
lpserve.host_key = {key}
lpserve.authorized_keys = {keys}
lpserve.listen = {address}:{port}
lpserve.proxy_protocol_from = 127.0.0.1
lpserve.agent_listen = {address}:{agent}
# Otherwise the plug-in that names the host would turn it off.
lpserve.sandbox = writes
"""
#: LPSERVE_FROM is the address that a connection is to come from.
_SSH = """\
#!/bin/sh
exec {ssh} -F {config} -o StrictHostKeyChecking=accept-new \\
    ${{LPSERVE_FROM:+-b "$LPSERVE_FROM"}} "$@"
"""


class Host(Place):
    """One host.

    :param directory: for all that is its own.
    :param place: what it serves, and to whom: ``tree``, ``key`` and ``keys``, paths.
    """

    def __init__(
        self,
        name: str,
        address: str,
        directory: str,
        place: dict[str, str],
        extra: dict[str, str] | None,
    ):
        super().__init__(directory, extra)
        self.name = name
        self.address = address
        self._servers: list[subprocess.Popen[bytes]] = []
        os.makedirs(self.path("home", "breezy"))
        os.mkdir(self.path("named"))
        self._write(_NAMED.format(name).encode(), 0o644, "named", "__init__.py")
        text = _CONF.format(address=address, port=PORT, agent=AGENT_PORT, **place)
        self._write(text.encode(), 0o644, "home", "breezy", "breezy.conf")

    @property
    def env(self) -> dict[str, str]:
        """The environment of its processes."""
        found = super().env
        plugins = [found.get("BRZ_PLUGINS_AT"), f"named@{self.path('named')}"]
        return {**found, "BRZ_PLUGINS_AT": ":".join(filter(None, plugins))}

    def start(self) -> None:
        """Start the service and lp-serve-ssh.

        :raises DemoError: if one of them does not start.
        """
        for words, log in (
            (("lp-serve", "--fork-server"), "service.log"),
            (("lp-serve-ssh",), "ssh.log"),
        ):
            with contextlib.suppress(FileNotFoundError):
                os.rename(self.path(log), self.path(f"{log}.{time.time():.0f}"))
            self._servers.append(self._start(brz(*words), self.path(log))[0])

    def control(self, *words: str) -> str:
        """Run ``brz lp-serve-control``; what it says.

        :raises DemoError: if it fails.
        """
        done = subprocess.run(
            brz("lp-serve-control", *words),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=self.env,
            timeout=DEADLINE,
            check=False,
        )
        if done.returncode:
            said = done.stderr.decode("utf-8", "replace").strip()
            raise DemoError(f"host {self.name}: {' '.join(words)}: {said}")
        return done.stdout.decode("utf-8", "replace")

    def upgrade(self) -> None:
        """Have new code serve, without a gap.

        :raises DemoError: if the old code goes on.
        """
        self.control("upgrade")
        log = self.path("ssh.log")
        start = os.path.getsize(log)
        # The first process passes it on to the one that serves.
        self._servers[-1].send_signal(signal.SIGUSR2)
        limit = time.monotonic() + DEADLINE
        while time.monotonic() < limit:
            with open(log, "rb") as file:
                file.seek(start)
                said = file.read().decode("utf-8", "replace")
            if " serves now\n" in said:
                return
            if "cannot upgrade: " in said:
                break
            time.sleep(0.05)
        raise DemoError(f"host {self.name}: lp-serve-ssh: {said.strip()}")

    def processes(self) -> list[int]:
        """The pids of all its processes: they have the runtime directory."""
        wanted = f"LPSERVE_RUNTIME_DIR={self.path('run')}".encode()
        found = []
        for name in filter(str.isdigit, os.listdir("/proc")):
            with (
                contextlib.suppress(OSError),
                open(f"/proc/{name}/environ", "rb") as it,
            ):
                if wanted in it.read().split(b"\0"):
                    found.append(int(name))
        return found

    def kill(self) -> list[int]:
        """End all processes at once, as a power cut does; their pids."""
        killed = []
        # What is forked meanwhile is found the next time.
        while found := self.processes():
            for pid in found:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            killed += found
        for each in self._servers:
            each.wait(DEADLINE)
        self._servers.clear()
        return killed

    def stop(self) -> None:
        """Stop both."""
        while self._servers:
            end(self._servers.pop())


class Cluster:
    """See the module.

    :param directory: its path; to be made.
    :param network: the first three parts of the addresses; `free_network` finds some.
    :param extra: further variables for the environment of all processes.
    :ivar hosts: by name.
    :ivar client: where users are: their keys and ``ssh``.
    :ivar tree: the directory that all hosts serve.
    """

    def __init__(
        self,
        directory: str,
        network: str = "127.0.0",
        extra: dict[str, str] | None = None,
    ):
        self.address = f"{network}.{FRONT}"
        self.tree = os.path.join(directory, "tree")
        self.client = Place(os.path.join(directory, "client"), extra)
        self.log = os.path.join(directory, "haproxy.log")
        place = {
            "tree": self.tree,
            "key": self.client.path("host_key"),
            "keys": self.client.path("keys"),
        }
        for path in (self.tree, self.client.path("home")):
            os.makedirs(path)
        self.hosts = {
            name: Host(
                name,
                f"{network}.{last}",
                os.path.join(directory, name),
                place,
                extra,
            )
            for name, last in NAMES.items()
        }
        self._directory = directory
        self._haproxy: subprocess.Popen[bytes] | None = None
        # A short path: a socket is bound to it.
        self._short = ""

    @property
    def url(self) -> str:
        """Of what is served."""
        return f"bzr+ssh://{USER}@{self.address}:{PORT}"

    def start(self) -> None:
        """Start all, and wait until HAProxy uses all hosts.

        :raises DemoError: if something does not start, or is not installed.
        """
        program = shutil.which(
            "haproxy", path=os.environ.get("PATH", os.defpath) + ":/usr/sbin"
        )
        if program is None or self.client.ssh is None:
            raise DemoError("needs haproxy and ssh: Debian's packages have these names")
        self.client.make_client()
        self._make_ssh(self.client.ssh)
        for host in self.hosts.values():
            host.start()
        self._start_haproxy(program)
        for name in self.hosts:
            self.wait_for(name, "UP")

    def _make_ssh(self, ssh: str) -> None:
        config = self.client.path("ssh_config")
        text = _SSH.format(ssh=shlex.quote(ssh), config=shlex.quote(config))
        with open(self.client.path("ssh"), "w") as file:
            file.write(text)

    def _start_haproxy(self, program: str) -> None:
        self._short = tempfile.mkdtemp(prefix="lpserve-")
        with open(os.path.join(CHECKOUT, "deploy", "haproxy.cfg")) as file:
            text = file.read()
        for old, new in (
            ("log /dev/log local0", "log stdout format raw local0"),
            ("maxconn 20000", "maxconn 200"),
            ("/run/haproxy/admin.sock", os.path.join(self._short, "admin")),
            ("bind :22", f"bind {self.address}:{PORT}"),
            *(
                (f"192.0.2.{last}:{PORT}", f"{self.hosts[name].address}:{PORT}")
                for name, last in NAMES.items()
            ),
        ):
            if old not in text:
                raise DemoError(f"deploy/haproxy.cfg has no {old!r}")
            text = text.replace(old, new)
        path = os.path.join(self._directory, "haproxy.cfg")
        with open(path, "w") as file:
            file.write(text)
        with open(self.log, "ab") as log:
            self._haproxy = subprocess.Popen(
                [program, "-db", "-f", path],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Its log has the local time.
                env={**self.client.env, "TZ": "UTC"},
                start_new_session=True,
            )

    def states(self) -> dict[str, str]:
        """What HAProxy says of each host, by name: UP, DRAIN, MAINT or DOWN...

        :raises OSError: if it does not answer.
        """
        with socket.socket(socket.AF_UNIX) as link:
            link.settimeout(DEADLINE)
            link.connect(os.path.join(self._short, "admin"))
            link.sendall(b"show stat\n")
            with link.makefile() as answer:
                rows = list(csv.DictReader(answer))
        return {
            row["svname"]: row["status"] for row in rows if row["svname"] in self.hosts
        }

    def wait_for(self, name: str, wanted: str) -> float:
        """Wait until this is HAProxy's word for a host; the seconds that it took.

        :raises DemoError: if that takes long, or HAProxy has ended.
        """
        assert self._haproxy is not None
        began = time.monotonic()
        found = "nothing"
        while time.monotonic() < began + DEADLINE:
            if self._haproxy.poll() is not None:
                raise DemoError(f"HAProxy has ended: see {self.log}")
            with contextlib.suppress(OSError):
                found = self.states()[name]
                # "UP 1/2" is on its way to DOWN.
                if found == wanted or found.startswith(f"{wanted} ("):
                    return time.monotonic() - began
            time.sleep(0.01)
        raise DemoError(f"HAProxy says of host {name}: {found}, not {wanted}")

    # -- what happens to hosts; each returns the seconds until HAProxy has noticed ---

    def drain(self, name: str) -> float:
        """Have HAProxy send no more connections to a host."""
        self.hosts[name].control("drain", "back in five minutes")
        return self.wait_for(name, "DRAIN")

    def resume(self, name: str) -> float:
        """Have HAProxy send connections there again."""
        self.hosts[name].control("resume")
        return self.wait_for(name, "UP")

    def lose(self, name: str) -> tuple[list[int], float]:
        """Kill all of a host; the pids as well."""
        killed = self.hosts[name].kill()
        return killed, self.wait_for(name, "DOWN")

    def bring_back(self, name: str) -> float:
        """Start it again."""
        self.hosts[name].start()
        return self.wait_for(name, "UP")

    def stop(self) -> None:
        """Stop everything."""
        if self._haproxy is not None:
            end(self._haproxy)
            self._haproxy = None
        for host in self.hosts.values():
            host.stop()
        if self._short:
            shutil.rmtree(self._short)
            self._short = ""


def free_network() -> str:
    """Three parts of addresses that no other cluster has now."""
    for number in range(os.getpid(), os.getpid() + 10000):
        network = f"127.{16 + number // 250 % 64}.{number % 250}"
        with contextlib.suppress(OSError), socket.socket() as tried:
            tried.bind((f"{network}.{FRONT}", PORT))
            return network
    raise DemoError("no addresses are free")
