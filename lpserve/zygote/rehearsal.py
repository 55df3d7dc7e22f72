# SPDX-License-Identifier: GPL-2.0-or-later

"""Serves a scripted client to learn which modules connections need.

A worker serves the client in a temporary directory, and reports at its end which
modules it had to import. The zygote then imports them as well, and resolves Breezy's
lazy imports. So there is no list of modules to be maintained.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import shutil
import signal
import socket
import sys
import time
import traceback
from typing import Any

from breezy import hooks, lazy_import, ui

from .. import channel, plugins, system
from ..paths import RuntimeDirectory, rehearsal_stage
from . import reset, worker

#: Seconds after which a rehearsal is stopped.
TIMEOUT = 60.0


def rehearse(start: dict[str, Any]) -> str:
    """Run a rehearsal, and import the modules that it needed, even if it fails.

    :param start: the ``start`` message of the service.
    :returns: why it failed, or "". After a failure connections work, but take longer.
    """
    names: list[str] = []
    why = ""
    try:
        _perform(start, names)
    except Exception as error:
        why = " ".join(str(error).split()) or type(error).__name__
    for name in names:
        with contextlib.suppress(Exception):
            __import__(name)
    resolve_imports()
    return why


def _perform(start: dict[str, Any], names: list[str]) -> None:
    """Let a worker serve the scripted client.

    :param names: the modules that the worker imported are appended.
    :raises Exception: if the worker or the client fails.
    """
    stage = rehearsal_stage(start["runtime_dir"], os.getpid())
    actors: dict[int, str] = {}
    try:
        os.mkdir(stage, 0o700)
        directory = RuntimeDirectory(os.path.join(stage, "run"))
        directory.prepare()
        made = directory.make_connection()
        ours, theirs = channel.pair()
        with ours:
            with theirs:
                channel.send(
                    ours, "serve", (made.stdin, made.held), **_message(stage, made.path)
                )
                # Bound to us: without its counterpart each would wait without end.
                server = system.fork(
                    lambda: _be_worker(theirs, ours, start, stage), bound=True
                )
                actors[server] = "worker"
            client = system.fork(lambda: _be_client(stage, made.fifos), bound=True)
            actors[client] = "client"
            made.close()
            deadline = time.monotonic() + TIMEOUT
            _watch(ours, names, deadline)
            for pid, role in actors.items():
                _check_end(pid, role, deadline)
    finally:
        for pid in actors:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        shutil.rmtree(stage, ignore_errors=True)


def _message(stage: str, path: str) -> dict[str, Any]:
    return {
        "user": "rehearsal",
        "env": {"BRZ_LOG": os.devnull, "BRZ_HOME": stage, "BRZ_EMAIL": "rehearsal"},
        "path": path,
        "reply": os.path.join(stage, "reply"),
    }


def _settings(stage: str) -> dict[str, Any]:
    return {
        "environment": ["BRZ_LOG", "BRZ_HOME", "BRZ_EMAIL"],
        "directory": stage,
        "allow_writes": True,
        "client_timeout": None,
        "request_timeout": TIMEOUT,
        "worker_memory": 0,
        "connect_timeout": TIMEOUT,
        "warm_report_interval": TIMEOUT,
    }


def _watch(ours: socket.socket, names: list[str], deadline: float) -> None:
    """Read the messages of the worker until it ends."""
    while True:
        _wait(ours.fileno(), deadline)
        message, _ = channel.receive(ours)
        if message is None:
            return
        names.extend(message.get("names", ()))


def _wait(descriptor: int, deadline: float) -> None:
    """Wait until *descriptor* is readable.

    :raises TimeoutError: at the *deadline*.
    """
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    if not poller.poll(max(0, deadline - time.monotonic()) * 1000):
        raise TimeoutError(f"not over after {TIMEOUT:.0f} s")


def _check_end(pid: int, role: str, deadline: float) -> None:
    """Wait until the worker or client *pid* has ended, without reaping it.

    :raises RuntimeError: if its status is not 0.
    """
    pidfd = os.pidfd_open(pid)
    try:
        _wait(pidfd, deadline)
    finally:
        os.close(pidfd)
    info = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    if info is not None and (info.si_code, info.si_status) != (os.CLD_EXITED, 0):
        raise RuntimeError(f"its {role} failed (see the service's log)")


def _be_worker(
    theirs: socket.socket, ours: socket.socket, start: dict[str, Any], stage: str
) -> int:
    ours.close()
    remove_hooks()
    modules = len(sys.modules)
    context = reset.Context(start, [theirs.fileno()])
    for step in reset.IN_ZYGOTE:
        step(context)
    ready = worker.ZygoteState()
    ready.prepare(_settings(stage))
    return worker.main(theirs, start, ready, modules, spare=True)


def remove_hooks() -> None:
    """Remove the hooks of plug-ins, because a rehearsal must have no side effects.

    The hooks of plug-ins that come with Breezy stay. They do nothing without
    configuration, and that of a rehearsal is empty.
    """
    for callbacks in hooks._lazy_hooks.values():
        callbacks[:] = [
            each
            for each in callbacks
            if (plugin := _plugin_of(each[0])) is None or plugins.is_bundled(plugin)
        ]


def _plugin_of(getter: Any) -> str | None:
    """The plug-in of a hook (an object getter of ``breezy.registry``), or None."""
    module = getattr(getter, "_module_name", None)
    if module is None:
        module = getattr(getter.get_obj(), "__module__", None) or ""
    parts = module.split(".")
    return parts[2] if parts[:2] == ["breezy", "plugins"] else None


def _be_client(stage: str, fifos: tuple[str, str, str]) -> int:
    os.setsid()
    ends = [os.open(fifos[0], os.O_WRONLY)]
    ends += [os.open(path, os.O_RDONLY) for path in fifos[1:]]
    ui.ui_factory = ui.SilentUIFactory()
    logging.getLogger("brz").handlers.clear()
    with open(ends[1], "rb") as answers, open(ends[0], "wb") as requests:
        # The greeting of a client of protocol version one.
        requests.write(b"hello\n")
        requests.flush()
        answers.readline()
        try:
            _play(stage, answers, requests)
        except Exception:
            traceback.print_exc()
            return 1
    return 0


def _play(stage: str, answers: Any, requests: Any) -> None:
    """Do what clients do: push, push again, read, branch, stack, share, init."""
    from breezy import branch as _mod_branch
    from breezy import controldir
    from breezy.bzr.smart import medium
    from breezy.transport import remote

    url = "bzr://rehearsal/"
    root = remote.RemoteTransport(
        url, medium=medium.SmartSimplePipesClientMedium(answers, requests, url)
    )
    tree = controldir.ControlDir.create_standalone_workingtree(
        os.path.join(stage, "local")
    )
    path = os.path.join(stage, "local", "file")
    for number in range(3):
        with open(path, "w") as file:
            file.write(f"{number}\n" * 100)
        if number == 0:
            tree.add(["file"])
        tree.commit(f"revision {number}", committer="rehearsal")
        if number == 1:
            tree.branch.tags.set_tag("tag", tree.branch.last_revision())
            tree.branch.create_clone_on_transport(root.clone("pushed"))
    pushed = _mod_branch.Branch.open_from_transport(root.clone("pushed"))
    tree.branch.push(pushed)
    with pushed.lock_read():
        pushed.tags.get_tag_dict()
        pushed.get_config_stack().get("push_location")
        last = pushed.last_revision()
        list(pushed.repository.get_graph().iter_ancestry([last]))
        list(pushed.repository.iter_inventories([last]))
        pushed.repository.revision_tree(last).get_file_text("file")
        pushed.repository.get_revisions([last])
        pushed.repository.gather_stats(last)
    pushed.controldir.sprout(os.path.join(stage, "sprouted"))
    # A bound branch commits on the server first.
    with pushed.lock_write():
        pushed.set_last_revision_info(1, tree.branch.get_rev_id(1))
        pushed.tags.set_tag("other", last)
    tree.branch.create_clone_on_transport(
        root.clone("stacked"), stacked_on=root.clone("pushed").base
    )
    format = controldir.format_registry.make_controldir("default")
    shared = root.clone("shared")
    format.initialize_on_transport_ex(shared, force_new_repo=True, shared_repo=True)
    tree.branch.create_clone_on_transport(shared.clone("inside"))
    made = root.clone("made")
    made.mkdir(".")
    made_dir = format.initialize_on_transport(made)
    made_dir.create_repository()
    made_dir.create_branch()
    pushed.repository.pack()
    pushed.repository.reconcile()
    for number, kind in enumerate(_formats()):
        name = f"format{number}"
        old = controldir.ControlDir.create_standalone_workingtree(
            os.path.join(stage, name), format=kind
        )
        old.commit("revision", committer="rehearsal")
        served = _mod_branch.Branch.open_from_transport(root.clone(name))
        served.controldir.sprout(os.path.join(stage, f"sprouted{number}"))


def _formats() -> list[Any]:
    """Control directory formats, one for each module of a repository format."""
    from breezy import controldir

    found: dict[str, Any] = {}
    registry = controldir.format_registry
    for name in registry.keys():  # noqa: SIM118 - not a mapping
        if not registry.get_info(name).experimental:
            format = registry.make_controldir(name)
            kind = type(getattr(format, "repository_format", None)).__module__
            if kind.startswith("breezy.bzr."):
                found.setdefault(kind, format)
    return list(found.values())


def resolve_imports() -> None:
    """Resolve lazy imports of modules that are imported already.

    Otherwise every worker would resolve them. Lazy imports of other modules, such as
    paramiko, stay: a larger process makes each fork slower.
    """
    for module in list(sys.modules.values()):
        scope = getattr(module, "__dict__", {})
        for value in list(scope.values()):
            if type(value) is lazy_import.ImportReplacer and _is_there(value):
                with contextlib.suppress(Exception):
                    object.__getattribute__(value, "_resolve")()


def _is_there(replacer: lazy_import.ImportReplacer) -> bool:
    """Whether the module of *replacer* has been imported."""
    path = object.__getattribute__(replacer, "_module_path")
    member = object.__getattribute__(replacer, "_member")
    module = sys.modules.get(".".join(path))
    return module is not None and (member is None or member in vars(module))
