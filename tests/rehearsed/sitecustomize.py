# SPDX-License-Identifier: GPL-2.0-or-later

"""Has a zygote take what a rehearsal finds from an earlier one, of the same tests.

A rehearsal is three quarters of what the start of a service costs, and hundreds of
tests start one. Python imports this as it starts, where it is on PYTHONPATH: it is no
plug-in, which the service would notice. ``LPSERVE_TEST_REHEARSED`` is the file.
"""

import contextlib
import importlib.util
import json
import os
import sys

_MODULE = "breezy.plugins.lpserve.lpserve.zygote.rehearsal"


class _Finder:
    """Finds one module, and changes it once it is there."""

    def find_spec(self, name, path=None, target=None):
        if name != _MODULE:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        load = spec.loader.exec_module

        def exec_module(module):
            load(module)
            _remember(module)

        spec.loader.exec_module = exec_module
        return spec


def _remember(rehearsal):
    path = os.environ["LPSERVE_TEST_REHEARSED"]
    perform = rehearsal._perform

    def remembered(start, names):
        with contextlib.suppress(FileNotFoundError), open(path) as file:
            names.extend(json.load(file))
            return
        perform(start, names)
        new = f"{path}-{os.getpid()}"
        with open(new, "w") as file:
            json.dump(names, file)
        os.rename(new, path)

    rehearsal._perform = remembered


if "--zygote" in sys.orig_argv:
    sys.meta_path.insert(0, _Finder())
