# SPDX-License-Identifier: GPL-2.0-or-later

"""Collects the messages in the source, and those that the manual explains.

A message is a string of several words that is no docstring, no help text and no debug
or info record. Some are whole lines, others only parts of one: a reason that is put
behind a colon. Parts that are filled in are written as "…".
"""

from __future__ import annotations

import ast
import glob
import os
import re
from collections.abc import Iterator

#: Modules whose strings are tables, help texts or parsers of words.
_NO_MESSAGES = (
    "options.py",
    "report.py",
    "reportconnections.py",
    "reportstreams.py",
    "exporter/collector.py",
    "exporter/families.py",
    "exporter/ofservice.py",
    "exporter/ofssh.py",
)
#: What findings.py has for a module; such a message has its remedy with it.
_FINDINGS = ("error", "warning", "note")
_INSTALLATION = "installation/"
#: Modules of the Python client that put messages together from parts; the native
#: client has the same messages, whole. tests/live/client/test_native.py compares.
_IN_C = (
    "client/autostart.py",
    "client/conversation.py",
    "client/socketconversation.py",
)
#: Calls whose texts are no messages: help, debugging, progress.
_NOT_IN = ("Option", "custom_help", "debug", "info", "note", "compile", "Descr")

#: Strings that look like a message and are none.
_OTHERS = {
    # Words that are compared, types, headers, formats of lines.
    "bzr serve",
    "brz serve",
    "bzr lp-serve",
    "brz lp-serve",
    "bzr lp-serve-client",
    "brz lp-serve-client",
    "Cache-Control: no-store",
    "text/plain; charset=utf-8",
    "tuple[str, int]",
    "lp-serve: …",
    "lp-serve-client: …",
    "lp-serve-ssh: …",
    "lp-serve-client … (Python)",
    "brz …: warning: …",
    "(… lines were left out) …",
    # Parts of messages that the manual has.
    "the group …",
    "the service",
    "no words",
    "one word",
    "… or more words",
    "asked by …",
    "; did you mean …?",
    "; the last reload failed: …",
    "; the last upgrade failed: …",
    "somebody at the FIFO",
    "… (uid …, pid …)",
    "uid …, pid …",
    "does not answer",
    "… is another one now",
    "… is to be begun anew",
    "{fault}; serving this connection without it",
    # Answers to commands that did what they were told.
    "… connections are told to end",
    "… kept streams (…) are removed",
    "upgraded to …",
    # To a load balancer.
    "down#no zygote",
    "ready up …%",
    "…: … sections, … groups",
    "no line of …",
    # Of programs that use lpserve/conch, told to who writes them.
    "a worker has no usePTY, path, uid or gid",
    "a worker has the childFDs …",
    "there is no signal …",
    "say user=, or args that end in lp-serve --inet USER",
    # Seen by no user: between processes of one service, and in their tests.
    "not a message: …",
    "not a revision graph",
    "it was cut",
    "there is no log",
    "there is no room for the descriptors",
    "a body of …",
}

#: A fault in the native client, with its text.
_C_FAULT = re.compile(r'\bfail\(\s*\w*fault,[^"]*?((?:"[^"]*"\s*)+)')


def normalise(text: str) -> str:
    """*text* in one line, with "…" for what is filled in."""
    text = re.sub(r"%[-.0-9]*[sdrf]|\{[a-z_]*\}|%\(\w+\)[0-9]*[sd]", "…", text)
    return re.sub("…+", "…", " ".join(text.split()))


def _is_message(text: str) -> bool:
    words = re.findall(r"(?<![\w/.])[a-z]{2,}(?![\w/.])", text)
    return " " in text and len(words) >= 2 and text not in _OTHERS


def _text(node: ast.AST) -> str | None:
    if isinstance(node, ast.JoinedStr):
        parts = (v.value if isinstance(v, ast.Constant) else "…" for v in node.values)
        return "".join(str(part) for part in parts)
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    return None


def _called(node: ast.AST) -> str:
    if not isinstance(node, ast.Call):
        return ""
    return getattr(node.func, "attr", getattr(node.func, "id", ""))


def _strings(tree: ast.Module) -> Iterator[str]:
    """The strings in a module that may be messages."""
    passed: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr) or _called(node) in _NOT_IN:
            passed.update(each for each in ast.walk(node) if each is not node)
        elif isinstance(node, ast.Expr):
            passed.add(node.value)  # docstrings
        elif isinstance(node, (ast.AnnAssign, ast.arg)) and node.annotation:
            passed.update(ast.walk(node.annotation))
    for node in ast.walk(tree):
        text = None if node in passed else _text(node)
        if text is not None:
            yield normalise(text)


def collect_messages(root: str) -> dict[str, str]:
    """The messages of the programs: each normalised, and the file that has it.

    :param root: the directory of the plug-in's source.
    """
    found: dict[str, str] = {}
    names = glob.glob("**/*.py", root_dir=f"{root}/lpserve", recursive=True)
    for name in sorted(names):
        if name in _NO_MESSAGES + _IN_C or name.startswith(_INSTALLATION):
            continue
        # The help of a command is its docstring; its options are in calls.
        with open(f"{root}/lpserve/{name}", encoding="utf-8") as file:
            tree = ast.parse(file.read())
        for text in filter(_is_message, _strings(tree)):
            if not text.startswith("usage: "):
                found.setdefault(text, name)
    for path in sorted(glob.glob(f"{root}/native/*.c")):
        with open(path, encoding="utf-8") as file:
            source = file.read()
        for match in _C_FAULT.finditer(source):
            text = "".join(re.findall(r'"([^"]*)"', match[1]))
            text = normalise(re.sub(r"%(04o|l?d|u|zu)", "…", text))
            if _is_message(text):
                found.setdefault(text, os.path.basename(path))
    return found


def collect_findings(root: str) -> list[tuple[str, str, str]]:
    """What "lp-serve-setup check" can find: severity, message and remedy."""
    found = []
    for path in sorted(glob.glob(f"{root}/lpserve/{_INSTALLATION}*.py")):
        with open(path, encoding="utf-8") as file:
            tree = ast.parse(file.read())
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and _called(node) in _FINDINGS:
                texts = [_text(each) for each in node.args[:2]]
                if len(texts) == 2 and texts[0] and _is_message(texts[0]):
                    what = normalise(texts[0])
                    remedy = normalise(texts[1] or "…")
                    found.append((_called(node), what, remedy))
    return found


def collect_refusals(root: str) -> dict[str, str]:
    """The messages of "lp-serve-setup" that are no findings."""
    found: dict[str, str] = {}
    known = {what for _, what, _ in collect_findings(root)}
    for path in sorted(glob.glob(f"{root}/lpserve/{_INSTALLATION}*.py")):
        with open(path, encoding="utf-8") as file:
            tree = ast.parse(file.read())
        for node in ast.walk(tree):
            if _called(node).endswith("Error") and isinstance(node, ast.Call):
                for text in filter(None, map(_text, node.args)):
                    text = normalise(text)
                    if _is_message(text) and text not in known:
                        found.setdefault(text, os.path.basename(path))
    return found


_ENTRY = re.compile(r"^\.\. message::\n((?:   \S.*\n)+)((?:\n|   .*\n)*)", re.M)


def read_entries(page: str) -> list[tuple[list[str], str]]:
    """The entries of a page: the messages, and what is said of them."""
    return [
        ([line.strip() for line in match[1].splitlines()], match[2].strip())
        for match in _ENTRY.finditer(page)
    ]
