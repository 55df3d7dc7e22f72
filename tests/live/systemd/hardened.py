# SPDX-License-Identifier: GPL-2.0-or-later

"""Runs a program with what a unit allows, as far as that can be had without systemd.

    hardened.py UNIT WRITABLE... -- PROGRAM ARGUMENTS...

As systemd.exec(5) describes it: namespaces, capabilities and system call filters, from
the directives of the unit. WRITABLE are paths in the place of its ReadWritePaths= and
directories. What is not done: the user, PrivateTmp= (tests lie there), the control
group (DeviceAllow=), RemoveIPC=.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import socket
import subprocess
import sys

libc = ctypes.CDLL(None, use_errno=True)

# <sched.h>, <sys/mount.h>, <linux/prctl.h>, <linux/seccomp.h>, <seccomp.h>
NEWNS, NEWUTS, NEWUSER = 0x20000, 0x04000000, 0x10000000
NAMESPACES = (NEWNS, NEWUTS, NEWUSER, 0x02000000, 0x08000000, 0x20000000, 0x40000000)
MS_RDONLY, MS_BIND, MS_REC, MS_PRIVATE = 1, 4096, 16384, 1 << 18
MOUNT_SETATTR, AT_RECURSIVE, ATTR_RDONLY = 442, 0x8000, 1
CAPBSET_DROP, NO_NEW_PRIVS = 24, 38
ALLOW, ERRNO = 0x7FFF0000, 0x00050000
EQ, GT, NE, MASKED_EQ = 4, 6, 1, 7
NOT_LINUX = -1


class Compare(ctypes.Structure):
    """``struct scmp_arg_cmp``."""

    _fields_ = [
        ("arg", ctypes.c_uint),
        ("op", ctypes.c_int),
        ("a", ctypes.c_uint64),
        ("b", ctypes.c_uint64),
    ]


def check(result, *what):
    if result < 0:
        number = ctypes.get_errno() or -result
        raise OSError(number, os.strerror(number), *what)
    return result


def read_unit(path):
    """The [Service] settings: name to the list of values."""
    found, section = {}, ""
    with open(path) as file:
        for line in map(str.strip, file):
            if line.startswith("["):
                section = line
            elif line and line[0] not in "#;" and section == "[Service]":
                name, _, value = line.partition("=")
                found.setdefault(name, []).append(value)
    return found


# -- namespaces ------------------------------------------------------------------


def mount(source, target, kind=None, flags=0, data=None):
    words = [each and each.encode() for each in (source, target, kind)]
    check(libc.mount(*words, flags, data and data.encode()), target)


def set_readonly(path, readonly, recursive=False):
    attributes = (ctypes.c_uint64 * 4)(*((1, 0) if readonly else (0, 1)), 0, 0)
    flags = AT_RECURSIVE if recursive else 0
    check(
        libc.syscall(
            MOUNT_SETATTR, -100, path.encode(), flags, ctypes.byref(attributes), 32
        ),
        path,
    )


def enter_namespaces(unit, writable):
    flags = NEWNS | (NEWUTS if on(unit, "ProtectHostname") else 0)
    uid, gid = os.getuid(), os.getgid()
    check(libc.unshare(flags | (NEWUSER if uid else 0)))
    if uid:
        for name, text in (
            ("setgroups", "deny"),
            ("uid_map", f"{uid} {uid} 1"),
            ("gid_map", f"{gid} {gid} 1"),
        ):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)
    mount(None, "/", None, MS_REC | MS_PRIVATE)
    if on(unit, "PrivateDevices"):
        hide_devices()
    for path in writable:
        mount(path, path, None, MS_BIND | MS_REC)
    if unit["ProtectSystem"] == ["strict"]:
        set_readonly("/", True, recursive=True)
        for path in (*writable, "/dev", "/proc"):
            set_readonly(path, False, recursive=path != "/proc")
    if unit["ProtectProc"] == ["invisible"]:
        # Not in a user namespace.
        with contextlib.suppress(PermissionError):
            mount("proc", "/proc", "proc", 0, "hidepid=invisible")
    if on(unit, "ProtectKernelTunables"):
        for path in ("/proc/sys", "/proc/sysrq-trigger", "/proc/irq", "/proc/bus"):
            if os.path.exists(path):
                mount(path, path, None, MS_BIND)
                set_readonly(path, True)
    if on(unit, "ProtectKernelLogs"):
        mount("/dev/null", "/proc/kmsg", None, MS_BIND)


def hide_devices():
    names = ("null", "zero", "full", "random", "urandom", "tty", "shm")
    opened = {name: os.open(f"/dev/{name}", os.O_PATH) for name in names}
    mount("tmpfs", "/dev", "tmpfs", 0, "mode=0755")
    for name, descriptor in opened.items():
        if name == "shm":
            os.mkdir(f"/dev/{name}")
        else:
            with open(f"/dev/{name}", "w"):
                pass
        mount(f"/proc/self/fd/{descriptor}", f"/dev/{name}", None, MS_BIND)
        os.close(descriptor)


# -- capabilities and system calls -----------------------------------------------


def drop_capabilities():
    for each in range(64):
        if libc.prctl(CAPBSET_DROP, each, 0, 0, 0) < 0:
            break
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    check(libc.capset(ctypes.byref(header), ctypes.byref((ctypes.c_uint32 * 6)())))


def expand(word):
    """The names of system calls of *word*, a name or a group."""
    if not word.startswith("@"):
        return {word}
    words = ["systemd-analyze", "--no-pager", "syscall-filter", word]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    lines = [line.strip() for line in done.stdout.splitlines()[1:]]
    found = set()
    for line in lines:
        if line and not line.startswith("#"):
            found |= expand(line)
    return found


def allowed_calls(unit):
    """What the lines SystemCallFilter= leave: the first is what is allowed."""
    found = set()
    for line in unit["SystemCallFilter"]:
        calls = set().union(*map(expand, line.lstrip("~").split()))
        found = found - calls if line.startswith("~") else found | calls
    return found


class Filter:
    """A system call filter, as libseccomp makes it."""

    def __init__(self, action):
        self.lib = ctypes.CDLL("libseccomp.so.2")
        self.lib.seccomp_init.restype = ctypes.c_void_p
        self.context = ctypes.c_void_p(self.lib.seccomp_init(action))

    def add(self, action, call, *compared):
        number = self.lib.seccomp_syscall_resolve_name(call.encode())
        if number == NOT_LINUX:
            return
        array = (Compare * max(1, len(compared)))(*compared)
        result = self.lib.seccomp_rule_add_array(
            self.context, ctypes.c_uint32(action), number, len(compared), array
        )
        if result not in (0, -errno.EDOM, -errno.EOPNOTSUPP):  # of another machine
            check(result, call)

    def load(self):
        check(self.lib.seccomp_load(self.context))


def restrict_calls(unit):
    denied = ERRNO | errno.EPERM
    chosen = Filter(ALLOW)
    if on(unit, "RestrictNamespaces"):
        # Its flags are in memory: libc and lpserve have another way.
        chosen.add(ERRNO | errno.ENOSYS, "clone3")
        chosen.add(denied, "setns")
        for flag in NAMESPACES:
            for call in ("clone", "unshare"):
                chosen.add(denied, call, Compare(0, MASKED_EQ, flag, flag))
    if on(unit, "MemoryDenyWriteExecute"):
        chosen.add(denied, "mmap", Compare(2, MASKED_EQ, 6, 6))
        for call in ("mprotect", "pkey_mprotect"):
            chosen.add(denied, call, Compare(2, MASKED_EQ, 4, 4))
        chosen.add(denied, "shmat", Compare(2, MASKED_EQ, 0o100000, 0o100000))
    if on(unit, "RestrictRealtime"):
        for policy in (1, 2, 6):  # FIFO, RR, DEADLINE
            chosen.add(denied, "sched_setscheduler", Compare(1, EQ, policy))
    if on(unit, "LockPersonality"):
        chosen.add(denied, "personality", Compare(0, NE, libc.personality(-1)))
    families = " ".join(unit["RestrictAddressFamilies"]).split()
    kept = {getattr(socket, name) for name in families}
    for family in range(64):
        if family not in kept:
            chosen.add(ERRNO | errno.EAFNOSUPPORT, "socket", Compare(0, EQ, family))
    chosen.add(ERRNO | errno.EAFNOSUPPORT, "socket", Compare(0, GT, 63))
    # Last: it is to let through what loads the other.
    strict = Filter(ERRNO | errno.EPERM)
    for call in allowed_calls(unit):
        strict.add(ALLOW, call)
    for each in (chosen, strict):
        if each is strict:
            drop_capabilities()
        else:
            check(libc.prctl(NO_NEW_PRIVS, 1, 0, 0, 0))
        each.load()


def on(unit, name):
    return unit.get(name, [""])[-1] in ("yes", "true", "1", "on")


def main(words):
    path, *rest = words
    end = rest.index("--")
    writable, argv = rest[:end], rest[end + 1 :]
    unit = read_unit(path)
    if unit["CapabilityBoundingSet"] != [""] or not on(unit, "NoNewPrivileges"):
        raise SystemExit("the unit is not what this program knows")
    enter_namespaces(unit, writable)
    os.chdir(os.getcwd())  # as it is now
    restrict_calls(unit)
    os.execv(argv[0], argv)


if __name__ == "__main__":
    main(sys.argv[1:])
