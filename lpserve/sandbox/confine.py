# SPDX-License-Identifier: GPL-2.0-or-later

"""Finds out what a process that serves connections has to be allowed, and enters
its sandbox.

Landlock allows what is beneath a path and cannot take something out of that again.
So what is allowed here is as little as will do: in the runtime directory to open what
is there, of the log's directory one file.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import breezy
from breezy import bedding, trace

from .. import plugins, root
from . import landlock
from .landlock import READ, WRITE, Access, Ruleset, Scope
from .sandbox import DATA, MAX_LOG, NOTHING, TREE, Sandbox, identity, served

#: Days that something may lie in a temporary directory of ours.
_OLD = 10

_FILE = Access.WRITE_FILE | Access.TRUNCATE
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
#: What programs read, and run. Whatever of it is not there is left out.
_SYSTEM = (
    *("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/etc", "/proc"),
    *("/sys/devices/system", "/sys/fs/cgroup"),
    # Where resolv.conf is.
    *("/run/systemd/resolve", "/run/resolvconf"),
    *("/nix/store", "/gnu/store"),
)


def enter(settings: dict[str, Any], runtime_dir: str | None) -> Sandbox:
    """Enter the sandbox, for ever; to be called with one thread.

    :param settings: what `settings.Settings.for_worker` says.
    :param runtime_dir: where clients are met, if they are.
    :returns: what holds then.
    :raises ConfigurationError: if *settings* make no sense.
    """
    made = Sandbox(settings["sandbox"])
    if made.asked == "off" or not settings["directory"]:
        return made
    if made.asked == "auto" and (names := plugins.foreign()):
        return _stay_out(
            made,
            f"{', '.join(names)} did not come with Breezy; lpserve.sandbox = writes "
            "in breezy.conf turns it on all the same",
        )
    try:
        made.abi = landlock.version()
        if made.abi == 1 and settings["allow_writes"]:
            return _stay_out(
                made, "before Linux 5.19 Landlock lets nobody rename packs into place"
            )
        _Builder(made, settings, runtime_dir).build()
    except OSError as error:
        if made.abi == 0:
            return _stay_out(made, f"this kernel has no Landlock ({error.strerror})")
        return _stay_out(made, str(error))
    if made.abi < 3:
        made.warnings.append(
            "lpserve.sandbox: before Linux 6.2 Landlock does not keep files from being "
            "truncated"
        )
    return made


def confine(settings: dict[str, Any], user: str) -> None:
    """Enter the sandbox as a process that serves *user* and ends.

    :raises ConfigurationError: as `enter` and `Sandbox.restrict_to_user`.
    """
    made = enter(settings, None)
    trace.mutter("lpserve.sandbox: %s %s", made.report(), made.warnings)
    made.isolate()
    made.prepare()
    made.restrict_to_user(user, settings["allow_writes"])


def _stay_out(made: Sandbox, why: str) -> Sandbox:
    made.holds, made.why = "off", why
    return made


class _Builder:
    """Finds out what is allowed."""

    def __init__(
        self, made: Sandbox, settings: dict[str, Any], runtime_dir: str | None
    ):
        self._made = made
        self._settings = settings
        self._directory = os.path.abspath(settings["directory"])
        self._top = root.shared_part(self._directory)
        self._runtime_dir = runtime_dir
        self._strict = made.asked == "strict"
        self._precious = [*self._find_precious()]

    def build(self) -> None:
        """Find out and do it.

        :raises OSError: if that cannot be had.
        """
        made, writes = self._made, self._settings["allow_writes"]
        made.handled = WRITE | READ if self._strict else WRITE
        if writes:
            self._warn_of(self._top)
        for path, writable in root.parse_sandbox_paths(self._settings["sandbox_paths"]):
            self._allow(path, (TREE if writable else NOTHING) | READ, named=True)
            if writable:
                self._warn_of(path)
        self._allow(self._temporary(), TREE | DATA)
        self._allow_runtime()
        self._allow_log()
        for name in _DEVICES:
            self._allow(f"/dev/{name}", _FILE | Access.READ_FILE)
        if self._strict:
            for path in self._readable():
                self._allow(path, READ)
            for path in _configuration():
                self._allow(path, DATA)
            if not root.is_shared(self._directory):
                self._restrict_to_users_later()
        # Not in `made.rules`: to be narrowed is to have a user's in place of it.
        made.seen[self._top] = identity(self._top)
        rules = dict(made.rules)
        rules[self._top] = rules.get(self._top, NOTHING) | served(writes)
        self._restrict(rules)
        made.holds = "strict" if self._strict else "writes"

    def _restrict(self, rules: dict[str, Access]) -> None:
        made = self._made
        with contextlib.ExitStack() as opened:
            ruleset = Ruleset(made.abi, made.handled)
            opened.callback(ruleset.close)
            # REFER is denied by whoever does not allow it.
            wall = Ruleset(
                made.abi,
                Access.MAKE_CHAR | Access.MAKE_BLOCK | Access.REFER,
                Scope.ABSTRACT_UNIX_SOCKET | Scope.SIGNAL,
            )
            opened.callback(wall.close)
            wall.allow("/", Access.REFER)
            for path, access in rules.items():
                try:
                    ruleset.allow(path, access)
                except OSError as error:
                    # That what is served is not there the service says itself.
                    missing = isinstance(error, FileNotFoundError)
                    if path in made.seen and not (missing and path == self._top):
                        made.warnings.append(
                            f"lpserve.sandbox: cannot allow {path}: {error.strerror}"
                        )
            landlock.forgo_privileges()
            ruleset.restrict()
            opened.pop_all()
        made.wall = wall

    def _restrict_to_users_later(self) -> None:
        self._made.directory = self._directory
        for path in self._made.rules:
            if _contains(path, self._top):
                self._made.warnings.append(
                    "lpserve.sandbox: users can read each other's files: all may read "
                    f"{path}"
                )

    def _allow(self, path: str, access: Access, named: bool = False) -> None:
        rules = self._made.rules
        rules[path] = rules.get(path, NOTHING) | access
        if named:
            self._made.seen[path] = identity(path)

    def _allow_runtime(self) -> None:
        """For FIFOs: a worker opens those of its client and removes them.

        Opening is allowed in all of the directory: what somebody removes of it the
        service makes again, and connections go on at once.
        """
        if self._runtime_dir is None:
            return
        from ..paths import RuntimeDirectory  # there is no such thing on Windows

        directory = RuntimeDirectory(self._runtime_dir)
        removing = Access.REMOVE_FILE | Access.REMOVE_DIR
        self._allow(directory.path, Access.WRITE_FILE | Access.READ_FILE, named=True)
        self._allow(directory.connections, removing, named=True)

    def _allow_log(self) -> None:
        """Only the file: where BRZ_HOME is set breezy.conf lies beside it."""
        made = self._made
        try:
            path = trace._get_brz_log_filename()
            if not os.path.isabs(path):
                return  # from where workers are it is another
            if os.stat(path).st_size <= MAX_LOG:
                made.log = path  # else nobody could begin it anew before
        except OSError:
            return  # Breezy has told
        self._allow(path, _FILE | Access.READ_FILE, named=True)

    def _temporary(self) -> str:
        """The temporary directory; one of our own if more than that is in it.

        :raises OSError: if there is none to be had.
        """
        found = tempfile.gettempdir()
        if not any(_contains(found, each) for each in (*self._precious, self._top)):
            return found
        ours = os.path.join(bedding.cache_dir(), "lpserve-tmp")
        os.makedirs(ours, 0o700, exist_ok=True)
        oldest = time.time() - _OLD * 86400
        for entry in os.scandir(ours):
            with contextlib.suppress(OSError):
                if entry.stat(follow_symlinks=False).st_mtime > oldest:
                    continue
                if entry.is_dir(follow_symlinks=False):
                    shutil.rmtree(entry.path)
                else:
                    os.unlink(entry.path)
        tempfile.tempdir = os.environ["TMPDIR"] = ours
        return ours

    def _find_precious(self) -> Iterator[str]:
        """What is run, or says what is done: none of it is to be changed."""
        yield bedding.config_dir()
        yield from plugins.directories()
        yield from self._python()
        yield from filter(os.path.isabs, sys.path)
        yield os.path.expanduser("~/.ssh")
        if self._runtime_dir is not None:
            yield self._runtime_dir

    def _python(self) -> Iterator[str]:
        yield os.path.dirname(breezy.__file__)
        yield from (sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix)

    def _readable(self) -> Iterator[str]:
        yield from _SYSTEM
        yield from self._python()
        yield from plugins.directories()
        # Not where we were started, which "python -m" puts there, or everything.
        aside = {os.getcwd(), "/"}
        yield from (
            each for each in sys.path if os.path.isabs(each) and each not in aside
        )

    def _warn_of(self, path: str) -> None:
        for each in self._precious:
            if _contains(path, each):
                self._made.warnings.append(
                    f"lpserve.sandbox: clients that write to {path} can change {each}"
                )
                return


def _configuration() -> Iterator[str]:
    yield bedding.config_dir()
    # That of git, which Breezy reads as it opens something.
    yield os.path.expanduser("~/.gitconfig")
    base = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    yield os.path.join(base, "git")


def _contains(parent: str, child: str) -> bool:
    parent, child = os.path.realpath(parent), os.path.realpath(child)
    return os.path.commonpath((parent, child)) == parent
