# SPDX-License-Identifier: GPL-2.0-or-later

"""Which commands of an ssh client are served."""

from breezy.tests import TestCase

from ...lpserve.client.sshcommand import command_fault


class TestCommandFault(TestCase):
    def fault(self, command, **environ):
        return command_fault({"SSH_ORIGINAL_COMMAND": command, **environ}, False)

    def test_served(self):
        for command in (
            "bzr serve --inet --directory=/ --allow-writes",
            "brz serve --inet",
            "/opt/breezy/bin/brz serve --inet --directory=/",
            "brz lp-serve --inet alice",
            "lp-serve --inet alice",
            "lp-serve-client alice",
            "/usr/local/bin/lp-serve-client alice",
            "brz lp-serve-client alice",
        ):
            self.assertIs(None, self.fault(command), command)

    def test_refused(self):
        for command in (
            *("", " ", "sh", "bzr", "serve --inet", "bzr serve", "bzr log"),
            *("bzr-serve --inet", "notbzr serve --inet", "rsync --server ."),
            *("bzr serve --port=1234", "bzr help serve --inet", "bzr init --inet"),
            *("sh -c bzr serve --inet", "\nbzr serve --inet", "bzr serve\n--inet"),
            "bzr serve --inet; sh",
            "bzr serve --inet | sh",
            "bzr serve --inet & sh",
            "bzr serve --inet > x",
            "bzr serve --inet $(id)",
            "bzr serve --inet `id`",
            "bzr serve --inet 'x y'",
            "bzr serve --inet\nsh",
            "bzr serve --inet\x1b[2J",
            "bzr serve --inet \udcff",
            "bzr serve --inet \N{LATIN SMALL LETTER E WITH ACUTE}",
        ):
            self.assertIn("only 'bzr serve --inet'", self.fault(command), command)

    def test_refusal_is_one_line(self):
        fault = self.fault("a\nb\x1b[2J" + "x" * 500)
        self.assertTrue(fault.isprintable())
        self.assertTrue(len(fault) < 200)

    def test_no_command(self):
        """Run by hand, or by a program that found its own way here."""
        self.assertIs(None, command_fault({}, False))
        self.assertIs(None, command_fault({}, True))
        self.assertIs(None, command_fault({"SSH_TTY": "/dev/pts/0"}, False))

    def test_terminal(self):
        """Somebody wants a shell."""
        self.assertIn("not a shell", command_fault({"SSH_TTY": "/dev/pts/0"}, True))
