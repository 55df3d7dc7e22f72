# SPDX-License-Identifier: GPL-2.0-or-later

"""Finds the command that runs this Breezy again, for a zygote or one connection."""

from __future__ import annotations

import os
import shutil
import sys

import breezy


def brz_words() -> list[str]:
    """The command line that runs this Breezy, with the same ``-O`` options."""
    return [*_program(), *_overrides()]


def _program() -> list[str]:
    named = shutil.which(sys.argv[0])
    if named is not None and _is_running(named):
        # A program that embeds Python, as Debian's does. There sys.executable is
        # the first Python in PATH.
        return [os.path.abspath(named)]
    script = os.path.abspath(sys.argv[0])
    if os.path.basename(script) == "__main__.py" or not os.path.isfile(script):
        return [sys.executable, "-m", "breezy"]
    return [sys.executable, script]


def _is_running(program: str) -> bool:
    """Whether this process executes the file *program* itself."""
    try:
        return os.path.samefile("/proc/self/exe", program)
    except OSError:
        return False  # another system


def _overrides() -> list[str]:
    found = []
    state = breezy.get_global_state()
    for _, section in state.cmdline_overrides.get_sections():
        for name in section.iter_option_names():
            found.append(f"-O{name}={section.get(name)}")
    return found
