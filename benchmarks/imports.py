# SPDX-License-Identifier: GPL-2.0-or-later

"""What a first connection imports that the zygote had not: nothing, if all is well.

Runs what Breezy's clients do over bzr+ssh, with Breezy's own client code, and each
operation in connections of its own; then shows which modules their workers had to
import, as the service has logged it. The service names each module once, so what
two operations miss is shown for the first of them.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from typing import Any

from common import arguments, run
from connections import FifoConnection, begin, say_hello
from figures import table
from stage import FIFO, USER, BenchmarkError, Service, Stage

_MISSED = "rehearsal missed modules: "
_URL = f"bzr+ssh://{USER}@benchmark/"


class Vendor:
    """An "SSH" of Breezy's that connects to a service through its FIFOs.

    :ivar streams: of all connections that were made.
    """

    def __init__(self, service: Service):
        self._service = service
        self.streams: list[Streams] = []

    def connect_ssh(
        self, username: str, password: object, host: str, port: object, command: object
    ) -> Streams:
        """See ``breezy.transport.ssh.SSHVendor``."""
        made = FifoConnection(self._service.directory, username, wait=True)
        made.wait_open()
        self.streams.append(Streams(made))
        return self.streams[-1]


class Streams:
    """See ``breezy.transport.ssh.SSHConnection``."""

    def __init__(self, made: FifoConnection):
        self._made = made
        stdin, stdout, _ = made.ends
        self._write_to = os.fdopen(stdin, "wb", closefd=False)
        self._read_from = os.fdopen(stdout, "rb", closefd=False)

    def get_sock_or_pipes(self) -> tuple[str, tuple[Any, Any]]:
        return "pipes", (self._read_from, self._write_to)

    def close(self) -> None:
        """Called by Breezy if it thinks of it; `finish` is what counts."""

    def finish(self) -> None:
        """End the connection; its worker has to end well."""
        self._write_to.close()
        self._read_from.close()
        self._made.finish()


class Operations:
    """What is done, in this order; each method is one operation.

    :param place: a directory for what the client has.
    """

    def __init__(self, place: str):
        self._place = place

    def _path(self, name: str) -> str:
        return os.path.join(self._place, name)

    def _open(self, name: str = "trunk") -> Any:
        from breezy.branch import Branch

        return Branch.open(_URL + name)

    def _tree(self, name: str = "local") -> Any:
        from breezy.workingtree import WorkingTree

        return WorkingTree.open(self._path(name))

    def _commit(self, tree: Any, text: str) -> None:
        with open(tree.abspath("file"), "a") as file:
            file.write(f"{text}\n" * 50)
        if not tree.is_versioned("file"):
            tree.add(["file"])
        tree.commit(text)

    def push_new_branch(self) -> None:
        from breezy.controldir import ControlDir
        from breezy.transport import get_transport

        tree = ControlDir.create_standalone_workingtree(self._path("local"))
        self._commit(tree, "one")
        self._commit(tree, "two")
        tree.branch.tags.set_tag("tag", tree.last_revision())
        tree.branch.create_clone_on_transport(get_transport(_URL + "trunk"))

    def branch(self) -> None:
        self._open().controldir.sprout(self._path("sprouted"))

    def push_new_revisions(self) -> None:
        tree = self._tree()
        self._commit(tree, "three")
        tree.branch.push(self._open())

    def pull(self) -> None:
        self._tree("sprouted").pull(self._open())

    def tags(self) -> None:
        branch = self._open()
        with branch.lock_write():
            branch.tags.set_tag("other", branch.last_revision())
            branch.tags.get_tag_dict()

    def log(self) -> None:
        from breezy import log

        branch = self._open()
        with branch.lock_read(), open(os.devnull, "w") as nowhere:
            shown = log.LongLogFormatter(to_file=nowhere, levels=0)
            log.Logger(branch, {"limit": 10}).show(shown)
            last = branch.repository.revision_tree(branch.last_revision())
            list(last.list_files(recursive=True))
            last.get_file_text("file")

    def commit_to_bound_branch(self) -> None:
        self._open().create_checkout(self._path("bound"))
        self._commit(self._tree("bound"), "four")

    def commit_in_light_checkout(self) -> None:
        self._open().create_checkout(self._path("light"), lightweight=True)
        self._commit(self._tree("light"), "five")

    def lock_and_break_lock(self) -> None:
        branch = self._open()
        branch.lock_write().unlock()
        with branch.lock_write():
            branch.get_physical_lock_status()
            branch.leave_lock_in_place()
        self._open().break_lock()

    def init(self) -> None:
        from breezy.controldir import ControlDir

        ControlDir.create_branch_convenience(_URL + "made", force_new_tree=False)

    def init_shared_repository(self) -> None:
        from breezy.controldir import format_registry
        from breezy.transport import get_transport

        format_registry.make_controldir("default").initialize_on_transport_ex(
            get_transport(_URL + "shared"),
            create_prefix=True,
            make_working_trees=False,
            force_new_repo=True,
            shared_repo=True,
        )

    def push_into_shared_repository(self) -> None:
        from breezy.transport import get_transport

        self._tree().branch.create_clone_on_transport(get_transport(_URL + "shared/a"))

    def push_stacked(self) -> None:
        from breezy.transport import get_transport

        self._tree("bound").branch.create_clone_on_transport(
            get_transport(_URL + "stacked"), stacked_on=_URL + "trunk"
        )

    def branch_from_stacked(self) -> None:
        self._open("stacked").controldir.sprout(self._path("unstacked"))

    def merge_into_branch(self) -> None:
        """Push a merge, so that the server's graph is not a line."""
        tree = self._tree("unstacked")
        with open(tree.abspath("second"), "w") as file:
            file.write("second\n")
        tree.add(["second"])
        tree.commit("aside")
        trunk = self._tree("sprouted")
        trunk.pull(self._open())
        self._commit(trunk, "six")
        trunk.merge_from_branch(tree.branch)
        trunk.commit("merge")
        trunk.branch.push(self._open())

    def pack(self) -> None:
        self._open().repository.pack()

    def configuration(self) -> None:
        branch = self._open()
        with branch.lock_write():
            stack = branch.get_config_stack()
            stack.set("push_location", "elsewhere")
            stack.get("push_location")

    def uncommit_and_overwrite(self) -> None:
        branch = self._open()
        with branch.lock_write():
            revno, _ = branch.last_revision_info()
            branch.set_last_revision_info(revno - 1, branch.get_rev_id(revno - 1))
        self._tree("sprouted").branch.push(self._open(), overwrite=True)

    def check_and_reconcile(self) -> None:
        branch = self._open()
        with branch.lock_read():
            branch.repository.gather_stats(branch.last_revision())
            list(branch.repository.all_revision_ids())

    def open_what_is_not_there(self) -> None:
        from breezy.errors import NotBranchError

        try:
            self._open("nothing")
        except NotBranchError:
            return
        raise BenchmarkError("a branch that is not there was opened")

    def remove(self) -> None:
        from breezy.transport import get_transport

        get_transport(_URL + "made").delete_tree(".bzr")


OPERATIONS = [name for name in vars(Operations) if not name.startswith("_")]


def missed_in(log: str) -> list[str]:
    """The modules that *log* names."""
    return [
        name for line in log.splitlines() for name in line.partition(_MISSED)[2].split()
    ]


def measure(stage: Stage, chosen: argparse.Namespace) -> dict[str, Any]:
    # Before Breezy is imported: it must not see the account's own settings.
    os.environ.update(stage.environ("client", plugin=False), BRZ_EMAIL="benchmark")
    import breezy
    import breezy.bzr.bzrdir  # the default format
    from breezy import trace, ui

    breezy.initialize(setup_ui=False)
    ui.ui_factory = ui.SilentUIFactory()
    trace.be_quiet(True)
    missed: dict[str, list[str]] = {}
    connections: dict[str, int] = {}
    seconds: dict[str, float] = {}
    for number in range(chosen.repeat):
        root = os.path.join(stage.root, str(number))
        os.mkdir(root)
        place = os.path.join(stage.path, f"client-{number}")
        os.mkdir(place)
        with stage.service(f"lpserve-{number}", directory=root) as service:
            for name, operation in prepare(service, place):
                start = len(service.log_text())
                began = time.perf_counter()
                connections[name] = operation()
                seconds[name] = time.perf_counter() - began
                service.settle()
                found = missed_in(service.log_text()[start:])
                missed[name] = sorted({*missed.get(name, ()), *found})
            modules = service.settle()["modules"]
    total = sum(map(len, missed.values()))
    text = table(
        ["operation", "connections", "ms", "modules imported"],
        [
            [
                name.replace("_", " "),
                connections[name],
                f"{seconds[name] * 1000:.0f}",
                len(found),
            ]
            for name, found in missed.items()
        ],
    )
    text += f"\n{modules} modules were loaded before, {total} later (wanted: 0)\n"
    return {
        "text": text,
        "modules": modules,
        "missed": missed,
        "connections": connections,
        "failures": [
            f"{name.replace('_', ' ')} imports {' '.join(found)}"
            for name, found in missed.items()
            if found
        ],
    }


def prepare(service: Service, place: str) -> list[tuple[str, Callable[[], int]]]:
    """Each operation's name and what runs it: it returns its connections."""
    from breezy.transport import ssh

    vendor = Vendor(service)
    ssh._ssh_vendor_manager._cached_ssh_vendor = vendor
    operations = Operations(place)

    def through(name: str) -> int:
        vendor.streams = []
        try:
            getattr(operations, name)()
        finally:
            for each in vendor.streams:
                each.finish()
        return len(vendor.streams)

    def just_hello() -> int:
        say_hello(lambda: begin(service, FIFO))
        return 1

    return [("hello", just_hello)] + [
        (name, lambda name=name: through(name)) for name in OPERATIONS
    ]


def main() -> int:
    parser = arguments(__doc__, 1, "services to run all operations with")
    return run("imports", parser, measure)


if __name__ == "__main__":
    sys.exit(main())
