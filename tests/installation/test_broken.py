# SPDX-License-Identifier: GPL-2.0-or-later

"""Installations that are broken in one way each: what is wrong is named, no more."""

import functools
import os
import re
import shutil
import socket
import threading

from ...lpserve.installation import checkdirectories, checkunits, programs
from ...lpserve.installation.place import CLIENT, SSHD_PATH
from ...lpserve.sandbox import landlock
from ..live.ssh.sshcase import sshd_feature
from .installationcase import Installation, InstallationCase, make_key, read

#: A file of the installation.
CONFIG = "home/.config/breezy/breezy.conf"
LINES = "home/.ssh/authorized_keys"
UNIT = "units/lpserve.service"
CAROL = make_key("carol")


class BrokenCase(InstallationCase):
    def assertFinds(self, *expected, **changes):
        """There are these problems: pairs of patterns for what is wrong and remedy."""
        found = self.problems(**changes)
        texts = [f"{each.severity}: {each.what}\n{each.remedy}" for each in found]
        for what, remedy in expected:
            matching = [
                each
                for each in found
                if re.search(what, each.what) and re.search(remedy, each.remedy)
            ]
            self.assertTrue(matching, f"no {what!r} with {remedy!r} in {texts}")
            found = [each for each in found if each not in matching]
        self.assertEqual([], found)
        self.restore()

    def set(self, name, value):
        """Set an option anew."""
        path = self.installation.path(CONFIG)
        with open(path) as file:
            line = re.search(rf"(?m)^lpserve\.{name} = .*$", file.read())
        if line is None:
            self.append(CONFIG, f"lpserve.{name} = {value}\n")
        else:
            self.edit(CONFIG, line[0], f"lpserve.{name} = {value}")


class TestBroken(BrokenCase):
    def test_sound(self):
        """Nothing is wrong: the client is in Python, and no server of ssh runs."""
        self.assertEqual([], self.problems())

    def test_configuration(self):
        self.remove(CONFIG)
        self.assertFinds(
            ("breezy.conf is missing", "setup files"),
            ("no directory to serve", "set lpserve.directory"),
            # What else it said.
            ("no service runs", "systemctl enable"),
            (r"may not write to .* \(lpserve.runtime_dir\)", "ReadWritePaths="),
            ("authorized_keys:1: the command does not answer", "run it as"),
            ("public keys, .* is missing", "install -d"),
        )
        self.chmod(CONFIG, 0o666)
        self.assertFinds(("breezy.conf is writable by others", "chmod go-w"))
        self.set("max_wrokers", "5")
        self.assertFinds(("no option lpserve.max_wrokers", "correct or remove"))
        self.set("max_workers", "many")
        self.assertFinds(("max_workers", "brz help lpserve"))
        self.append(CONFIG, "[other]\nlpserve.max_workers = 5\n")
        self.assertFinds((r"max_workers is not read, not in \[DEFAULT\]", "correct"))
        self.append(CONFIG, "[other\n")
        self.assertFinds(("cannot be parsed", "correct"))
        self.set("allowed_peers", "nobody, nosuchuser")
        self.assertFinds(("allowed_peers: there is no user nosuchuser", "correct"))
        self.set("service_user", "nosuchuser")
        self.assertFinds(("service_user: there is no user nosuchuser", "correct"))
        self.set("sandbox_paths", "relative")
        self.assertFinds(("sandbox_paths must be absolute", "correct"))
        self.set("queue_timeout", "60")
        self.assertFinds(("queue_timeout .* not less than lpserve.connect", "correct"))

    def test_served(self):
        self.set("directory", "/%x")
        self.assertFinds(
            ("only %u and %% may follow", "set lpserve.directory"),
            ("/%x, which lpserve.directory names, is missing", "install -d"),
        )
        self.remove("served")
        self.assertFinds(
            ("served, which lpserve.directory names, is missing", "install -d"),
            ("served of ReadWritePaths= is missing", "make it"),
        )
        self.set("directory", self.installation.config)
        self.assertFinds(
            ("names, is not a directory", "install -d"),
        )
        self.chmod("served", 0o777)
        self.assertFinds(("every user of this host may write", "chmod o-w"))
        self.set("directory", self.installation.path("home"))
        self.assertFinds(
            ("breezy.conf is inside .* which is served", "nothing but branches"),
            (".ssh is inside .* which is served", "nothing but branches"),
            (r"may not write to .*/home \(lpserve.directory\)", "ReadWritePaths="),
        )

    def test_runtime_directory(self):
        self.chmod("run", 0o777)
        self.assertFinds(("runtime directory: .* writable by others", "chmod 0700"))
        self.remove("run")
        self.write("run", "")
        self.assertFinds(("run is not a directory", "chown"))
        os.mkfifo(self.installation.path("run/control"))
        self._undo.append(lambda: os.unlink(self.installation.path("run/control")))
        self.assertFinds(("doors of a service that was killed: control", "start the"))
        self.write("run/drained", "back at noon\n")
        self.assertFinds(("every client is told: back at noon", "resume"))
        self.link("/etc/hostname", "run/drained")
        self.assertFinds(("every client is told: .* try again later", "resume"))
        self.remove("run")
        self.assertFinds(("run of ReadWritePaths= is missing", "make it"))

    def test_log_and_disk(self):
        self.remove("log")
        self.assertFinds(
            ("the log .* cannot be made", "install -d"),
            ("log of ReadWritePaths= is missing", "make it"),
        )
        self.make("log/lpserve.log")
        self.assertFinds(("lpserve.log is a directory", "name a file"))
        self.overrideAttr(checkdirectories, "LEAST_FREE", 1 << 62)
        found = self.problems()
        self.assertNotEqual([], found)
        for each in found:
            self.assertContainsRe(each.what, "the disk of .* is full")

    def test_streams(self):
        top = self.installation.path("")
        for name, path, what, remedy in (
            ("served", "served", "is inside", "lpserve.stream_cache"),
            ("open", "open", r"is open to others \(mode 0755\)", "chmod 0700"),
            ("a file", "file", "is no directory", "rm .*install -d"),
            ("nowhere", "file/a/b", "cannot make it in .*file", "install -d"),
        ):
            if name == "open":
                os.mkdir(os.path.join(top, path), 0o755)
            elif path.startswith("file"):
                with open(os.path.join(top, "file"), "w"):
                    pass
            self.set("stream_cache", os.path.join(top, path))
            self.assertFinds((f"no streams are kept: .*{what}", remedy))

    def test_sandbox(self):
        def missing():
            raise OSError(38, "Function not implemented")

        self.overrideAttr(landlock, "version", missing)
        self.assertFinds(("Landlock: Function not impl", "landlock in its lsm="))

    def test_client(self):
        if shutil.which(CLIENT, path=f"{SSHD_PATH}:/usr/bin:/bin"):
            self.skipTest("this host has an lp-serve-client of its own")
        self.remove("bin/lp-serve-client")
        self.assertFinds(
            ("there is no lp-serve-client, which sshd runs", "reinstall"),
            ("lp-serve-client, which .*:1 names, is missing", "reinstall"),
        )
        old = "#!/bin/sh\necho 'lp-serve-client 0.0.1 (native)'\n"
        self.write("bin/lp-serve-client", old, 0o755)
        self.assertFinds(("is of lpserve 0.0.1, and this brz has", "remove the one"))

    def test_units(self):
        self.edit(UNIT, self.installation.brz, "/usr/local/bin/nosuchbrz")
        self.assertFinds(
            ("nosuchbrz, which lpserve.service runs, is missing", "instal")
        )
        Installation.make_brz(self.installation.path("bin/other"), "")
        self.edit(UNIT, self.installation.brz, self.installation.path("bin/other"))
        self.assertFinds(("bin/other.* has no plug-in lpserve", "install brz-lpserve"))
        self.make("old")
        self.write("old/__init__.py", '"""Old."""\n__version__ = "0.0.1"\n')
        old = self.installation.path("old")
        Installation.make_brz(self.installation.path("bin/another"), f"lpserve@{old}")
        self.edit(UNIT, self.installation.brz, self.installation.path("bin/another"))
        self.assertFinds(("bin/another.* has lpserve 0.0.1, and this is", "install"))
        path = self.installation.path(UNIT)
        user = f"User={self.installation.account}"
        self.edit(UNIT, user, "User=nosuchuser")
        self.assertFinds(
            ("there is no user nosuchuser", "useradd"),
        )
        self.edit(UNIT, user, "User=nobody")
        self.assertFinds(("runs as nobody, whose breezy.conf is another", "User="))
        self.edit(UNIT, "KillMode=mixed", "KillMode=mixed\nRuntimeDirectory=lpserve")
        self.assertFinds(
            ("meet clients in /run/lpserve, and they look in", "lpserve.runtime_dir ="),
            ("RuntimeDirectoryMode is not set", "RuntimeDirectoryMode=0700"),
        )
        self.edit(UNIT, "TimeoutStopSec=310", "TimeoutStopSec=1min 30s")
        self.assertFinds(("kills connections after 90 s", "TimeoutStopSec=310"))
        self.edit(UNIT, "--fork-server", "--inet alice")
        self.assertFinds(("does not run a brz with --fork-server", "correct"))
        self.edit(UNIT, "KillMode=mixed", "")
        self.assertFinds(("without KillMode=mixed", "correct"))
        paths = re.search("(?m)^ReadWritePaths=.*$", read(path))[0]
        self.edit(UNIT, paths, "ReadWritePaths=-/nowhere")
        self.assertFinds(
            (r"may not write to .*/served \(lpserve.directory\)", "ReadWritePaths="),
            (r"may not write to .*/run \(lpserve.runtime_dir\)", "ReadWritePaths="),
            (r"may not write to .*/log \(lpserve.log_file\)", "ReadWritePaths="),
        )
        self.append(UNIT, "[Unit]\nRequires=lpserve.socket\n")
        self.assertFinds(("requires lpserve.socket, which is not installed", "copy"))
        self.write("bin/systemctl", "#!/bin/sh\necho 'systemd 252 (252.1)'\n", 0o755)
        find = functools.partial(programs.find, path=self.installation.path("bin"))
        self.overrideAttr(checkunits, "find_admin", find)
        self.remove(f"{UNIT}.d/before-systemd-253.conf")
        self.assertFinds(("systemd 252 does not know", "before-systemd-253.conf"))
        self.chmod(UNIT, 0o666)
        self.assertFinds(("lpserve.service is writable by others", "chmod go-w"))

    def test_keys(self):
        """Of lp-serve-ssh."""
        self.remove("keys")
        self.assertFinds(("directory of public keys, .*, is missing", "install -d"))
        self.chmod("keys", 0o777)
        self.assertFinds(("keys is writable by others", "chmod go-w"))
        self.chmod("keys/alice", 0o664)
        self.assertFinds(("keys/alice is writable by others", "chmod go-w"))
        self.write("keys/alice~", CAROL)
        self.assertFinds(("alice~ lets nobody in", "rename it"))
        self.write("keys/carol", "-----BEGIN OPENSSH PRIVATE KEY-----\n")
        self.assertFinds(("carol is a private key", "make another"))
        self.write("keys/carol", make_key("alice"))
        self.assertFinds(("carol:1: alice has the same key", "remove one"))
        self.write("keys/carol", f'command="id" {CAROL}')
        self.assertFinds(("carol:1: the option command is not supp", "correct or rem"))
        self.write("keys/carol", CAROL[:40])
        self.assertFinds(("carol:1: the key is truncated", "correct or remove"))
        self.chmod("host_key", 0o644)
        self.assertFinds(("host_key can be read by others", "chmod 0600"))
        self.write("host_key", CAROL, 0o600)
        self.assertFinds(("host_key is not a private key", "without .pub"))
        self.set("listen", "5022")
        self.assertFinds(("listen must be HOST:PORT, not 5022", "0.0.0.0:5022"))

    def test_no_lp_serve_ssh(self):
        """breezy.conf of Debian names its keys, also where it is not installed."""
        for name in ("keys", "host_key", "units/lpserve-ssh.service"):
            self.remove(name)
        self.assertFinds()

    def test_port_of_another(self):
        """Somebody else answers where lp-serve-ssh should."""
        with socket.create_server(("127.0.0.1", 0)) as server:

            def answer():
                made, _ = server.accept()
                with made:
                    made.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")

            thread = threading.Thread(target=answer)
            thread.start()
            self.addCleanup(thread.join)
            self.set("listen", f"127.0.0.1:{server.getsockname()[1]}")
            self.assertFinds(
                ("another program answers at .*OpenSSH_9.2", "lpserve.lis")
            )

    def test_lines(self):
        """Of authorized_keys."""
        self.chmod(LINES, 0o664)
        self.assertFinds(("sshd ignores .*authorized_keys is writable", "chmod go-w"))
        self.chmod("home/.ssh", 0o770)
        self.assertFinds(("sshd ignores .*: .*/.ssh is writable", "chmod go-w"))
        self.append(LINES, f'command="/no/lp-serve-client carol",restrict {CAROL}')
        self.assertFinds(("/no/lp-serve-client, which .*:3 names, is m", "name .*bin"))
        client = self.installation.client
        self.append(LINES, f'command="{client} carol" {CAROL}')
        self.assertFinds((":3: without restrict, carol can forward", "put restrict"))
        self.append(LINES, CAROL)
        self.assertFinds((":3: the key has no command=", "lp-serve-client NAME"))
        self.append(LINES, f'command="{client}",restrict {CAROL}')
        self.assertFinds((":3: the command names no USER", "lp-serve-client NAME"))
        same = make_key("bob")
        self.append(LINES, f'command="{client} carol",restrict {same}')
        self.assertFinds(
            (":3: the key of carol is that of bob in line 2", "remove one")
        )
        self.append(LINES, f'command="x,restrict {CAROL}')
        self.assertFinds((":3: sshd ignores the line", "correct or remove"))
        self.append(LINES, f'command="brz-x lp-serve-client carol",restrict {CAROL}')
        self.assertFinds(("brz-x is not in the PATH of sshd", "name"))
        self.append(LINES, "-----BEGIN OPENSSH PRIVATE KEY-----\n")
        self.assertFinds(
            ("has a private key in it", "make another"),
            (":3: sshd ignores the line", "correct"),
        )

    def test_access(self):
        """A file of rules that lets nobody in, or not those who are meant."""
        path = self.installation.path("access.conf")
        self.write("access.conf", "[/]\nalice = rwx\n")
        self.set("access", path)
        self.assertFinds(("access rules: .*access.conf:2: ", "access --check="))
        self.write("access.conf", "[/]\nalice = rw\n", 0o666)
        self.set("access", path)
        self.assertFinds(
            ("access.conf is writable by others", "chmod go-w"),
            ("access rules: .*access.conf: it is writable", "access --check="),
        )
        self.set("access", path)
        self.assertFinds(
            ("access.conf: No such file", "see why"),
            ("access rules: .*access.conf: No such file", "access --check="),
        )

    def test_shell(self):
        self.assertFinds(
            ("login shell .* is /usr/sbin/nologin", "usermod --shell /bin/sh"),
            shell="/usr/sbin/nologin",
        )

    def test_not_owned(self):
        """Somebody else can change who is let in, and to what."""
        if os.geteuid() != 0:
            self.skipTest("only root can give files away")
        for name in (CONFIG, LINES, "keys/alice", "keys"):
            path = self.installation.path(name)
            os.chown(path, 12345, -1)
            self._undo.append(lambda path=path: os.chown(path, 0, -1))
            self.assertFinds((f"{name} is owned by uid 12345", "chown"))


class TestBrokenSshd(BrokenCase):
    def setUp(self):
        super().setUp()
        self.requireFeature(sshd_feature)
        self.installation.make_host_key()
        if any("not been" in each.what for each in self.check()):
            self.skipTest("sshd cannot be asked here")

    def test_sshd(self):
        self.assertFinds()
        for line, what in (
            ("NoSuchSetting yes", "sshd: .*Bad configuration option: NoSuchSetting"),
            (f"DenyUsers {self.installation.account}", "does not let .*: DenyUsers"),
            ("AllowUsers nosuchuser", "does not let .* log in: AllowUsers"),
            ("AllowGroups nosuchgroup", "does not let .* log in: AllowGroups"),
            ("PubkeyAuthentication no", "accepts no public keys"),
            ("AuthenticationMethods password", "a key is not enough"),
            ("ForceCommand /bin/date", "another command .*: ForceCommand /bin/date"),
            (
                "Match User *\n    ForceCommand /bin/date",
                "another command .*: ForceCommand /bin/date",
            ),
        ):
            self.append("sshd_config", f"{line}\n")
            self.assertFinds((what, "correct .*sshd_config"))


class TestPrograms(InstallationCase):
    def test_slow_program(self):
        """It is killed."""
        done = programs.run(["sleep", "100"], {"PATH": os.defpath}, patience=0.05)
        self.assertEqual(programs.NOT_RUN, done.status)
        self.assertEqual("did not end within 0.05 s", done.why)
