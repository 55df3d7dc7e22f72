# SPDX-License-Identifier: GPL-2.0-or-later

"""The base classes and options that the commands share."""

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
    """Base of the commands; turns `LpserveError` into Breezy's CommandError."""

    def run(self, *args: Any, **kwargs: Any) -> int | None:
        open_standard_descriptors()
        try:
            return self.perform(*args, **kwargs)
        except LpserveError as error:
            raise _mod_errors.CommandError(str(error)) from None

    def perform(self, *args: Any, **kwargs: Any) -> int | None:
        raise NotImplementedError(self.perform)


class ClientCommand(LpserveCommand):
    """Base of the commands that ask the service.

    The module `client` is imported late: it does not work on every system.
    """

    def run(self, *args: Any, **kwargs: Any) -> int | None:
        from ..client import conversation

        try:
            return super().run(*args, **kwargs)
        except conversation.ClientError as error:
            sys.stderr.write(f"brz {self.name()}: {error.shown}\n")
            return error.status
