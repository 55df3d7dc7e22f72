# SPDX-License-Identifier: GPL-2.0-or-later

"""A program: clients that branch, commit, push and pull, as users do, one by one.

Each client has a branch of its own, one that it commits to from a bound branch, and
shares one with all others. It runs ``brz`` commands in children, which are forked after
Breezy is loaded, and ``ssh``. What fails it repeats until it succeeds. When a branch is
locked for longer it breaks the lock if whoever has it is known to be dead.

Each attempt comes from an address of its own, by which the log of a load balancer tells
where it went. What came of it is written to standard output as a line of JSON. The
clients stop at the end of standard input, when they have succeeded with what they do.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import select
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

import breezy
import breezy.plugin
from breezy import builtins, commands, trace, ui  # noqa: F401
from breezy.bzr import groupcompress_repo, remote, workingtree_4  # noqa: F401
from breezy.bzr.smart import medium  # noqa: F401
from breezy.transport import ssh  # noqa: F401

#: The branch of all clients.
SHARED = "trunk"
#: Seconds after which a command is taken to hang, and after which an operation that
#: fails again and again is given up.
DEADLINE = 120.0
#: Seconds at least and at most until what has failed is repeated.
AGAIN = (0.5, 3.0)
#: How many clients push to the shared branch.
SHARING = 4
#: Bytes that a push is to have, so that it is more than a moment.
SIZE = 40000

_held = re.compile(r"held by .* on (\S+) \(process #(\d+)\)")
_locked = re.compile("Could not acquire lock|LockContention")


class Careful(ui.SilentUIFactory):
    """Breaks only what is held by one of the *dead*: pairs of a host and a pid."""

    def __init__(self, dead: set[tuple[str, str]]):
        super().__init__()
        self._dead = dead

    def confirm_action(self, prompt: str, identifier: str, arguments: Any) -> bool:
        """Whether to break this lock; the question names who has it."""
        question = prompt % arguments
        found = _held.search(question)
        dead = found is not None and found.groups() in self._dead
        print(question, "yes" if dead else "no", flush=True)
        return dead


class Client:
    """One client.

    :param number: which; from this follow its addresses.
    :param directory: for its branches; the current directory of what it runs.
    :param url: of what is served.
    :param dead: the path of a file with who is dead: a host and a pid in each line.
    :param pace: seconds from the begin of an operation to that of the next.
    """

    def __init__(
        self, number: int, directory: str, url: str, dead: str, pace: float, seed: int
    ):
        self._number = number
        self._random = random.Random(seed + number)
        self._directory = directory
        self._url = url
        self._dead = dead
        self._pace = pace
        self._attempts = 0
        self._said = os.path.join(directory, "said")
        os.makedirs(directory)
        os.chdir(directory)

    # -- what it does ----------------------------------------------------------

    def run(self) -> None:
        """Do one thing after the other until standard input ends."""
        self._operate("begin", self._begin)
        self._report(ready=self._number)
        kinds = [self.branch, *(self.pull, self.push, self.commit) * 2]
        # Where more push to one branch they mostly find that others were faster.
        if self._number < SHARING:
            kinds += [self.share] * 2
        # Not all at the same time.
        due = time.monotonic() + self._random.random() * self._pace
        while not select.select([0], [], [], max(0.0, due - time.monotonic()))[0]:
            due += self._pace
            self._random.choice(kinds)()

    def _begin(self, repeated: bool) -> Iterable[tuple[str, ...]]:
        for name in ("shared", "own", "bound"):
            shutil.rmtree(name, ignore_errors=True)
        yield ("branch", f"{self._url}/{SHARED}", "shared")
        for name in ("own", "bound"):
            yield ("branch", "shared", name)
            options = ("--overwrite", "--use-existing-dir") if repeated else ()
            yield ("push", "-d", name, *options, self._place(name))
        yield ("bind", "-d", "bound", self._place("bound"))

    def _place(self, name: str) -> str:
        """The URL of one of the branches."""
        return f"{self._url}/{self.name_there(name)}"

    def name_there(self, name: str) -> str:
        """What one of the branches is called at the server."""
        return SHARED if name == "shared" else f"{name}-{self._number}"

    def branch(self) -> None:
        """Get the shared branch anew."""

        def steps(repeated: bool) -> Iterable[tuple[str, ...]]:
            shutil.rmtree("fresh", ignore_errors=True)
            yield ("branch", self._place("shared"), "fresh")

        self._operate("branch", steps)

    def pull(self) -> None:
        """Get what is new there."""
        self._operate("pull", lambda repeated: [("pull", "-d", "shared")])

    def push(self) -> None:
        """Commit, and push it."""
        self._change("own")
        words = ("push", "-d", "own", self._place("own"))
        self._operate("push", lambda repeated: [words], "own")

    def commit(self) -> None:
        """Commit to a branch at the server."""
        self._change("bound", commit=False)

        def steps(repeated: bool) -> Iterable[tuple[str, ...]]:
            # The commit may be there although nobody has said so.
            if repeated:
                yield ("update", "bound")
            yield ("commit", "-m", "to the server", "--unchanged", "bound")

        self._operate("commit", steps, "bound")

    def share(self) -> None:
        """Push to the branch of all, after a merge if others were faster."""
        self._change("shared")

        def steps(repeated: bool) -> Iterable[tuple[str, ...]]:
            if self._diverged:
                yield ("merge", "-d", "shared", self._place("shared"))
                yield ("commit", "-m", "a merge", "--unchanged", "shared")
            yield ("push", "-d", "shared", self._place("shared"))

        self._operate("share", steps, "shared")

    def _change(self, name: str, commit: bool = True) -> None:
        """Change a file in the tree of a branch, and commit that."""
        path = os.path.join(name, f"of-{self._number}")
        new = not os.path.exists(path)
        with open(path, "wb") as file:
            # Not to be compressed.
            file.write(self._random.randbytes(SIZE if name == "own" else 1000))
        if new:
            self._brz("", "add", path)
        if commit and self._brz("", "commit", "-m", "a change", name)[0]:
            raise SystemExit(f"cannot commit: {self._brz('', 'status', name)}")

    # -- until it succeeds -----------------------------------------------------

    def _operate(
        self,
        kind: str,
        steps: Callable[[bool], Iterable[tuple[str, ...]]],
        changes: str = "",
    ) -> None:
        """Carry out *steps*, again from the start until all succeed.

        :param changes: the branch that they change at the server.
        """
        first = time.monotonic()
        self._diverged = repeated = before = False
        while True:
            said = self._attempt(kind, steps(repeated), changes)
            if said is None:
                return
            if time.monotonic() > first + DEADLINE:
                raise SystemExit(f"{kind} does not succeed: {said}")
            repeated = True
            self._diverged = "have diverged" in said
            locked = changes and _locked.search(said)
            if locked and before:
                self._break_lock(changes)
            before = locked
            # Whoever has the lock, or hosts, need a moment.
            select.select([], [], [], self._random.uniform(*AGAIN))

    def _attempt(
        self, kind: str, steps: Iterable[tuple[str, ...]], changes: str
    ) -> str | None:
        """One attempt; None if it has succeeded, else what was said."""
        origin, began = self._next_origin(), time.time()
        said, status = "", 0
        for words in steps:
            status, said = self._brz(origin, *words)
            if status:
                break
        about = {"kind": kind, "from": origin, "began": began, "ended": time.time()}
        if status:
            self._report(**about, status=status, said=said[-1500:])
            return said
        if changes:
            with open(f"{changes}/.bzr/branch/last-revision") as file:
                about.update(changed=self.name_there(changes), tip=file.read().split())
        self._report(**about, status=0)
        return None

    def _break_lock(self, name: str) -> None:
        """Break the lock of a branch if it is held by one of the dead."""
        with open(self._dead) as file:
            dead = {tuple(line.split()) for line in file}
        origin, began = self._next_origin(), time.time()
        words = ("break-lock", self._place(name))
        status, said = self._brz(origin, *words, dead=dead)
        about = {"kind": "break-lock", "from": origin, "status": status}
        times = {"began": began, "ended": time.time()}
        self._report(**about, **times, said=said[-1500:], broken=said.count("yes\n"))

    def _next_origin(self) -> str:
        self._attempts += 1
        high, low = divmod(self._attempts, 250)
        return f"127.{100 + self._number}.{high}.{low + 1}"

    def _brz(
        self, origin: str, *words: str, dead: set[tuple[str, ...]] | None = None
    ) -> tuple[int, str]:
        """Run ``brz`` with *words*; its status, and what it has said.

        :param origin: the address that connections come from.
        """
        sys.stdout.flush()
        with open(self._said, "w+b") as said:
            pid = os.fork()
            if not pid:
                _be_brz(said.fileno(), origin, words, dead)
            status = _wait(pid)
            said.seek(0)
            return status, said.read().decode("utf-8", "replace")

    def _report(self, **about: Any) -> None:
        # A line is written as a whole, although others write too.
        os.write(1, json.dumps(about).encode() + b"\n")


def _be_brz(
    output: int, origin: str, words: tuple[str, ...], dead: Any
) -> None:  # never returns
    status = 70
    try:
        os.setsid()
        nothing = os.open(os.devnull, os.O_RDONLY)
        for number, descriptor in enumerate((nothing, output, output)):
            os.dup2(descriptor, number)
        os.environ["LPSERVE_FROM"] = origin
        ui.ui_factory = ui.make_ui_for_terminal(sys.stdin, sys.stdout, sys.stderr)
        if dead is not None:
            ui.ui_factory = Careful(dead)
        trace.enable_default_logging()
        status = commands.main(["brz", *words])
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status)


def _wait(pid: int) -> int:
    """The exit status of a child, which is killed if it takes too long."""
    watched = os.pidfd_open(pid)
    try:
        if not select.select([watched], [], [], DEADLINE)[0]:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
    finally:
        os.close(watched)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def main(count: str, directory: str, url: str, dead: str, pace: str, seed: str) -> int:
    """Run all clients to their end; the exit status."""
    breezy.initialize(setup_ui=False)
    breezy.plugin.load_plugins()
    pids = []
    for number in range(int(count)):
        pid = os.fork()
        if not pid:
            status = 1
            try:
                place = os.path.join(directory, f"client-{number}")
                Client(number, place, url, dead, float(pace), int(seed)).run()
                status = 0
            except BaseException as error:
                print(f"client {number}: {error!r}", file=sys.stderr, flush=True)
            finally:
                os._exit(status)
        pids.append(pid)
    found = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    return int(any(found))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
