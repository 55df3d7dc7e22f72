# SPDX-License-Identifier: GPL-2.0-or-later

"""SIGKILL and SIGSTOP for anybody at any moment: no damage, nothing is left.

LPSERVE_CHAOS_CONNECTIONS says how many connections are made, and
LPSERVE_CHAOS_SEED which die is cast, to see a failure again (as far as that can
be: the moments are the machine's).
"""

import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from typing import Any

from breezy import branch as _mod_branch
from breezy import commit as _mod_commit
from breezy import controldir, errors, ui
from breezy.bzr.smart import medium
from breezy.transport import remote

from ....lpserve.client import conversation
from ...client.nativeclient import compiler, native_client
from ...harness import (
    BY_DOOR,
    DEADLINE,
    DOORS,
    HELLO,
    LiveTestCase,
    read_line,
    wait_until,
)
from . import chaos, victims
from .test_hanging import IMPATIENT

COUNT = int(os.environ.get("LPSERVE_CHAOS_CONNECTIONS", 100))
SEED = int(os.environ.get("LPSERVE_CHAOS_SEED", random.randrange(1 << 32)))
#: The program of a driver.
DRIVER = f"""
import breezy, breezy.plugin, sys
breezy.initialize(setup_ui=False)
breezy.plugin.load_plugins()
from {__name__} import drive
drive(*sys.argv[1:])
"""
#: The lines of 'brz check', which exits with 0 whatever it finds.
_healthy = re.compile(
    r"Checking |No working tree found |checked (repository|branch) |"
    r" *\d+ (revisions|file-ids)$"
)


# -- the driver: a process of its own -----------------------------------------


def drive(root: str, path: str) -> None:
    """Make the connections that standard input asks for (see `chaos.Driver`).

    Each goes through a stand-alone client that is run as sshd would run it:
    the Python one or the native one, through either door.

    :param root: the directory that is served, to look at locks in.
    :param path: of the branch below it that this driver pushes to.
    """
    ui.ui_factory = ui.SilentUIFactory()
    make = controldir.ControlDir.create_branch_convenience
    local = make("local", force_new_tree=False)
    mirror = make("mirror", force_new_tree=False)
    for line in sys.stdin:
        operation, user, target, client = json.loads(line)
        said: dict[str, Any] = {"user": user, "locks": 0}
        if operation == "push":
            _commit(local, user)
            said["locks"] = _free_locks(os.path.join(root, path))
        with open("stderr", "w+b") as errors:
            program = subprocess.Popen(
                [*client, user],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
            )
            _say(user=user, pid=program.pid)
            try:
                said["revno"], said["revision"] = _transfer(
                    program, operation, target, local if operation == "push" else mirror
                )
            except Exception as error:
                said["error"] = f"{type(error).__name__}: {error}"
            said["status"] = _finish(program)
            errors.seek(0)
            said["stderr"] = errors.read().decode("utf-8", "replace")
        _say(**said)


def _say(**fields: Any) -> None:
    os.write(1, json.dumps(fields).encode() + b"\n")


def _commit(branch: Any, user: str) -> None:
    tree = branch.create_memorytree()
    with tree.lock_write():
        if branch.revno() == 0:
            tree.add([""])
            tree.add(["file"], ["file"])
        # Not to be compressed, so that a push is more than a moment.
        tree.put_file_bytes_non_atomic("file", os.urandom(40000))
        tree.commit(user, reporter=_mod_commit.NullCommitReporter())


def _transfer(
    program: subprocess.Popen[bytes], operation: str, target: str, ours: Any
) -> tuple[int, str]:
    """Push from or pull to *ours*; the revno and revision that both have then."""
    url = "bzr://chaos/"
    pipes = medium.SmartSimplePipesClientMedium(program.stdout, program.stdin, url)
    transport = remote.RemoteTransport(url, medium=pipes).clone(target)
    theirs = _mod_branch.Branch.open_from_transport(transport)
    if operation == "push":
        ours.push(theirs)
        last = theirs.last_revision_info()
    else:
        with theirs.lock_read():
            ours.pull(theirs, overwrite=True)
            last = theirs.last_revision_info()
    # Pulling from a branch without revisions changes nothing.
    if last[0] and ours.last_revision_info() != last:
        raise AssertionError(f"{last} there, {ours.last_revision_info()} here")
    return last[0], last[1].decode()


def _finish(program: subprocess.Popen[bytes]) -> int:
    for pipe in (program.stdin, program.stdout):
        with contextlib.suppress(OSError):
            pipe.close()
    return program.wait()


def _free_locks(path: str) -> int:
    """Wait until nobody holds the branch at *path*; break locks of the dead.

    What a person does with 'brz break-lock'. Returns how many were broken.
    """
    branch = _mod_branch.Branch.open(path)
    broken = 0
    end = time.monotonic() + DEADLINE
    for lock in (branch.control_files._lock, branch.repository.control_files._lock):
        while (holder := lock.peek()) is not None:
            if victims.is_running(int(holder.get("pid"))):
                if time.monotonic() > end:
                    raise AssertionError(f"held for ever: {holder}")
                time.sleep(0.01)  # nothing tells when a lock is given back
                continue
            with contextlib.suppress(errors.LockBreakMismatch, errors.LockNotHeld):
                lock.force_break(holder)
                broken += 1
    return broken


# -- the test -----------------------------------------------------------------


class TestChaos(LiveTestCase):
    @property
    def env(self):
        return {**super().env, "BRZ_EMAIL": "chaos", "TMPDIR": self.temporary}

    def setUp(self):
        super().setUp()
        self.temporary = os.path.join(self.test_dir, "tmp")
        os.mkdir(self.temporary)
        self.configure(
            autostart=True,
            runtime_dir=self.runtime,
            directory=self.root,
            allow_writes=True,
            connect_timeout=20,
            log_file=self.log_path,
            warm_interval=0,
        )
        self.add_plugin("impatient", IMPATIENT)
        self.addCleanup(self.shut_down)
        make = controldir.ControlDir.create_branch_convenience
        shared = os.path.join(self.root, "shared")
        made = controldir.ControlDir.create(shared)
        made.create_repository(shared=True).set_make_working_trees(False)
        for path in chaos.BRANCHES:
            make(os.path.join(self.root, path), force_new_tree=False)

    def shut_down(self):
        """Stop whatever service there is; nothing tells us its end but the lock."""
        with contextlib.suppress(conversation.NoService):
            pid = int(self.ask("hello")[3].partition("=")[2])
            self.ask("shutdown", "now")
            wait_until(lambda: not os.path.exists(f"/proc/{pid}"), "the service ended")

    def test_chaos(self):
        engine = chaos.Chaos(
            COUNT,
            SEED,
            self.clients(),
            ([sys.executable, "-c", DRIVER, self.root], self.env),
            os.path.join(self.test_dir, "drivers"),
            self.log_path,
            self.processes,
        )
        began = time.monotonic()
        engine.run()
        counts = dict(sorted(engine.counts.items()))
        log = self.log_text()
        counts["services started"] = log.count("Listening on ")
        counts["zygotes given up"] = log.count("it has not answered for")
        counts["workers given up"] = log.count(" hangs: killing it")
        took = time.monotonic() - began
        sys.stderr.write(f"\nchaos: seed {SEED}, {took:.0f} s, {counts}\n")
        sys.stderr.write(f"fallbacks: {dict(engine.reasons)}\n")
        self.assertEqual([], [str(each) for each in engine.failed])
        self.assertEqual(COUNT, counts["push"] + counts["pull"])
        for kind in set(chaos.KINDS) - {"loader stopped"}:  # there may be none
            self.assertGreater(engine.counts[kind], 0, kind)
        self.check_service()
        self.check_repositories()
        self.check_pushed(engine.pushed)

    @staticmethod
    def clients():
        """The words that run each client through each door."""
        programs = ["lp-serve-client"]
        if compiler.available():
            programs.append(native_client())
        return [[each, "--door", door] for each in programs for door, _ in BY_DOOR]

    def check_service(self):
        """A client finds it dead and starts it; what the dead left is cleared."""
        for pid in self.processes():
            if victims.kind_of(pid)[0] == "service":
                os.kill(pid, signal.SIGKILL)

        def served():
            done = self.run_program(["lp-serve-client", "last"], b"hello\n")
            self.assertEqual((HELLO, 0), (done.stdout, done.returncode))
            return not done.stderr  # it has not served itself

        wait_until(served, "a service has served it")
        status = self.settled_status()
        self.assertEqual(0, status["workers"]["busy"])
        self.assertEqual(0, status["totals"]["faults"])
        wait_until(
            lambda: not victims.zombies_of(status["pid"]), "the service has reaped all"
        )
        wait_until(lambda: self.paths_left() == DOORS, "the paths are removed")
        self.shut_down()
        wait_until(lambda: not self.processes(), "all processes have ended")
        self.assertEqual([], self.paths_left())
        self.assertEqual([], os.listdir(self.temporary))

    def check_repositories(self):
        # A shared repository is checked with all branches in it.
        for path in chaos.REPOSITORIES:
            done = self.run_brz("check", os.path.join(self.root, path))
            said = (done.stdout + done.stderr).decode().splitlines()
            faults = [line for line in said if not _healthy.match(line)]
            self.assertEqual([], faults, path)
            self.assertGreater(len(said), 2)

    def check_pushed(self, pushed):
        """What a connection said that it has pushed is there."""
        for path, revisions in pushed.items():
            branch = _mod_branch.Branch.open(os.path.join(self.root, path))
            with branch.lock_read():
                history = set(
                    branch.repository.get_graph().iter_lefthand_ancestry(
                        branch.last_revision(), (b"null:",)
                    )
                )
            missing = {each.encode() for each in revisions} - history
            self.assertEqual(set(), missing, path)


class TestKilledService(LiveTestCase):
    def test_before_it_has_reaped(self):
        """A worker's exit is known although who would tell of it was killed."""
        for door, _ in BY_DOOR:
            self.check_before_it_has_reaped(door)

    def check_before_it_has_reaped(self, door):
        service = self.start_service()
        program = self.start_client("--door", door, "alice")
        program.stdin.write(b"hello\n")
        program.stdin.flush()
        self.assertEqual(HELLO, read_line(program.stdout.fileno()))
        (worker,) = (
            pid
            for pid in self.processes()
            if victims.kind_of(pid) == ("worker", "alice")
        )
        service.send_signal(signal.SIGSTOP)
        program.stdin.close()
        wait_until(lambda: not victims.is_running(worker), "the worker has ended")
        service.kill()
        service.wait()
        self.start_service()  # clears what the killed one left
        status = program.wait(DEADLINE)
        self.assertEqual((b"", 0), (program.stderr.read(), status))
        self.stop_service()
