# SPDX-License-Identifier: GPL-2.0-or-later

"""Finds the runtime directory, and reads breezy.conf without Breezy.

Part of the stand-alone client: imports the standard library only (see ``client.py``).
"""

import os
import stat

#: Environment variables that a request may set in the worker.
ENVIRONMENT = (
    "BRZ_EMAIL",
    "LANG",
    "LC_ALL",
    "LC_CTYPE",
    "TZ",
    "SSH_CLIENT",
    "SSH_CONNECTION",
    "SSH_ORIGINAL_COMMAND",
)
#: The variable that tells hooks in a worker who USER is; no request can set it.
LPSERVE_USER = "LPSERVE_USER"
#: The user for whom ``lp-serve-control health`` asks for a worker.
HEALTH_USER = "lp-serve-health"
#: Seconds until a client or a worker stops waiting for the other.
CONNECT_TIMEOUT = 30.0

# As Breezy reads a boolean (breezy.ui.bool_from_string).
_TRUE = ("1", "true", "yes", "on", "y")
_FALSE = ("0", "false", "no", "off", "n")


def runtime_directory(chosen=None, configured=None, environ=None):
    """The absolute path of the runtime directory.

    :param chosen: the value of ``--runtime-dir``, or None.
    :param configured: the value of the option ``lpserve.runtime_dir``, or None.
    """
    environ = os.environ if environ is None else environ
    path = (
        chosen
        or configured
        or environ.get("LPSERVE_RUNTIME_DIR")
        # systemd gives a colon-separated list (systemd.exec(5)).
        or environ.get("RUNTIME_DIRECTORY", "").split(":")[0]
    )
    if not path:
        if os.geteuid() == 0:
            path = "/run/lpserve"
        elif environ.get("XDG_RUNTIME_DIR"):
            path = environ["XDG_RUNTIME_DIR"] + "/lpserve"
        else:
            path = "~/.cache/breezy/lpserve"
    return os.path.abspath(os.path.expanduser(path))


def socket_address(path: str) -> "tuple[str, int]":
    """The address of the socket *path* for bind(2) and connect(2).

    A path that is too long for an address goes through /proc/self/fd.

    :returns: the address, and a descriptor to close after its use, or -1.
    :raises OSError: if the directory of the socket cannot be opened.
    """
    if len(os.fsencode(path)) < 108:  # sun_path of unix(7), with its NUL
        return path, -1
    parent, name = os.path.split(path)
    descriptor = os.open(parent, os.O_PATH | os.O_DIRECTORY)
    return f"/proc/self/fd/{descriptor}/{name}", descriptor


def is_remote(environ):
    """Whether a remote user of ssh, without a shell here, reads our standard error.

    The messages to such a user name no paths. A user with a terminal has a shell.

    :param environ: the environment, as sshd sets it (ssh(1)).
    """
    return "SSH_ORIGINAL_COMMAND" in environ or (
        "SSH_CONNECTION" in environ and "SSH_TTY" not in environ
    )


def uid_fault(uid: int, service_user: "str | None") -> "str | None":
    """Why a service that runs as *uid* is not trusted with our stdio, or None.

    :param service_user: the value of ``lpserve.service_user``, or None.
    """
    if uid in (0, os.geteuid()) or uid == uid_of(service_user or ""):
        return None
    return f"is run by uid {uid}: not ours, root's or lpserve.service_user's"


def uid_of(user: str) -> int:
    """The uid of *user*, a name or a number; -1 if there is no such user."""
    if user.isascii() and user.isdigit():
        return int(user)
    import pwd  # seldom needed: most services run as our own user

    try:
        return pwd.getpwnam(user).pw_uid
    except (KeyError, ValueError):
        return -1


def directory_fault(path: str, owner: "int | None" = None) -> "str | None":
    """Why the runtime directory *path* cannot be trusted, or None.

    :param owner: the uid that should own it; None means our own.
    :raises OSError: if stat(2) fails.
    """
    owner = os.geteuid() if owner is None else owner
    found = os.stat(path)
    if not stat.S_ISDIR(found.st_mode):
        return f"{path} is not a directory"
    if found.st_uid != owner:
        return f"{path} is owned by uid {found.st_uid}, not by uid {owner}"
    if found.st_mode & 0o022:
        mode = stat.S_IMODE(found.st_mode)
        return f"{path} is writable by others (mode {mode:04o}); chmod it to 0700"
    return None


def read_configuration(environ=None):
    """Read the options of breezy.conf that the stand-alone client needs, as a dict.

    ``runtime_dir`` (a path or None), ``service_user`` (a name or uid, or None),
    ``environment`` (names), ``autostart`` and ``fallback`` (bools) and
    ``connect_timeout`` (in seconds).

    :raises ValueError: for an invalid value; its text is one line.
    """
    options = read_options(environ)
    autostart = _boolean(options, "autostart", "no")
    fallback = _boolean(options, "fallback", "yes")
    try:
        timeout = float(_value(options.get("connect_timeout", str(CONNECT_TIMEOUT))))
    except ValueError:
        timeout = -1.0
    if not 0 <= timeout < float("inf"):
        raise ValueError(
            "breezy.conf: lpserve.connect_timeout must be a number of seconds"
        )
    return {
        "runtime_dir": _value(options.get("runtime_dir", "")) or None,
        "service_user": _value(options.get("service_user", "")) or None,
        "environment": _list(options["environment"])
        if "environment" in options
        else ENVIRONMENT,
        "autostart": autostart,
        "fallback": fallback,
        "connect_timeout": timeout,
    }


def read_options(environ=None):
    """Read the ``lpserve.*`` options of breezy.conf, as a dict of their raw texts.

    The file is the one that Breezy reads (``breezy.bedding``). Of its syntax this
    knows ``name = value`` lines of ``[DEFAULT]``, quotes and comments, but no
    ``{references}``.
    """
    environ = os.environ if environ is None else environ
    base = environ.get("BRZ_HOME") or environ.get("XDG_CONFIG_HOME") or "~/.config"
    path = os.path.expanduser(base) + "/breezy/breezy.conf"
    try:
        with open(path, "rb") as file:
            lines = file.read().decode("utf-8-sig", "replace").splitlines()
    except OSError:
        return {}
    values = {}
    section = None
    for line in map(str.strip, lines):
        if line.startswith("["):
            section = _value(line[1:].partition("]")[0].strip())
        elif section == "DEFAULT" and line.startswith("lpserve."):
            name, _, value = line.partition("=")
            values[name.strip()[len("lpserve.") :]] = value.strip()
    return values


def _boolean(options, name, default):
    text = _value(options.get(name, default)).lower()
    if text not in _TRUE + _FALSE:
        raise ValueError(f"breezy.conf: lpserve.{name} must be True or False")
    return text in _TRUE


def _value(text):
    """The first value in *text*: quoted, or up to a comment."""
    if text[:1] in ("'", '"') and text.find(text[0], 1) > 0:
        return text[1 : text.index(text[0], 1)]
    return text.partition("#")[0].strip()


def _list(text):
    """The values in *text*, which commas separate."""
    values = []
    while text and not text.startswith("#"):
        if text[0] in "'\"" and text.find(text[0], 1) > 0:
            values.append(_value(text))
            text = text[text.index(text[0], 1) + 1 :].partition(",")[2].strip()
        else:
            value, _, text = text.partition(",")
            values.append(_value(value.strip()))
            text = text.strip()
    return [value for value in values if value]
