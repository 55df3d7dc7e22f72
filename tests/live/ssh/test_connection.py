# SPDX-License-Identifier: GPL-2.0-or-later

"""Through a real sshd: the bytes, the refusals and the ends."""

import os
import re
import signal

from breezy.branch import Branch
from breezy.bzr import chk_map
from breezy.bzr.smart.medium import SmartSimplePipesClientMedium
from breezy.controldir import ControlDir
from breezy.errors import NotBranchError
from breezy.transport.remote import RemoteTransport

from ...harness import DEADLINE, read_line, wait_until
from .sshcase import SERVE, SshTestCase


class _Recorder:
    """A file object that remembers what went through it."""

    def __init__(self, file):
        self._file = file
        self.data = b""

    def read(self, count):
        data = self._file.read(count)
        self.data += data
        return data

    def readline(self):
        line = self._file.readline()
        self.data += line
        return line

    def write(self, data):
        self.data += data
        return self._file.write(data)

    def flush(self):
        self._file.flush()

    def close(self):
        self._file.close()


class TestProtocol(SshTestCase):
    """Byte for byte what 'brz serve --inet' answers."""

    def converse(self, host, script):
        """Run *script* on a connection; what was sent and what was answered."""
        process = self.start_ssh(host)
        answers, requests = _Recorder(process.stdout), _Recorder(process.stdin)
        url = "bzr+ssh://server/"
        self.permit_url(url)
        medium = SmartSimplePipesClientMedium(answers, requests, url)
        requests.write(b"hello\n")
        requests.flush()
        self.assertEqual(b"ok\x012\n", answers.readline())
        script(RemoteTransport(url, medium=medium), host)
        requests.close()
        answers.data += process.stdout.read()
        self.assertEqual(b"", process.stderr.read())
        self.assertEqual(0, process.wait(DEADLINE))
        return requests.data, answers.data

    def assertSameBytes(self, script):
        sent, received = {}, {}
        for host in self.roots:
            sent[host], received[host] = self.converse(host, script)
            # Lock tokens are random; everything else has to be as it was.
            for data in (sent, received):
                data[host] = re.sub(rb"20:[0-9a-z]{20}", b"20:TOKEN", data[host])
        # Equal requests are what makes equal answers mean something. The items of a
        # set come in any order; the server sorts its answer.
        for host, data in sent.items():
            sent[host] = [sorted(each) for each in data.split(b"bzr message 3")]
        self.assertEqual(sent["before"], sent["now"])
        self.assertEqual(received["before"], received["now"])
        return received["now"]

    def read_all(self, root, host):
        """Read what there is to read of a branch, and what there is not."""
        self.assertRaises(NotBranchError, Branch.open_from_transport, root)
        self.assertTrue(root.has("trunk/.bzr/branch-format"))
        self.assertEqual(["trunk"], root.list_dir("."))
        branch = Branch.open_from_transport(root.clone("trunk"))
        with branch.lock_read():
            self.assertEqual(5, branch.revno())
            branch.tags.get_tag_dict()
            branch.get_config_stack().get("push_location")
            last = branch.last_revision()
            repository = branch.repository
            ancestry = repository.get_graph().iter_ancestry([last])
            self.assertEqual(6, len(list(ancestry)))
            repository.get_parent_map([b"no-such-revision"])
            list(repository.iter_inventories([last]))
            repository.revision_tree(last).get_file_text("file1")
            repository.get_revisions([last, branch.get_rev_id(2)])
            repository.gather_stats(last)
        local = os.path.join(self.work(host), "sprouted")
        copied = branch.controldir.sprout(local).open_branch()
        self.assertEqual(last, copied.last_revision())

    def test_reading(self):
        self.share("trunk", self.make_history(5))
        # Otherwise revisions are the same, but not their bytes.
        self.configure(stream_order="breezy")
        self.start_service(PYTHONHASHSEED="0")
        received = self.assertSameBytes(self.read_all)
        self.assertGreater(len(received), 3000)

    def test_writing(self):
        tree = self.make_history(2)
        self.share("trunk", tree)
        first = tree.branch.last_revision()
        self.add_revisions(tree, 3)
        self.start_service(PYTHONHASHSEED="0")

        def script(root, host):
            branch = Branch.open_from_transport(root.clone("trunk"))
            # A client that has just been started has an empty cache, which decides
            # the order in which it sends.
            chk_map.clear_cache()
            Branch.open(tree.basedir).push(branch)
            with branch.lock_write():
                branch.tags.set_tag("mark", first)
                branch.get_config_stack().set("parent_location", "../other")
            ControlDir.create(root.clone("made").base, possible_transports=[root])

        self.assertSameBytes(script)
        self.assertSameBranch("trunk", 5)


class TestRefusals(SshTestCase):
    """The account of the service gives nobody a shell."""

    def test_other_commands(self):
        """They are refused without the service, which does not run here."""
        for words, line in (
            (["id"], "only 'bzr serve --inet' is allowed, not: id"),
            (["bzr", "init"], "not: bzr init"),
            (["bzr", "serve"], "not: bzr serve"),
            (["bzr", "serve", "--inet;", "id"], "not: bzr serve --inet; id"),
            (["bzr serve --inet $(touch here)"], "not: bzr serve --inet $(touch here)"),
            (["bzr serve --inet\nid"], "not: bzr serve --inet?id"),
            (["/bin/sh", "-c", "id"], "not: /bin/sh -c id"),
        ):
            self.assertRefused(self.ssh("now", *words), line)
        sftp = self.ssh("-s", "now", "sftp")
        # sshd does not pass on what a subsystem writes to stderr.
        self.assertEqual((64, b""), (sftp.returncode, sftp.stdout))
        self.assertFalse(os.path.exists(os.path.join(self.home, "here")))

    def test_no_command(self):
        """A login gets a Bazaar server: what is typed there is not executed."""
        self.start_service()
        done = self.ssh("now", stdin=b"id\n")
        self.assertIn(b"bad request 'id", done.stdout)
        self.assertNotIn(b"uid=", done.stdout)
        # sshd itself gives those no terminal whom authorized_keys restricts.
        done = self.ssh("-tt", "now", stdin=b"id\n")
        self.assertEqual((255, b""), (done.returncode, done.stdout))

    def assertRefused(self, done, line):
        text = done.stderr.decode()
        self.assertEqual((64, b""), (done.returncode, done.stdout), text)
        self.assertEqual(1, text.count("\n"), text)
        self.assertStartsWith(text, "lp-serve-client: ")
        self.assertIn(line, text)


class TestEnds(SshTestCase):
    """How a connection ends is known at both of its ends.

    :ivar asker: what asks the service for a worker.
    """

    asker = "lp-serve-client"

    @staticmethod
    def status_of(number):
        """What ``ssh`` exits with when the signal *number* ended a worker."""
        return 128 + number

    def test_statuses(self):
        self.configure(max_workers=1, queue_timeout=0)
        self.start_service(f"--directory={self.root}/%u")
        self.assertEnd(
            self.ssh("now", *SERVE),
            3,
            "lp-serve: there is no directory to serve",
        )
        os.mkdir(os.path.join(self.root, "alice"))
        for number in (signal.SIGTERM, signal.SIGKILL):
            connection = self.start_ssh()
            self.say_hello(connection)
            done = self.ssh("now", *SERVE)
            self.assertEnd(
                done, 75, f"{self.asker}: the server is full, try again later"
            )
            [pid] = self.workers_for("alice")
            os.kill(pid, number)
            self.assertEqual(self.status_of(number), connection.wait(DEADLINE))
            self.wait_until_all_ended()
        connection = self.start_ssh()
        self.say_hello(connection)
        connection.stdin.close()
        self.assertEqual(0, connection.wait(DEADLINE))
        self.assertEqual(b"", connection.stderr.read())

    def assertEnd(self, done, status, line):
        text = done.stderr.decode()
        self.assertEqual((status, b""), (done.returncode, done.stdout), text)
        self.assertEqual(1, text.count("\n"), text)
        self.assertStartsWith(text, line)

    def test_client_killed(self):
        """Whatever it was doing: the worker ends, and nothing is left of it."""
        self.start_service()
        path = os.path.join(self.root, "large")
        # More than all the buffers on the way together.
        with open(path, "wb") as large:
            large.write(os.urandom(1 << 16) * 256)
        for request, answer in (
            (b"hello\n", b"ok\x012\n"),
            (b"hel", None),
            (b"get\x01large\n", b"ok\n"),
            (b"put\x01upload\x010644\n1000\n" + b"x" * 500, None),
        ):
            connection = self.start_ssh()
            os.write(connection.stdin.fileno(), request)
            if answer is not None:
                self.assertEqual(answer, read_line(connection.stdout.fileno()))
            wait_until(lambda: self.workers_for("alice"), "a worker serves it")
            connection.kill()
            connection.wait(DEADLINE)
            self.wait_until_all_ended()
        self.assertEqual(["large"], os.listdir(self.root))
        self.assertEqual([], self.paths_left_of_connections())

    def paths_left_of_connections(self):
        return [each for each in self.paths_left() if "/" in each]


class TestNoService(SshTestCase):
    """Without a service, the connection is served as before there was one."""

    def test_fallback(self):
        self.sshd.allow("only", "lp-serve-client --no-fallback alice")
        self.share("trunk", self.make_history())
        done = self.ssh("only", *SERVE)
        self.assertEqual((69, b""), (done.returncode, done.stdout))
        self.assertStartsWith(done.stderr, b"lp-serve-client: no service (")
        self.configure(directory=self.root, allow_writes=True)
        done = self.run_brz("revno", "bzr+ssh://now/trunk")
        self.assertEqual(b"3\n", done.stdout)
        self.assertIn(b"serving this connection without it", done.stderr)
