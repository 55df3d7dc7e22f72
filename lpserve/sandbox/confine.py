# SPDX-License-Identifier: GPL-2.0-or-later

"""Computes what a process that serves connections is allowed, and enters the sandbox.

Landlock allows access beneath a path, without exceptions for parts of it. Therefore
the rules here are narrow: in the runtime directory files may be opened but not created,
and of the directory of the log only the log is writable.
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

#: Days after which entries of our own temporary directory are removed.
_OLD = 10

_FILE = Access.WRITE_FILE | Access.TRUNCATE
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
#: What programs need to read and run; paths that do not exist are skipped.
_SYSTEM = (
    *("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/etc", "/proc"),
    *("/sys/devices/system", "/sys/fs/cgroup"),
    # The target of /etc/resolv.conf.
    *("/run/systemd/resolve", "/run/resolvconf"),
    *("/nix/store", "/gnu/store"),
)


def enter(settings: dict[str, Any], runtime_dir: str | None) -> Sandbox:
    """Enter the sandbox; the process cannot leave it, and must have one thread.

    :param settings: the result of `settings.Settings.for_worker`.
    :param runtime_dir: the runtime directory; None with --inet.
    :returns: the sandbox, which may be "off".
    :raises ConfigurationError: if *settings* are invalid.
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
    """Enter the sandbox in a process that serves one connection, for *user*.

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
    """Computes the rules and enters the sandbox."""

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
        """Compute the rules and enter the sandbox.

        :raises OSError: if the kernel refuses.
        :raises ConfigurationError: for an invalid `lpserve.sandbox_paths`.
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
        self._allow_access()
        self._allow_streams()
        for name in _DEVICES:
            self._allow(f"/dev/{name}", _FILE | Access.READ_FILE)
        if self._strict:
            for path in self._readable():
                self._allow(path, READ)
            for path in _configuration():
                self._allow(path, DATA)
            if not root.is_shared(self._directory):
                self._restrict_to_users_later()
        # Not in `made.rules`: `restrict_to_user` allows the user's directory instead.
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
            # Every ruleset denies REFER, unless it is handled and allowed.
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
                    # The service itself warns if what is served is missing.
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
        """Allow workers to open FIFOs, and to remove those of their connections.

        Opening is allowed in the whole directory: if a subdirectory is removed, the
        service creates it again, and a rule for the old one would not apply.
        """
        if self._runtime_dir is None:
            return
        from ..paths import RuntimeDirectory  # it does not import on Windows

        directory = RuntimeDirectory(self._runtime_dir)
        removing = Access.REMOVE_FILE | Access.REMOVE_DIR
        self._allow(directory.path, Access.WRITE_FILE | Access.READ_FILE, named=True)
        self._allow(directory.connections, removing, named=True)

    def _allow_log(self) -> None:
        """Allow the log only: with BRZ_HOME, breezy.conf is in the same directory."""
        made = self._made
        try:
            path = trace._get_brz_log_filename()
            if not os.path.isabs(path):
                return  # workers have another working directory
            if os.stat(path).st_size <= MAX_LOG:
                made.log = path  # a larger one could not be rotated before, either
        except OSError:
            return  # Breezy has reported it
        self._allow(path, _FILE | Access.READ_FILE, named=True)

    def _allow_streams(self) -> None:
        """To keep streams, where all users are served the same."""
        path = self._settings.get("stream_directory")
        if path and root.is_shared(self._directory):
            rights = Access.MAKE_REG | Access.REMOVE_FILE | _FILE | Access.READ_FILE
            self._allow(path, rights, named=True)

    def _allow_access(self) -> None:
        """To read access rules: an editor puts another file in the place of theirs."""
        path = self._settings.get("access")
        if not path or not self._strict:
            return
        place = os.path.dirname(os.path.realpath(path))
        if any(_contains(place, each) for each in self._unread()):
            self._made.warnings.append(
                f"lpserve.sandbox: workers are not to read all of {place}: if the file "
                "of access rules is replaced, the next are used after some seconds only"
            )
            self._allow(os.path.realpath(path), Access.READ_FILE, named=True)
        else:
            self._allow(place, DATA)

    def _unread(self) -> Iterator[str]:
        """What workers have no need to read: keys and the like, what is others'."""
        yield os.path.expanduser("~")
        yield os.path.expanduser("~/.ssh")
        if not root.is_shared(self._directory):
            yield self._top

    def _temporary(self) -> str:
        """The temporary directory.

        If that contains precious paths or what is served, it is a directory of our
        own, whose old entries are removed.

        :raises OSError: if it cannot be created.
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
        """Code and configuration, which clients must not be able to change."""
        yield bedding.config_dir()
        yield from plugins.directories()
        yield from self._python()
        yield from filter(os.path.isabs, sys.path)
        yield os.path.expanduser("~/.ssh")
        if self._runtime_dir is not None:
            yield self._runtime_dir
        if self._settings.get("access"):
            yield self._settings["access"]

    def _python(self) -> Iterator[str]:
        yield os.path.dirname(breezy.__file__)
        yield from (sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix)

    def _readable(self) -> Iterator[str]:
        yield from _SYSTEM
        yield from self._python()
        yield from plugins.directories()
        # Without the working directory, which "python -m" adds, and without "/".
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
    # That of git, which Breezy reads when it opens a repository.
    yield os.path.expanduser("~/.gitconfig")
    base = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    yield os.path.join(base, "git")


def _contains(parent: str, child: str) -> bool:
    parent, child = os.path.realpath(parent), os.path.realpath(child)
    return os.path.commonpath((parent, child)) == parent
