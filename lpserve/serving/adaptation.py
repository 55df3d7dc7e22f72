# SPDX-License-Identifier: GPL-2.0-or-later

"""What is different in Breezy while a connection is served.

No lock is waited for, every error becomes an answer, what writes is refused before it
begins, and what clients write (paths, configuration files, git repositories) neither
opens a path of the host nor tells of the account's configuration.
"""

from __future__ import annotations

import inspect
import sys
from typing import Any

from breezy import config, directory_service, git, lockdir, transport
from breezy.bzr.smart import medium, repository, request

from . import answers
from .containment import local_transport

_Changed = list[tuple[Any, str, Any]]


# -- configuration files that clients write ------------------------------------


class Literal(str):
    """A value in which ``{name}`` stands for nothing.

    Breezy would put the option in its place, of the account's configuration too; and
    some lines that name each other are gigabytes.
    """

    __slots__ = ()


class ClientSection(config.Section):
    """A section of a file that clients may write: branch.conf, control.conf."""

    #: How the names of options begin that are about this host and this account: what
    #: is run and read, who is sent mail and with which password.
    _OF_THE_ACCOUNT = (
        *("debug_flags", "editor", "email", "git.", "gpg_", "lpserve.", "mail_client"),
        *("po_merge.", "post_commit", "quilt.", "revision_mail_headers", "serve."),
        *("smtp_", "ssh", "ssl.", "upload_"),
    )

    def get(self, name: str, default: Any = None, expand: bool = True) -> Any:
        """The option, or *default*."""
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
    """What the account's ``{name}`` stands for: nothing that would be expanded again.

    :raises ExpandingUnknownOption: if a client has written such a thing.
    """
    value = _expand_one(stack, name, env, _refs)
    if isinstance(value, Literal) and "{" in value:
        raise config.ExpandingUnknownOption(name, value)
    return value


# -- locations ------------------------------------------------------------------


def _dereference(directories: Any, location: str, purpose: Any = None) -> str:
    """*location*, which names no project of Launchpad, PyPI...: nobody is asked."""
    return location


# -- git repositories -----------------------------------------------------------


_probe = git.LocalGitProber.probe_transport
#: What was changed in dulwich since somebody has last asked.
_changed_late: _Changed = []


def _probe_transport(prober: Any, found: Any) -> Any:
    """Breezy's; a repository that it finds is opened next."""
    format = _probe(prober, found)
    _changed_late.extend(_change(_in_dulwich()))
    return format


def _in_dulwich() -> _Changed:
    """A repository has its own configuration, and includes no other file."""
    from dulwich.config import ConfigFile, StackedConfig

    if getattr(StackedConfig.default_backends, "_lpserve", False):
        return []
    read = ConfigFile.from_file.__func__
    known = inspect.signature(read).parameters
    only: dict[str, Any] = {}
    if "expand_includes" in known:
        only = {"expand_includes": False}
    elif "file_opener" in known:  # includes came with it
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
    (transport, "get_transport_from_path", local_transport),
    (config.BranchStore, "readonly_section_class", ClientSection),
    (config.ControlStore, "readonly_section_class", ClientSection),
    (config.Stack, "_expand_options_in_string", _expand_options_in_string),
    (config.Stack, "_expand_option", _expand_option),
    (directory_service.DirectoryServiceRegistry, "dereference", _dereference),
    (git.LocalGitProber, "probe_transport", _probe_transport),
]


def _change(wanted: _Changed) -> _Changed:
    """Change that; what it was before, of what was otherwise."""
    changed = []
    for owner, name, value in wanted:
        before = inspect.getattr_static(owner, name)
        if before is not value:
            changed.append((owner, name, before))
            setattr(owner, name, value)
    return changed


# Whether it is done, and stays.
_for_ever = False


def adapt() -> _Changed:
    """Have Breezy as connections need it; what to give `restore` afterwards."""
    if _for_ever:
        return []
    changed = _change(_ADAPTED)
    if "dulwich.config" in sys.modules:
        changed += _change(_in_dulwich())
    return changed


def adapt_for_ever() -> None:
    """Have Breezy as connections need it, with nothing left to do for each of them.

    For a zygote: to change a class takes back what Python has specialized for it, in
    each worker anew.
    """
    global _for_ever
    adapt()
    _for_ever = True


def restore(changed: _Changed) -> None:
    """Have Breezy as it was."""
    if not changed:
        return
    for owner, name, value in [*changed, *_changed_late]:
        setattr(owner, name, value)
    _changed_late.clear()
