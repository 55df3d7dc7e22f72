# SPDX-License-Identifier: GPL-2.0-or-later

"""The units in deploy/: as systemd reads them, and what they let the service do."""

import grp
import os
import pwd
import shutil
import stat
import subprocess
import sys

from breezy.tests import TestCaseInTempDir, features

from ...harness import DEADLINE, PLUGIN
from ..metrics.exportercase import ExporterTestCase
from ..ssh.conchcase import ConchTestCase
from ..ssh.sshcase import SERVE
from ..warm.warmcase import SAME_ORDER, WarmCase
from .systemdcase import SystemdCase

DEPLOY = os.path.join(PLUGIN, "deploy")
SERVICES = ("lpserve.service", "lpserve-ssh.service")
EXPORTER = "lpserve-exporter.service"
UNITS = (*SERVICES, EXPORTER)
HELLO = b"ok\x012\n"
HARDENED = os.path.join(PLUGIN, "tests", "live", "systemd", "hardened.py")

#: What the units must not let anybody do, and what is needed: each a line of Python
#: that says "ok" or the name of the error.
TRIES = {
    "open('/etc/lpserve-test', 'w')": "EROFS",
    "open('/proc/sys/kernel/hostname', 'w')": "EROFS",
    "open('/dev/mem')": "ENOENT",
    "os.chroot('/')": "EPERM",
    "os.setuid(1)": "EPERM",
    "check(libc.unshare(0x10000000))": "EPERM",
    "check(libc.unshare(0x20000))": "EPERM",
    "check(libc.personality(0x40000))": "EPERM",
    "check(libc.mount(b'x', b'/tmp', b'tmpfs', 0, None))": "EPERM",
    "check(libc.ptrace(0, 0, 0, 0))": "EPERM",
    "os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))": "EPERM",
    "mmap.mmap(-1, 4096, prot=7)": "EPERM",
    "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)": "EAFNOSUPPORT",
    "socket.socket(socket.AF_PACKET, socket.SOCK_RAW)": "EAFNOSUPPORT",
    "socket.socket(socket.AF_INET6)": "ok",
    "os.nice(1)": "ok",
    "os.chmod('writable', 0o2775)": "ok",
    "os.chown('writable', os.getuid(), os.getgid())": "ok",
    "check(libc.syscall(444, None, 0, 1))": "ok",
}
TRY = """
import ctypes, errno, mmap, os, socket, sys
libc = ctypes.CDLL(None, use_errno=True)

def check(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), "")

for line in sys.stdin.read().splitlines():
    try:
        exec(line)
        print("ok")
    except OSError as error:
        print(errno.errorcode[error.errno])
with open("/proc/self/status") as file:
    print([line.split()[1] for line in file if line.startswith(("CapEff", "CapBnd"))])
"""


class _Systemd(features.Feature):
    def _probe(self):
        return all(map(shutil.which, ("systemd-analyze", "systemd-socket-activate")))

    def feature_name(self):
        return "systemd-analyze (Debian's package systemd)"


systemd_feature = _Systemd()


class TestFiles(TestCaseInTempDir):
    """What systemd-analyze says of them."""

    def setUp(self):
        super().setUp()
        self.requireFeature(systemd_feature)
        # There is no account bzr here.
        user, group = pwd.getpwuid(1).pw_name, grp.getgrgid(1).gr_name
        for name in (*UNITS, "lpserve.socket"):
            with open(os.path.join(DEPLOY, name)) as file:
                text = file.read()
            text = text.replace("User=bzr", f"User={user}")
            text = text.replace("Group=bzr", f"Group={group}")
            text = text.replace("/usr/local/bin/brz", "/bin/true")
            with open(name, "w") as file:
                file.write(text)

    def analyze(self, *words):
        return subprocess.run(
            ["systemd-analyze", "--no-pager", *words],
            capture_output=True,
            text=True,
            check=False,
            timeout=DEADLINE,
        )

    def test_verify(self):
        """No directive is unknown, misspelt or has a value that makes no sense."""
        version = int(self.analyze("--version").stdout.split()[1])
        done = self.analyze("verify", "--man=no", *(f"./{each}" for each in UNITS))
        self.assertEqual(0, done.returncode, done.stderr)
        said = done.stderr.splitlines()
        if version < 253:  # see deploy/before-systemd-253.conf
            unknown = "Failed to parse service type, ignoring: notify-reload"
            said = [line for line in said if not line.endswith(unknown)]
        self.assertEqual([], said)

    def test_verify_before_253(self):
        """What is to be added for an old systemd."""
        for name in SERVICES:
            with open(name) as file:
                text = file.read()
            with open(name, "w") as file:
                file.write(text.replace("Type=notify-reload\n", ""))
            os.mkdir(f"{name}.d")
            shutil.copy(
                os.path.join(DEPLOY, "before-systemd-253.conf"), f"{name}.d/old.conf"
            )
        done = self.analyze("verify", "--man=no", *(f"./{each}" for each in SERVICES))
        self.assertEqual((0, ""), (done.returncode, done.stderr))

    def test_exposure(self):
        """At most 2.0."""
        for name in UNITS:
            done = self.analyze(
                "security", "--offline=yes", "--threshold=20", f"./{name}"
            )
            self.assertEqual(0, done.returncode, done.stdout)
            self.assertContainsRe(done.stdout, "Overall exposure level for lpserve")

    def test_alike(self):
        """Both may do the same: without a service the ssh server serves by itself."""
        texts = []
        for name in SERVICES:
            with open(name) as file:
                text = file.read().partition("NoNewPrivileges=yes\n")[2]
            texts.append(text.partition("[Install]")[0])
        self.assertEqual(*texts)


class HardenedCase(SystemdCase):
    """What a unit lets the service do is tried by hardened.py."""

    unit = "lpserve.service"

    def setUp(self):
        super().setUp()
        self.requireFeature(systemd_feature)

    def harden(self, argv):
        """The words that run *argv* with what the unit allows."""
        writable = [self.test_dir, self.runtime]
        unit = os.path.join(DEPLOY, self.unit)
        return [sys.executable, HARDENED, unit, *writable, "--", *argv]

    def assertHardened(self, pid):
        """The process *pid* has what the unit lets it have."""
        with open(f"/proc/{pid}/status") as file:
            found = dict(line.split(":", 1) for line in file)
        wanted = {"NoNewPrivs": 1, "Seccomp": 2, "CapEff": 0, "CapBnd": 0}
        self.assertEqual(wanted, {each: int(found[each], 16) for each in wanted})


class TestLimits(HardenedCase):
    def test_tried(self):
        """What must not be done is refused, and what is needed is not."""
        os.mkdir("writable")
        for self.unit in SERVICES:
            done = self.run_program(
                self.harden([sys.executable, "-c", TRY]), "\n".join(TRIES).encode()
            )
            self.assertEqual(b"", done.stderr)
            *found, capabilities = done.stdout.decode().splitlines()
            self.assertEqual(TRIES, dict(zip(TRIES, found, strict=True)))
            self.assertEqual(str(["0" * 16] * 2), capabilities)
        self.assertEqual(0o2775, stat.S_IMODE(os.stat("writable").st_mode))


class TestService(HardenedCase, WarmCase):
    rehearses = True

    def brz(self, *words):
        argv = super().brz(*words)
        if "--fork-server" not in words:
            return argv
        # Before systemd's part, by which the pid is known.
        return self.harden(argv)

    def test_service(self):
        """The service, its zygotes, workers and loaders do all that they have to."""
        self.make_doors()
        # Only Breezy's plug-ins, so that there is a sandbox.
        del self.plugins["busyhouse"]
        os.chmod(self.root, 0o2775)
        tip = self.make_branch("one")
        os.chmod(os.path.join(self.root, "one", ".bzr"), 0o2775)
        self.configure(warm_interval=0)
        service = self.start_service(**SAME_ORDER)
        self.rest()
        status = self.status()
        self.assertEqual("writes", status["sandbox"]["holds"])
        self.assertEqual([], status["warnings"])
        for pid in (service.pid, status["zygote"]):
            self.assertHardened(pid)
        for self.door in ("fifo", "socket"):
            asker, made = self.warm_client()
            self.assertHardened(made.pid)
            self.finish(asker, made)
            # A shared directory, in which what is made has the setgid bit.
            path = f"bzr+ssh://host/{self.door}"
            self.run_brz("branch", "-q", "bzr+ssh://host/one", path)
            self.assertEqual(
                f"{tip.decode()}\n",
                self.run_brz(
                    "version-info", "--custom", "--template={revision_id}\\n", path
                ).stdout.decode(),
            )
        self.wait_warm("one")
        self.wait_stored(3)
        service.send_signal(1)
        self.wait_for(RELOADING="1")
        self.wait_for(READY="1")
        said = self.log_text()
        self.assertNotContainsRe(said, "WARNING|ERROR|Traceback")


class TestSshServer(HardenedCase, ConchTestCase):
    unit = "lpserve-ssh.service"

    def test_server(self):
        """By the service, and without one."""
        self.server._brz = self.harden(self.server._brz)
        self.server.allow("alice", "alice")
        self.configure(directory=self.root)
        self.start_service()
        self.wait_for(READY="1")
        self.start_server(NOTIFY_SOCKET=self.notify_name)
        self.assertHardened(self.server.pid)
        self.assertStartsWith(self.wait_for(READY="1")["STATUS"], "Listening on ")
        words = [self.server.ssh, "alice", *SERVE]
        for served in ("worker", "process"):
            done = self.run_program(words, b"hello\n")
            self.assertEqual((0, HELLO), (done.returncode, done.stdout), done.stderr)
            if served == "worker":
                self.assertEqual(0, self.stop_service())
                self.receive_all()
        self.server.signal(1)
        self.wait_for(RELOADING="1")
        self.assertStartsWith(self.wait_for(READY="1")["STATUS"], "Listening on ")
        self.server.stop()
        self.wait_for(STOPPING="1")


class TestExporter(HardenedCase, ExporterTestCase):
    unit = EXPORTER

    def brz(self, *words):
        argv = super().brz(*words)
        # Both, because one without capabilities may not look at one that has them.
        self.unit = EXPORTER if "lp-serve-exporter" in words else SERVICES[0]
        return self.harden(argv)

    def test_exporter(self):
        """It has all metrics, those of /proc too, and asks for health."""
        self.start_service()
        self.start_exporter(BRZ_LOG="/dev/null")
        self.assertHardened(self.exporter.pid)
        found = self.samples()
        for process in ("service", "zygote", "workers"):
            name = f'lpserve_proportional_memory_bytes{{process="{process}"}}'
            self.assertTrue(found[name] > 1 << 16, found)
        self.assertEqual("healthy\n", self.get("/healthz"))
