# SPDX-License-Identifier: GPL-2.0-or-later

"""'lp-serve-setup check' greets what runs."""

import os
import re
import signal
from dataclasses import replace

from ....lpserve.installation import checkdoors
from ....lpserve.installation.asaccount import check_as_account
from ....lpserve.settings import read_settings
from ...harness import wait_until
from ...installation.installationcase import changed_environ, read, write
from ..ssh.sshcase import sshd_feature
from ..ssh.sshd import Sshd
from .runningcase import RunningCase


class TestCheck(RunningCase):
    def test_sound(self):
        """A worker answers through both doors, and through authorized_keys."""
        self.start_service()
        before = sorted(self.installed())
        found = self.findings(0)
        self.assertEqual({"note"}, {severity for severity, _ in found})
        # Two doors, and the first line of authorized_keys.
        self.wait_for_totals(spawned=3, ended=3)
        self.assertEqual(before, sorted(self.installed()))
        done = self.setup("check")
        self.assertEqual((0, b""), (done.returncode, done.stderr))
        self.assertEndsWith(done.stdout, b"\nno problems found\n")

    def installed(self):
        """All files, with the times of their last changes, but for those of brz."""
        for directory, _, names in os.walk(self.installation.top):
            for name in names:
                path = os.path.join(directory, name)
                if "/home/.cache" not in path and "/run/" not in path:
                    yield path, os.lstat(path).st_mtime_ns

    def test_without_service(self):
        found = self.findings(1)
        problems = [what for severity, what in found if severity != "note"]
        self.assertEqual(2, len(problems), problems)
        self.assertContainsRe(problems[0], ":1: the command serves a client without")
        self.assertContainsRe(problems[1], "no service runs in .*: each connection")

    def test_client_elsewhere(self):
        """A command that looks for the service where it is not."""
        self.start_service()
        text = read(self.installation.lines)
        elsewhere = text.replace(
            "lp-serve-client ", "lp-serve-client --runtime-dir=/x "
        )
        write(self.installation.lines, elsewhere, 0o600)
        [what] = [what for severity, what in self.findings(1) if severity != "note"]
        self.assertContainsRe(what, ":1: the command serves a client without the serv")

    def test_doors(self):
        """A service that cannot serve, is of another version, or does not answer."""
        service = self.start_service()
        environ = {"HOME": self.installation.path("home"), "PATH": self.env["PATH"]}
        place = self.installation.place()

        def check(place=place):
            with changed_environ(environ):
                found = checkdoors.check_doors(place, read_settings())
                return sorted({re.sub(" [/0-9].*", "", each.what) for each in found})

        self.assertEqual([], check())
        [what] = check(replace(place, version="9"))
        self.assertContainsRe(what, "the service that runs is lpserve")
        os.rename(self.root, self.root + ".away")
        found = check()
        self.assertEqual(2, len(found), found)
        for door, what in zip(("fifo", "socket"), found):
            self.assertContainsRe(what, f"no worker answers through the {door}: ")
        os.rename(self.root + ".away", self.root)
        self.overrideAttr(checkdoors, "PATIENCE", 0.1)
        service.send_signal(signal.SIGSTOP)
        self.addCleanup(service.send_signal, signal.SIGCONT)
        with changed_environ(environ):
            found = [*checkdoors.check_doors(place, read_settings())]
        service.send_signal(signal.SIGCONT)
        for door, finding in zip(("fifo", "socket"), found, strict=True):
            self.assertContainsRe(
                finding.what, f"does not answer through the {door}: .*does not answer"
            )

    def test_sshd(self):
        """It is there: nothing is noted."""
        self.requireFeature(sshd_feature)
        self.start_service()
        sshd = Sshd(os.path.join(self.test_dir, "sshd"), super().env)
        sshd.allow("now", f"{self.installation.client} alice")
        self.addCleanup(sshd.stop)
        sshd.start(self.env)
        config = os.path.join(self.test_dir, "sshd", "sshd_config")
        found = self.findings(0, **{"sshd-config": config})
        self.assertEqual([], [what for _, what in found if "sshd does not" in what])
        self.wait_for_totals(spawned=3)

    def test_lp_serve_ssh(self):
        """It exchanges keys."""
        self.requireFeature(sshd_feature)
        self.start_service()
        os.unlink(self.installation.path("host_key"))
        self.set("listen", "127.0.0.1:0")
        log = self.installation.path("log/ssh.log")
        with open(log, "wb") as file:
            popen = {"stdout": file, "stderr": file}
            server = self.start_words([self.installation.brz, "lp-serve-ssh"], popen)
        self.addCleanup(server.terminate)

        def port():
            found = re.search(r"[Ll]istening on .*:(\d+)", read(log))
            return found and found[1]

        self.set("listen", f"127.0.0.1:{wait_until(port, 'it listens')}")
        found = [what for _, what in self.findings(0) if "lp-serve-ssh" in what]
        self.assertEqual([], found)

    def test_as_account(self):
        """Root's check is made by the account, to which sshd's answer is handed on."""
        if os.geteuid() != 0:
            self.skipTest("only root can become another user")
        self.start_service()
        place = replace(self.installation.place(), brz=(self.installation.brz,))
        said = "!sshd: no such line"
        options = [f"--units={place.units[0]}"]
        found = check_as_account(place, options)
        self.assertEqual({"note"}, {each.severity for each in found}, found)
        found = check_as_account(replace(place, sshd_said=said), options)
        self.assertEqual("sshd: sshd: no such line", found[0].what)
        gone = replace(place, brz=("/no/brz",))
        [finding] = check_as_account(gone, options)
        self.assertContainsRe(finding.what, "cannot run /no/brz lp-serve-setup: ")
