# SPDX-License-Identifier: GPL-2.0-or-later

"""Whether the host is out of service: the file RUNTIME_DIR/drained.

Part of the stand-alone client: the standard library only (see ``client.py``).
"""

import errno
import os

from .location import directory_fault, uid_fault

#: Longest message in bytes.
LONGEST = 512
#: What users read if the administrator gives no message.
MESSAGE = "the server is out of service, try again later"
#: What is replaced in a message: what a terminal does something else with than to
#: show it (control characters, directions of text, invisible characters).
_HIDDEN = (
    *((0, 0x1F), (0x7F, 0x9F), (0x200B, 0x200F), (0x2028, 0x202E)),
    *((0x2060, 0x206F), (0xFEFF, 0xFEFF), (0xFFF9, 0xFFFB)),
)


def drained_path(directory):
    """The file that says why connections in *directory* are refused."""
    return directory + "/drained"


def read_drained(directory, service_user=None):
    """The message for users while the host is out of service; else None.

    Without a service nobody else refuses connections. A runtime directory that is
    not trusted says nothing.

    :param service_user: whose directory is trusted beside our own and root's.
    """
    try:
        owner = os.stat(directory).st_uid
        if uid_fault(owner, service_user) or directory_fault(directory, owner):
            return None
    except OSError:
        return None
    try:
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
        number = os.open(drained_path(directory), flags)
    except OSError as error:
        # A link, or what may not be read, is there all the same.
        return MESSAGE if error.errno in (errno.ELOOP, errno.EACCES) else None
    try:
        text = os.read(number, LONGEST).decode("utf-8", "replace")
    except OSError:
        text = ""
    finally:
        os.close(number)
    return clean_message(text)


def clean_message(text):
    """The message in *text*, what is in the file: its first line."""
    line = text.partition("\n")[0]
    return "".join("?" if _is_hidden(each) else each for each in line) or MESSAGE


def _is_hidden(each):
    return any(first <= ord(each) <= last for first, last in _HIDDEN)


def message_fault(text):
    """Why *text* cannot be the message, or None."""
    if not text.isprintable():
        return "the message must be one line of printable characters"
    if len(text.encode("utf-8", "replace")) >= LONGEST:
        return f"the message must be shorter than {LONGEST} bytes"
    return None


def write_drained(directory, text):
    """Take the host out of service with the message *text*; "" for the usual one.

    :raises OSError: if the file cannot be written; then nothing has changed.
    """
    temporary = f"{directory}/.new-drained"
    try:
        # Also for clients that run as other users (lpserve.allowed_peers).
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_NONBLOCK
        number = os.open(temporary, flags, 0o644)
        try:
            os.fchmod(number, 0o644)
            data = f"{text or MESSAGE}\n".encode()
            if os.write(number, data) != len(data):
                raise OSError(28, os.strerror(28))  # ENOSPC
        finally:
            os.close(number)
        os.rename(temporary, drained_path(directory))
    except OSError:
        try:
            os.unlink(temporary)
        except OSError:
            pass
        raise


def remove_drained(directory):
    """Put the host back into service; whether it was out of it.

    :raises OSError: if the file cannot be removed.
    """
    try:
        os.unlink(drained_path(directory))
    except FileNotFoundError:
        return False
    return True
