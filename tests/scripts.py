# SPDX-License-Identifier: GPL-2.0-or-later

"""Loads programs of the project that are no modules of the plug-in, to test them."""

import importlib.util
import sys
import types


def load_script(name: str, path: str) -> types.ModuleType:
    """The file *path* as a module called *name*; it does nothing when it is loaded."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module
