# SPDX-License-Identifier: GPL-2.0-or-later

"""Wraps functions of Breezy that offer no hooks, if their code is the one expected.

Each function that is wrapped, or that a wrapper relies on, has to have one of the
digests that it has in the versions of Breezy that wrappers were written for.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import inspect
import textwrap
from collections.abc import Callable, Iterable
from typing import Any

#: What has a function, its name there, and the digests that it may have.
Expected = tuple[Any, str, tuple[str, ...]]
#: What has a function, its name there, and what is called in its place: with the
#: original, and the arguments of that.
Wrapper = tuple[Any, str, Callable[..., Any]]


class UnexpectedBreezy(Exception):
    """A function of this Breezy is not as the wrappers expect it."""


def digest(function: Any) -> str:
    """A digest of the code of *function*, without its comments and docstring.

    :raises UnexpectedBreezy: if its source is missing.
    """
    try:
        source = inspect.getsource(function)
    except (OSError, TypeError):
        raise UnexpectedBreezy(f"the source of {function} is missing") from None
    definition = ast.parse(textwrap.dedent(source)).body[0]
    body = getattr(definition, "body", None)
    if body and ast.get_docstring(definition, clean=False) is not None:  # type: ignore
        del body[0]
    return hashlib.sha256(_shape(definition).encode()).hexdigest()[:16]


def _shape(node: Any) -> str:
    """*node* as a text; unlike `ast.dump`, it is the same in all versions of Python."""
    if isinstance(node, ast.AST):
        parts = [
            f"{name}={_shape(value)}"
            for name, value in ast.iter_fields(node)
            if value not in (None, []) and name not in ("kind", "returns", "annotation")
        ]
        return f"{type(node).__name__}({','.join(parts)})"
    if isinstance(node, list):
        return "[" + ",".join(map(_shape, node)) + "]"
    return repr(node)


def check(expected: Iterable[Expected]) -> None:
    """Check that this Breezy can be wrapped.

    :raises UnexpectedBreezy: with the name of the first function that differs.
    """
    for owner, name, digests in expected:
        function = inspect.getattr_static(owner, name, None)
        function = getattr(function, "__func__", function)  # of a class method
        if function is None or digest(function) not in digests:
            raise UnexpectedBreezy(f"{owner.__name__}.{name} is not the one expected")


def wrap(wrappers: Iterable[Wrapper]) -> None:
    """Wrap functions; to be called once in a process for each."""
    for owner, name, wrapper in wrappers:
        original = getattr(owner, name)
        wrapped = functools.partial(wrapper, original)
        setattr(owner, name, functools.wraps(original)(_as_method(wrapped)))


def _as_method(wrapped: Callable[..., Any]) -> Callable[..., Any]:
    def method(self: Any, *words: Any) -> Any:
        return wrapped(self, *words)

    return method
