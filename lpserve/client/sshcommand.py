# SPDX-License-Identifier: GPL-2.0-or-later

"""Accepts only those SSH_ORIGINAL_COMMANDs that a Bazaar client sends.

Part of the stand-alone client: imports the standard library only (see ``client.py``).
"""

_SAFE = frozenset(
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789@%_-+=:,./~ "
)
_SERVE = ("bzr serve", "brz serve", "bzr lp-serve", "brz lp-serve", "lp-serve")
_CLIENT = ("lp-serve-client", "bzr lp-serve-client", "brz lp-serve-client")


def command_fault(environ, terminal):
    """Why the command of an ssh client is refused, or None.

    With a forced command, sshd runs this program and puts the command of the user
    into SSH_ORIGINAL_COMMAND (sshd(8)). That is never executed.

    :param environ: the environment, a dict.
    :param terminal: whether standard input is a terminal. Such a user expects a
        shell, and gets a message instead of a server that waits silently.
    """
    command = environ.get("SSH_ORIGINAL_COMMAND")
    if command is None:
        if terminal and environ.get("SSH_TTY"):
            return "this account serves Bazaar, not a shell"
        return None
    words = command.split(" ") if _SAFE.issuperset(command) else [""]
    program = words[0].rpartition("/")[2]
    if program in ("bzr", "brz"):
        program = " ".join([program, *words[1:2]])
    if program in _CLIENT or (program in _SERVE and "--inet" in words):
        return None
    shown = "".join(each if " " <= each <= "~" else "?" for each in command[:80])
    return f"only 'bzr serve --inet' is allowed, not: {shown}"
