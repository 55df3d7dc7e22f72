# SPDX-License-Identifier: GPL-2.0-or-later

"""Repositories, and clients that send requests, for tests of what is kept in memory."""

import os
import re
import subprocess
from typing import Any

from breezy import branch as _mod_branch
from breezy import controldir, errors
from breezy.bzr.smart import client, medium

from ...harness import LiveTestCase, wait_until

#: The body of a request for parents by a client that has seen none.
NOTHING_SEEN = b"\n\n0"
#: Otherwise sets have another order in each process, and so have answers.
SAME_ORDER = {"PYTHONHASHSEED": "0"}


class SmartClient:
    """Asks smart requests through two descriptors, which it closes."""

    def __init__(self, reader: int, writer: int):
        pipes = os.fdopen(os.dup(reader), "rb"), os.fdopen(os.dup(writer), "wb")
        self._medium = medium.SmartSimplePipesClientMedium(*pipes, "bzr+ssh://host/")
        self._client = client._SmartClient(self._medium)

    def ask(self, *words: bytes, body: bytes | None = None) -> tuple[Any, Any]:
        """The words of the answer and its body; of an error, its words."""
        try:
            if body is None:
                found, handler = self._client.call_expecting_body(*words)
            else:
                found, handler = self._client.call_with_body_bytes_expecting_body(
                    words[0], words[1:], body
                )
            return found, handler.read_body_bytes()
        except errors.ErrorFromSmartServer as error:
            return error.error_tuple, None

    def parent_map(self, name: str, *revisions: bytes) -> tuple[Any, Any]:
        """``Repository.get_parent_map``."""
        words = (b"Repository.get_parent_map", name.encode() + b"/")
        return self.ask(*words, b"include-missing:", *revisions, body=NOTHING_SEEN)

    def close(self) -> None:
        """Close both."""
        self._medium._readable_pipe.close()
        self._medium._writeable_pipe.close()


class WarmCase(LiveTestCase):
    """A test with a service that keeps repositories in memory."""

    warm = 16
    door = "socket"

    def start_warm(self, **options: object) -> None:
        """Start the service; it loads at once what is used."""
        self.configure(**{"warm_interval": 0, **options})
        self.start_service(**SAME_ORDER)
        self.rest()

    def warm_client(self, user: str = "alice") -> tuple[SmartClient, Any]:
        """A client of a worker, and its connection."""
        made = self.connect(user)
        if self.door == "fifo":
            made.open()
        asker = SmartClient(made.stdout, made.stdin)
        made.close()
        self.addCleanup(asker.close)
        return asker, made

    def finish(self, asker: SmartClient, made: Any) -> None:
        """Hang up, and wait until the worker has ended well."""
        asker.close()
        self.assertEqual(["exit", "0"], made.end())

    def once(self, *words: bytes, body: bytes | None = None) -> tuple[Any, Any]:
        """The answer of a worker of its own."""
        asker, made = self.warm_client()
        try:
            return asker.ask(*words, body=body)
        finally:
            self.finish(asker, made)

    def use(self, name: str) -> None:
        """Have a worker read the repository of *name*."""
        path = name.encode() + b"/"
        self.once(b"Repository.get_parent_map", path, b"x", body=NOTHING_SEEN)

    def cold_client(self) -> tuple[SmartClient, subprocess.Popen[bytes]]:
        """A client of a new ``brz serve --inet`` on the same root."""
        words = ("serve", "--inet", "--directory", self.root, "--allow-writes")
        quiet = {"stderr": subprocess.DEVNULL}
        process = self.start_words(self.brz(*words), quiet, **SAME_ORDER)
        asker = SmartClient(process.stdout.fileno(), process.stdin.fileno())
        process.stdin.close()
        process.stdout.close()
        self.addCleanup(asker.close)
        return asker, process

    def run_brz(self, *words: str, **env: str) -> subprocess.CompletedProcess[bytes]:
        """Run ``brz``, with our client in the place of ssh; it reports nothing."""
        ssh = self.make_ssh(f"--door={self.door}")
        done = super().run_brz(*words, BRZ_SSH=ssh, **env)
        self.assertEqual(b"", done.stderr)
        return done

    def place(self, name: str) -> str:
        """The path of the branch *name*."""
        return os.path.join(self.root, name)

    def make_branch(self, name: str, count: int = 3, format: str = "2a") -> bytes:
        """Make a branch of *count* revisions; its tip."""
        branch = controldir.ControlDir.create_branch_convenience(
            self.place(name),
            format=controldir.format_registry.make_controldir(format),
            force_new_tree=False,
        )
        return commit(branch, count)

    def commit(self, name: str, count: int = 1) -> bytes:
        """Add *count* revisions to the branch *name*; its tip."""
        return commit(_mod_branch.Branch.open(self.place(name)), count)

    def entry(self, name: str) -> dict[str, Any] | None:
        """What ``status`` says of the repository of *name*."""
        path = os.path.realpath(self.place(name))
        for each in self.status()["warm"]:
            if each["path"] == path:
                return each
        return None

    def wait_warm(self, name: str) -> dict[str, Any]:
        """Use the repository of *name* until it is found in memory as it is.

        A worker that was forked before it was loaded does not know it.
        """
        hits = (self.entry(name) or {"hits": 0})["hits"]

        def found() -> dict[str, Any] | None:
            self.use(name)
            self.rest()
            entry = self.entry(name)
            return entry if entry is not None and entry["hits"] > hits else None

        return wait_until(found, f"{name} is found in memory")

    def wait_state(self, name: str, state: str) -> dict[str, Any]:
        """Wait until ``status`` says *state* of the repository of *name*."""

        def found() -> dict[str, Any] | None:
            entry = self.entry(name)
            return entry if entry is not None and entry["state"] == state else None

        return wait_until(found, f"{name} is {state}")


def commit(branch: Any, count: int, parents: tuple[bytes, ...] = ()) -> bytes:
    """Add revisions to *branch*, the first of them a merge of *parents*; its tip."""
    tip: bytes = branch.last_revision()
    with branch.lock_write():
        for _ in range(count):
            tree = branch.create_memorytree()
            with tree.lock_write():
                tree.set_parent_ids(
                    [each for each in (tip, *parents) if each != b"null:"]
                )
                parents = ()
                if not tree.is_versioned(""):
                    tree.add([""], ["directory"], [b"root"])
                    tree.add(["file"], ["file"], [b"file"])
                text = b"%d\n" % branch.revno() + os.urandom(8)
                tree.put_file_bytes_non_atomic("file", text)
                tip = tree.commit("one more", committer="Jane <jane@example.com>")
    return tip


#: Addresses and numbers of objects; and the indices that errors name in the order in
#: which they were of use.
_OF_A_PROCESS = re.compile(
    rb"0x[0-9a-f]+|(?:filtered|chroot)-[0-9]+|\w*GraphIndex\('[^']*'\)(?:, )?"
)


def comparable(answer: tuple[Any, Any]) -> tuple[Any, Any]:
    """*answer* without what differs between two processes."""
    words, body = answer
    if isinstance(words, tuple):
        words = tuple(
            _OF_A_PROCESS.sub(b"", each) if isinstance(each, bytes) else each
            for each in words
        )
    return words, body
