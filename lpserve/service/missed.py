# SPDX-License-Identifier: GPL-2.0-or-later

"""Reports modules that the rehearsal has missed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class MissedModules:
    """Logs the modules that connections had to import themselves, each one once.

    :param log: called with a line.
    """

    def __init__(self, log: Callable[[str], None]):
        self._log = log
        self._known: set[str] = set()

    def report(self, names: Any) -> None:
        """Log *names*, what a worker has sent: a list of modules."""
        found = names if isinstance(names, list) else []
        new = sorted({str(each) for each in found} - self._known)
        if new:
            self._known.update(new)
            self._log(f"rehearsal missed modules: {' '.join(new)}")
