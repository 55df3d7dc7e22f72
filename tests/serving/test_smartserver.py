# SPDX-License-Identifier: GPL-2.0-or-later

"""What a client is told of what went wrong."""

import os
import tempfile

from breezy.tests import TestCaseInTempDir

from ...lpserve.errors import ConfigurationError
from ...lpserve.serving.smartserver import report_error
from ..test_system import in_child


class TestReportError(TestCaseInTempDir):
    """What a client is told of an error, and whether it names a path of this host."""

    def told(self, error, **env):
        """The status for *error* and its line."""

        def run():
            for name in ("SSH_CONNECTION", "SSH_ORIGINAL_COMMAND", "SSH_TTY"):
                os.environ.pop(name, None)
            os.environ.update(env)
            with tempfile.TemporaryFile() as file:
                os.dup2(file.fileno(), 2)
                try:
                    raise error
                except type(error) as caught:
                    status = report_error(caught)
                file.seek(0)
                return [status, file.read().decode()]

        return in_child(run)

    def test_paths(self):
        secret = "/srv/secret"
        with_path = ConfigurationError(f"no {secret}", "no directory")
        for error, told, hidden in (
            (with_path, (3, f"no {secret}"), "no directory"),
            (ConfigurationError("a line"), (3, "a line"), "a line"),
            (
                PermissionError(13, "Permission denied", secret),
                (3, f"[Errno 13] Permission denied: '{secret}'"),
                "Permission denied (brz.log has more)",
            ),
            (
                KeyError(secret),
                (4, f"KeyError: '{secret}' (the traceback is in brz.log)"),
                "KeyError (brz.log has more)",
            ),
            (BrokenPipeError(32, "x", secret), (3, "the client went away"), None),
        ):
            status, line = told
            self.assertEqual([status, f"lp-serve: {line}\n"], self.told(error))
            for name in ("SSH_CONNECTION", "SSH_ORIGINAL_COMMAND"):
                self.assertEqual(
                    [status, f"lp-serve: {hidden or line}\n"],
                    self.told(error, **{name: "x"}),
                )
