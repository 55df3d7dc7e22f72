# SPDX-License-Identifier: GPL-2.0-or-later

"""What a worker can do to the host: a plug-in tries everything."""

import os
import shutil
import socket

from breezy import controldir
from breezy.tests.scenarios import load_tests_apply_scenarios

from ...harness import BY_DOOR, PLUGIN, wait_until
from ...sandbox.test_landlock import kernel
from .sandboxcase import SandboxCase, tree

load_tests = load_tests_apply_scenarios

#: To write at OUT, and to take to and from IN, which is served.
WRITES = """\
os.open('OUT/new', os.O_WRONLY | os.O_CREAT)
os.open('OUT/file', os.O_WRONLY)
os.open('OUT/file', os.O_WRONLY | os.O_APPEND)
os.open('OUT/file', os.O_WRONLY | os.O_TRUNC)
os.rename('OUT/file', 'OUT/other')
os.rename('OUT/file', 'IN/other')
os.rename('IN/file', 'OUT/other')
os.rename('IN/file', 'OUT/file')
os.link('OUT/file', 'IN/other')
os.link('OUT/file', 'OUT/other')
os.link('IN/file', 'OUT/other')
os.symlink('x', 'OUT/other')
os.unlink('OUT/file')
os.rmdir('OUT/empty')
os.mkdir('OUT/made')
os.mkfifo('OUT/fifo')
os.mknod('OUT/node')
os.mknod('OUT/device', 0o20600, os.makedev(1, 3))
socket.socket(socket.AF_UNIX).bind('OUT/socket')
open('IN/link-to-it', 'w')
os.open('/proc/self/oom_score_adj', os.O_WRONLY)
"""
#: From Linux 6.2 on.
TRUNCATES = """\
os.truncate('OUT/file', 1)
os.open('OUT/file', os.O_RDONLY | os.O_TRUNC)
"""
#: All that is to go on.
WORKS = """\
open('IN/new', 'w').close()
os.mkdir('IN/made')
os.rename('IN/new', 'IN/made/new')
os.truncate('IN/made/new', 0)
os.symlink('x', 'IN/made/symlink')
os.link('IN/made/new', 'IN/linked')
shutil.rmtree('IN/made')
os.unlink('IN/linked')
tempfile.NamedTemporaryFile().close()
trace.mutter('something for brz.log')
open('/dev/null', 'w').close()
open('/dev/full', 'r').close()
open('/dev/stderr', 'w').close()
os.listdir('/proc/self/fd')
subprocess.run(['sh', '-c', 'cat /etc/passwd > /dev/null'], check=True)
subprocess.run(['sh', '-c', 'sleep 1000 & kill $!'], check=True)
subprocess.run([sys.executable, '-c', 'import ssl, json; ssl.create_default_context()'])
os.kill(os.getpid(), 0)
"""


class TestWorker(SandboxCase):
    """In either sandbox."""

    scenarios = [(mode, {"mode": mode}) for mode in ("writes", "strict")]

    def start(self, **conf):
        os.symlink(os.path.join(self.outside, "file"), f"{self.root}/link-to-it")
        self.start_sandbox(self.mode, sandbox=self.mode, **conf)

    def fill(self, text):
        text = text.replace("OUT", self.outside).replace("IN", self.root)
        return text.splitlines()

    def test_writing(self):
        """FAULT 35: nothing outside is made, changed or removed."""
        self.start()
        lines = self.fill(WRITES)
        if kernel() >= 3:
            lines += self.fill(TRUNCATES)
        before = tree(self.outside)
        for door in ("fifo", "socket"):
            self.assertDenied(self.try_once(*lines, door=door))
        if kernel():
            self.assertEqual(before, tree(self.outside))
            self.assertIn("file", os.listdir(self.root))

    def test_working(self):
        self.start()
        for door in ("fifo", "socket"):
            for line, end in self.try_once(*self.fill(WORKS), door=door).items():
                self.assertNotIn("Error", end, line)
        with open(os.path.join(self.home, "breezy", "brz.log")) as log:
            self.assertIn("something for brz.log", log.read())

    def test_code(self):
        """FAULT 37: neither configuration nor plug-ins nor service can be changed."""
        plugin = os.path.join(PLUGIN, "__init__.py")
        self.start()
        names = [
            self.config,
            f"{self.home}/breezy/locations.conf",
            f"{self.home}/breezy/plugins",
            f"{self.home}/breezy/new",
            f"{self.home}/.ssh",
            f"{self.home}/.profile",
            f"{self.runtime}/new",
            f"{self.runtime}/replies/new",
            plugin,
            shutil.__file__,
        ]
        lines = [f"os.open({name!r}, os.O_RDWR | os.O_CREAT, 0o644)" for name in names]
        lines += [f"os.mkdir({self.home + '/made'!r})"]
        lines += [
            f"os.unlink({self.config!r})",
            f"os.unlink({self.runtime + '/lock'!r})",
        ]
        lines += [f"os.rename({self.home + '/breezy'!r}, {self.root + '/away'!r})"]
        self.assertDenied(self.try_once(*lines))

    def test_processes(self):
        """Service, zygote and other workers are out of reach; what it starts is not."""
        self.start()
        other = self.connect("bob").open()
        status = self.status()
        pids = (status["pid"], status["zygote"], other.pid)
        trace = "(lambda r: 1 / (r + 1))(ctypes.CDLL(None).ptrace(16, {}, 0, 0))"
        lines = [f"open('/proc/{pid}/mem', 'rb')" for pid in pids]
        lines += [f"os.kill({pid}, {number})" for pid in pids for number in (0, 9)]
        if kernel() < 6:  # signals are a matter of later ones
            lines = lines[:3]
        found = self.try_once(*lines, *(trace.format(pid) for pid in pids))
        if kernel():
            for pid in pids:
                self.assertEqual("ZeroDivisionError", found.pop(trace.format(pid)))
            self.assertDenied(found)
        self.assertEqual(status["zygote"], self.status()["zygote"])
        other.close()
        self.assertEqual(["exit", "0"], other.end())

    def test_privileges(self):
        """A program has those of who runs it, whatever its mode says."""
        self.start(sandbox_paths=self.outside)
        program = os.path.join(self.outside, "id")
        shutil.copy(shutil.which("id"), program)
        if os.getuid() == 0:
            os.chown(program, 65534, 65534)
        os.chmod(program, 0o4755)
        ours, _, theirs = os.getuid(), os.chmod(self.test_dir, 0o755), 65534
        asked = f"subprocess.check_output([{program!r}, '-u'])"
        status = "[l.split() for l in open('/proc/self/status') if 'NoNewPrivs' in l]"
        found = self.try_once(asked, status)
        expected = ours if kernel() or ours else theirs
        self.assertEqual(str(f"{expected}\n".encode()), found[asked])
        self.assertIn("1" if kernel() else "0", found[status])

    def test_abstract_socket(self):
        """From Linux 6.12 on."""
        self.start()
        listener = socket.socket(socket.AF_UNIX)
        self.addCleanup(listener.close)
        listener.bind(f"\0{self.token}")
        listener.listen()
        line = f"socket.socket(socket.AF_UNIX).connect('\\x00{self.token}')"
        found = self.try_once(line)
        self.assertEqual({line: "PermissionError" if kernel() >= 6 else "None"}, found)

    def test_reading(self):
        self.start()
        os.mkdir(f"{self.home}/.ssh")
        self.build_tree(["live-home/.ssh/id"])
        lines = (
            f"open('{self.outside}/file')",
            f"os.listdir('{self.outside}')",
            f"open('{self.root}/link-to-it')",
            f"open('{self.home}/.ssh/id')",
            "os.listdir('/')",
            f"os.listdir({self.runtime!r})",
        )
        found = self.try_once(*lines)
        if self.mode == "strict":
            self.assertDenied(found)
        else:
            self.assertNotIn("PermissionError", found.values())

    def test_more_paths(self):
        self.start(sandbox_paths=f"{self.outside}, {self.home}:ro")
        lines = [
            f"open('{self.outside}/new', 'w').close()",
            f"os.listdir({self.home!r})",
            f"open('{self.home}/new', 'w')",
        ]
        found = self.try_once(*lines)
        self.assertEqual("None", found[lines[0]])
        self.assertNotIn("Error", found[lines[1]])
        if kernel():
            self.assertEqual("PermissionError", found[lines[2]])

    def test_what_it_left_running(self):
        """A program that a hook started is in it as well."""
        self.start()
        made = f"{self.outside}/made"
        shell = f"(sleep 0.1; touch '{made}'; touch '{self.root}/over') &"
        self.try_once(f"subprocess.Popen(['sh', '-c', {shell!r}])")
        wait_until(lambda: os.path.exists(f"{self.root}/over"), "it has tried")
        if kernel():
            self.assertFalse(os.path.exists(made))


class TestUsers(SandboxCase):
    """FAULT 36: in the strict one, with a directory for each."""

    scenarios = BY_DOOR

    def test_users(self):
        for user in ("alice", "bob"):
            os.mkdir(os.path.join(self.root, user))
            self.build_tree([f"root/{user}/file"])
        self.start_sandbox("strict", "--directory", f"{self.root}/%u", sandbox="strict")
        self.assertEqual([], self.status()["warnings"])
        for user, other in (("alice", "bob"), ("bob", "alice"), ("alice", "bob")):
            lines = [
                f"open('{self.root}/{other}/file')",
                f"open('{self.root}/{other}/new', 'w')",
                f"os.listdir({self.root!r})",
                f"os.listdir('{self.root}/{other}')",
                f"os.rename('{self.root}/{other}/file', '{self.root}/{user}/taken')",
                f"os.link('{self.root}/{other}/file', '{self.root}/{user}/taken')",
            ]
            works = f"open('{self.root}/{user}/new', 'w').close()"
            found = self.try_once(*lines, works, user=user)
            self.assertEqual("None", found.pop(works))
            self.assertDenied(found)

    def test_no_directory(self):
        """A user without one is told so."""
        self.start_sandbox("strict", "--directory", f"{self.root}/%u", sandbox="strict")
        connection = self.connect("carol").open()
        with open(connection.stderr, closefd=False) as stderr:
            self.assertEqual(
                f"lp-serve: there is no directory {self.root}/carol to serve\n",
                stderr.read(),
            )
        connection.close()
        self.assertEqual(["exit", "3"], connection.end())


class TestInet(SandboxCase):
    """A process that serves one connection is in the same sandbox."""

    def try_inet(self, *lines, user="alice"):
        with open(self.lines, "w") as file:
            file.write("".join(f"{line}\n" for line in lines))
        words = self.brz("lp-serve", "--inet", user)
        done = self.run_program(words, b"tryer\n")
        self.assertEqual((0, b""), (done.returncode, done.stderr))
        return dict(zip(lines, eval(done.stdout.partition(b"\x01")[2]), strict=True))

    def test_writes(self):
        self.configure(directory=self.root, allow_writes=True, sandbox="writes")
        lines = [
            f"open('{self.outside}/new', 'w')",
            f"open({self.config!r}, 'a')",
            f"open('{self.root}/new', 'w').close()",
            "tempfile.NamedTemporaryFile().close()",
        ]
        found = self.try_inet(*lines)
        self.assertEqual("None", found.pop(lines[2]))
        self.assertEqual("None", found.pop(lines[3]))
        self.assertDenied(found)

    def test_users(self):
        for user in ("alice", "bob"):
            os.mkdir(os.path.join(self.root, user))
        self.configure(directory=f"{self.root}/%u", sandbox="strict")
        lines = [f"os.listdir('{self.root}/{user}')" for user in ("alice", "bob")]
        found = self.try_inet(*lines)
        self.assertEqual("[]", found.pop(lines[0]))
        self.assertDenied(found)


class TestClient(SandboxCase):
    """What clients do goes on."""

    scenarios = [(mode, {"mode": mode}) for mode in ("auto", "strict", "users")]
    foreign = False

    def setUp(self):
        super().setUp()
        self.local = controldir.ControlDir.create_standalone_workingtree("local")
        self.local.commit("first")

    def test_branches(self):
        """Push, pull, pack, break a lock, through the client of users."""
        users = self.mode == "users"
        mode = "strict" if users else self.mode
        root = os.path.join(self.root, "alice") if users else self.root
        os.makedirs(root, exist_ok=True)
        self.start_sandbox(
            "writes" if mode == "auto" else "strict",
            *(["--directory", f"{self.root}/%u"] if users else []),
            sandbox=mode,
        )
        base = "bzr+ssh://alice@localhost/"
        ssh = {"BRZ_SSH": self.make_ssh(), "BRZ_EMAIL": "a@example.com"}
        self.run_brz("init-shared-repository", base + "shared", **ssh)
        for number in range(12):
            self.local.commit(f"revision {number}")
            self.run_brz("push", "-d", "local", base + "shared/one", **ssh)
        self.run_brz("pack", base + "shared/one", **ssh)
        self.run_brz("branch", base + "shared/one", base + "shared/two", **ssh)
        self.run_brz("branch", base + "shared/two", "copy", **ssh)
        copy = controldir.ControlDir.open("copy").open_branch()
        self.assertEqual(self.local.last_revision(), copy.last_revision())
        status = self.settled_status()
        self.assertEqual(
            (0, 0), (status["totals"]["failed"], status["totals"]["faults"])
        )
        self.run_brz("check", os.path.join(root, "shared", "two"))
