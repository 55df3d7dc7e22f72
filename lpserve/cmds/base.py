# SPDX-License-Identifier: GPL-2.0-or-later

"""What the commands share."""

from __future__ import annotations

import sys
from typing import Any

from breezy import errors as _mod_errors
from breezy.commands import Command
from breezy.option import Option

from ..descriptors import open_standard_descriptors
from ..errors import LpserveError

runtime_dir_option = Option(
    "runtime-dir",
    type=str,
    argname="DIR",
    help="The directory in which service and clients meet.",
)


class LpserveCommand(Command):
    """Turns the plug-in's errors into Breezy's."""

    def run(self, *args: Any, **kwargs: Any) -> int | None:
        open_standard_descriptors()
        try:
            return self.perform(*args, **kwargs)
        except LpserveError as error:
            raise _mod_errors.CommandError(str(error)) from None

    def perform(self, *args: Any, **kwargs: Any) -> int | None:
        raise NotImplementedError(self.perform)


class ClientCommand(LpserveCommand):
    """A client of the service; what it needs is not there on every system."""

    def run(self, *args: Any, **kwargs: Any) -> int | None:
        from ..client import conversation

        try:
            return super().run(*args, **kwargs)
        except conversation.ClientError as error:
            sys.stderr.write(f"brz {self.name()}: {error.shown}\n")
            return error.status
