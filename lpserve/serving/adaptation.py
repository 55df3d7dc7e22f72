# SPDX-License-Identifier: GPL-2.0-or-later

"""Replaces functions of Breezy while a connection is served.

With the replacements Breezy does not wait for locks and leaves it to clients to break
them, sends every error as an answer and refuses writes early in a read-only service.
Paths, configuration files and git repositories that clients write neither open other
paths of the host nor reveal the configuration of the account.
"""

from __future__ import annotations

import inspect
import sys
from typing import Any

from breezy import config, directory_service, git, lockdir, transport
from breezy.bzr.smart import branch, medium, repository, request

from . import answers, noting
from .containment import local_transport

_Changed = list[tuple[Any, str, Any]]


# -- configuration files that clients write ------------------------------------


class Literal(str):
    """A value in which ``{name}`` is not expanded.

    An expansion could insert an option from the account's configuration, and a few
    options that refer to each other can expand to gigabytes.
    """

    __slots__ = ()


class ClientSection(config.Section):
    """A section of a file that clients may write: branch.conf, control.conf."""

    #: Prefixes of options that concern this host and account: programs and files,
    #: recipients of mail, passwords. A client's values for them are ignored.
    _OF_THE_ACCOUNT = (
        *("debug_flags", "editor", "email", "git.", "gpg_", "lpserve.", "mail_client"),
        *("po_merge.", "post_commit", "quilt.", "revision_mail_headers", "serve."),
        *("smtp_", "ssh", "ssl.", "upload_"),
    )

    def get(self, name: str, default: Any = None, expand: bool = True) -> Any:
        """The value of the option *name*, or *default*."""
        if name.startswith(self._OF_THE_ACCOUNT):
            return default
        value = super().get(name, default, expand)
        return Literal(value) if isinstance(value, str) else value


_expand = config.Stack._expand_options_in_string
_expand_one = config.Stack._expand_option


def _expand_options_in_string(
    stack: Any, string: Any, env: Any = None, _refs: Any = None
) -> Any:
    if isinstance(string, Literal):
        return string
    return _expand(stack, string, env, _refs)


def _expand_option(stack: Any, name: str, env: Any, _refs: Any) -> Any:
    """Expand ``{name}`` in a value of the account's configuration.

    :raises ExpandingUnknownOption: if *name* is an option that a client has written,
        with references in its value.
    """
    value = _expand_one(stack, name, env, _refs)
    if isinstance(value, Literal) and "{" in value:
        raise config.ExpandingUnknownOption(name, value)
    return value


# -- locations ------------------------------------------------------------------


def _dereference(directories: Any, location: str, purpose: Any = None) -> str:
    """*location* itself: names such as ``lp:project`` are not looked up."""
    return location


# -- git repositories -----------------------------------------------------------


_probe = git.LocalGitProber.probe_transport
#: The changes that were made to dulwich after `adapt`.
_changed_late: _Changed = []


def _probe_transport(prober: Any, found: Any) -> Any:
    """Probe as Breezy does, and adapt dulwich, which that has imported."""
    format = _probe(prober, found)
    _changed_late.extend(_change(_in_dulwich()))
    return format


def _in_dulwich() -> _Changed:
    """Changes after which a repository reads only its own configuration file."""
    from dulwich.config import ConfigFile, StackedConfig

    if getattr(StackedConfig.default_backends, "_lpserve", False):
        return []
    read = ConfigFile.from_file.__func__
    known = inspect.signature(read).parameters
    only: dict[str, Any] = {}
    if "expand_includes" in known:
        only = {"expand_includes": False}
    elif "file_opener" in known:  # the first version that supports includes
        only = {"file_opener": _open_nothing}

    def from_file(cls: Any, *given: Any, **options: Any) -> Any:
        return read(cls, *given, **{**options, **only})

    def default_backends(cls: Any) -> list[Any]:
        return []

    default_backends._lpserve = True  # type: ignore[attr-defined]
    return [
        (ConfigFile, "from_file", classmethod(from_file)),
        (StackedConfig, "default_backends", classmethod(default_backends)),
    ]


def _open_nothing(path: Any) -> Any:
    raise FileNotFoundError(path)


# -- all of it --------------------------------------------------------------------


_ADAPTED: _Changed = [
    (lockdir, "_DEFAULT_TIMEOUT_SECONDS", 0),
    (medium, "_get_protocol_factory_for_bytes", answers.protocol_of),
    (request, "_translate_error", answers.translate),
    (request.SmartServerRequestHandler, "args_received", noting.args_received),
    *(
        (owner, name, answers.unless_readonly(getattr(owner, name)))
        for owner, name in (
            (repository.SmartServerRepositoryLockWrite, "do_repository_request"),
            (
                repository.SmartServerRepositoryInsertStreamLocked,
                "do_insert_stream_request",
            ),
        )
    ),
    (
        branch.SmartServerBranchBreakLock,
        "do_with_branch",
        answers.left_to_client(b"Branch.break_lock"),
    ),
    (
        repository.SmartServerRepositoryBreakLock,
        "do_repository_request",
        answers.left_to_client(b"Repository.break_lock"),
    ),
    (transport, "get_transport_from_path", local_transport),
    (config.BranchStore, "readonly_section_class", ClientSection),
    (config.ControlStore, "readonly_section_class", ClientSection),
    (config.Stack, "_expand_options_in_string", _expand_options_in_string),
    (config.Stack, "_expand_option", _expand_option),
    (directory_service.DirectoryServiceRegistry, "dereference", _dereference),
    (git.LocalGitProber, "probe_transport", _probe_transport),
]


def _change(wanted: _Changed) -> _Changed:
    """Set the attributes *wanted*; the previous values of those that differed."""
    changed = []
    for owner, name, value in wanted:
        before = inspect.getattr_static(owner, name)
        if before is not value:
            changed.append((owner, name, before))
            setattr(owner, name, value)
    return changed


# Whether `adapt_for_ever` was called.
_for_ever = False


def adapt() -> _Changed:
    """Replace the functions; the previous ones, for `restore`."""
    if _for_ever:
        return []
    changed = _change(_ADAPTED)
    if "dulwich.config" in sys.modules:
        changed += _change(_in_dulwich())
    return changed


def adapt_for_ever() -> None:
    """Replace the functions permanently, in a zygote.

    A change of a class invalidates the specialized bytecode that uses it. That would
    happen in each worker.
    """
    global _for_ever
    adapt()
    _for_ever = True


def restore(changed: _Changed) -> None:
    """Undo `adapt`."""
    if not changed:
        return
    for owner, name, value in [*changed, *_changed_late]:
        setattr(owner, name, value)
    _changed_late.clear()
