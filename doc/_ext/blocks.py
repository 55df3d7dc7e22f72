# SPDX-License-Identifier: GPL-2.0-or-later

"""Finds the shell commands of the manual, for the tests that run them.

    blocks.py PAGE.rst KIND...

prints the commands of some kinds in a page, as a shell script, in their order.

A block of commands is written as

    .. shell:: KIND

       COMMAND

`KINDS` says who types the commands of each kind. As a test they are run by
`tests/manual/test_commands.py`, or, if they need root or a machine of their own, by
`packaging/trymanual.py`, "builder" by `packaging/trydeb.py`. What "container" does, is
done by `packaging/try-container` in other words.
"""

from __future__ import annotations

import re
import sys
from typing import NamedTuple

#: Who types the commands of a block.
KINDS = {
    "account": "On the host, as the account that serves the branches:",
    "user": "On your own machine:",
    "anywhere": "",
    "source": "In the source directory:",
    "builder": "In the source directory, as root:",
    "root": "On the host, as root:",
    "pipx": "On the host, as the account that serves the branches:",
    "laptop": "On your own machine:",
    "container": "Where podman is:",
}
#: Those that a test of "make check" runs, in a directory of its own.
RUN_IN_CHECK = ("account", "user", "anywhere")

_BLOCK = re.compile(r"^\.\. shell:: *(\w*)\n((?:\n|   .*\n)+)", re.M)


class Block(NamedTuple):
    """Some commands of a page.

    :ivar kind: one of `KINDS`.
    :ivar text: the commands, as lines.
    :ivar line: where in the page, counted from 1.
    """

    kind: str
    text: str
    line: int


def find_blocks(page: str) -> list[Block]:
    """The blocks in the text of a page, in their order."""
    found = []
    for match in _BLOCK.finditer(page):
        lines = [line[3:] for line in match[2].splitlines()]
        text = "\n".join(lines).strip("\n") + "\n"
        found.append(Block(match[1], text, page.count("\n", 0, match.start()) + 1))
    return found


def main(path: str, *kinds: str) -> None:
    """Print the commands of *kinds*."""
    with open(path, encoding="utf-8") as file:
        for block in find_blocks(file.read()):
            if block.kind in kinds:
                print(f"# {path}:{block.line}\n{block.text}")


if __name__ == "__main__":
    main(*sys.argv[1:])
