# SPDX-License-Identifier: GPL-2.0-or-later

"""What a test with processes may leave behind: nothing."""

from __future__ import annotations

import contextlib
import os
import signal

from .waiting import wait_until

#: Ways in for requests: paths in the runtime directory of a running service.
DOORS = ["control", "socket"]


class Leftovers:
    """Finds processes by a variable of their environment, and paths.

    :ivar token: the value of LPSERVE_TEST in the environment of the processes.
    :ivar runtime: the runtime directory.
    """

    token: str
    runtime: str

    def processes(self) -> dict[int, str]:
        """Everything that carries our token: pid to command line."""
        found = {}
        wanted = f"LPSERVE_TEST={self.token}".encode()
        for name in os.listdir("/proc"):
            if not name.isdigit():
                continue
            with contextlib.suppress(OSError):
                with open(f"/proc/{name}/environ", "rb") as environ:
                    if wanted not in environ.read().split(b"\0"):
                        continue
                with open(f"/proc/{name}/cmdline", "rb") as cmdline:
                    found[int(name)] = cmdline.read().replace(b"\0", b" ").decode()
        return found

    def paths_left(self) -> list[str]:
        """What is in the runtime directory that a connection left."""
        found = []
        for name in ("connections", "replies"):
            with contextlib.suppress(FileNotFoundError):
                path = os.path.join(self.runtime, name)
                found += [os.path.join(name, each) for each in os.listdir(path)]
        with contextlib.suppress(FileNotFoundError):
            found += [name for name in DOORS if name in os.listdir(self.runtime)]
        return found

    def remove_doors(self) -> None:
        """Remove what a killed service could not."""
        for name in DOORS:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(self.runtime, name))

    def check_nothing_left(self) -> None:
        """Fail if a process or a path is left; then end what is."""
        try:
            wait_until(lambda: not self.processes(), "every process has ended")
        except AssertionError:
            left = self.processes()
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            raise AssertionError(f"processes left: {left}") from None
        if left := self.paths_left():
            raise AssertionError(f"paths left: {left}")
