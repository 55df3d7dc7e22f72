# SPDX-License-Identifier: GPL-2.0-or-later

"""Reads the sources of the manual, with the modules that build it."""

from __future__ import annotations

import glob
import os
from types import ModuleType

from breezy.tests import TestSkipped

from ..harness import PLUGIN
from ..scripts import load_script

DOC = os.path.join(PLUGIN, "doc")


def load(name: str) -> ModuleType:
    """The module *name* of the manual's extension.

    :raises TestSkipped: where the manual is not installed beside the plug-in.
    """
    path = os.path.join(DOC, "_ext", f"{name}.py")
    if not os.path.exists(path):
        raise TestSkipped("there is no manual here")
    return load_script(f"lpserve_manual_{name}", path)


def pages() -> dict[str, str]:
    """The texts of all pages by their names: "quickstart", "man/lpserve.conf"."""
    found = {}
    for name in sorted(glob.glob("**/*.rst", root_dir=DOC, recursive=True)):
        with open(os.path.join(DOC, name), encoding="utf-8") as file:
            found[name[: -len(".rst")]] = file.read()
    return found
