# SPDX-License-Identifier: GPL-2.0-or-later

"""Which sandbox a service chooses, and when it is entered anew."""

import ctypes
import os
import shutil
import struct

from ...harness import wait_until
from ...sandbox.test_landlock import kernel
from .sandboxcase import SandboxCase

# <linux/seccomp.h>, <linux/filter.h>
_SET_NO_NEW_PRIVS, _SET_SECCOMP, _FILTER = 38, 22, 2
_LOAD, _JUMP_EQUAL, _RETURN = 0x20, 0x15, 0x06
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000


def forbid_landlock():
    """Have the kernel refuse Landlock to this process, as some containers do."""
    instructions = [
        (_LOAD, 0, 0, 0),  # the number of the system call
        (_JUMP_EQUAL, 0, 1, 444),
        (_RETURN, 0, 0, _ERRNO | 1),  # EPERM
        (_RETURN, 0, 0, _ALLOW),
    ]
    code = b"".join(struct.pack("HBBI", *each) for each in instructions)
    buffer = ctypes.create_string_buffer(code)
    program = struct.pack("HxxxxxxP", len(instructions), ctypes.addressof(buffer))
    libc = ctypes.CDLL(None)
    libc.prctl(_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if libc.prctl(_SET_SECCOMP, _FILTER, program, 0, 0):
        os._exit(70)


class TestChoice(SandboxCase):
    foreign = False

    def test_auto(self):
        """Without plug-ins of somebody else there is one, and no word of it."""
        found = self.start_sandbox("writes")
        self.assertEqual("auto", found["asked"])
        if kernel():
            self.assertEqual([], self.status()["warnings"])
            self.assertNotIn("WARNING", self.log_text())

    def test_foreign_plugins(self):
        """There is none, and one line says how to have one."""
        self.add_plugin("mailer", "")
        self.start_service()
        found = self.status()["sandbox"]
        self.assertEqual(("auto", "off"), (found["asked"], found["holds"]))
        self.assertEqual(["ok"], self.ask("reload"))
        [line] = [
            each for each in self.log_text().splitlines() if "(lpserve.sandbox)" in each
        ]
        self.assertIn("mailer did not come with Breezy", line)
        self.assertIn("lpserve.sandbox = writes", line)
        table = self.run_brz("lp-serve-control", "status").stdout.decode()
        self.assertContainsRe(table, "(?m)^sandbox +off: mailer did not come")

    def test_no_landlock(self):
        """There is one warning, and connections are served."""
        for mode in ("auto", "strict"):
            start = len(self.log_text()) if os.path.exists(self.log_path) else 0
            self.configure(sandbox=mode)
            self.start_service(popen={"preexec_fn": forbid_landlock})
            self.assertEqual(["ok"], self.ask("reload"))
            found = self.status()["sandbox"]
            self.assertEqual((mode, "off"), (found["asked"], found["holds"]))
            log = self.log_text(start).splitlines()
            [line] = [each for each in log if "(lpserve.sandbox)" in each]
            self.assertIn("this kernel has no Landlock (Operation not permitted)", line)
            connection = self.connect().open()
            self.assertEqual(b"ok\x012\n", connection.hello())
            connection.close()
            self.assertEqual(["exit", "0"], connection.end())
            self.stop_service()

    def test_reload(self):
        """It is chosen anew, and without one there is no warning."""
        self.start_sandbox("writes")
        for mode in ("strict", "off", "writes"):
            self.configure(sandbox=mode)
            self.assertEqual(["ok"], self.ask("reload"))
            found = self.status()["sandbox"]
            self.assertEqual(mode, found["asked"])
            self.assertEqual(mode if kernel() else "off", found["holds"])
            if mode == "off":
                self.assertEqual("", found["why"])

    def test_wrong_options(self):
        """They are told at the start, and at a reload the old ones stay."""
        self.start_sandbox("writes")
        for options, text in (
            ({"sandbox": "tight"}, "lpserve.sandbox"),
            ({"sandbox_paths": "relative"}, "lpserve.sandbox_paths must be absolute"),
        ):
            self.configure(**options)
            answer = self.ask("reload")
            self.assertEqual(["error", "failed"], answer[:2])
            self.assertIn(text, answer[2])
            words = ("lp-serve", "--fork-server", "--directory", self.root)
            done = self.run_program(self.brz(*words, "--runtime-dir", "other"))
            self.assertEqual(3, done.returncode)
            self.assertIn(text, done.stderr.decode())
        self.assertEqual("auto", self.status()["sandbox"]["asked"])

    def test_configuration_inside(self):
        """Who serves the configuration is warned once."""
        self.start_service("--directory", self.home)
        self.assertEqual(["ok"], self.ask("reload"))
        log = self.log_text()
        self.assertEqual(int(bool(kernel())), log.count("can change"), log)
        if kernel():
            [line] = self.status()["warnings"]
            self.assertIn(line, log)
            self.assertEndsWith(line, f"to {self.home} can change {self.home}/breezy")


class TestChange(SandboxCase):
    """What is replaced while a service runs."""

    def start(self):
        self.start_sandbox("writes", sandbox="writes")
        return self.status()["generation"]

    def use(self):
        """A connection; it may be of the old zygote."""
        connection = self.connect().open()
        self.assertEqual(b"ok\x012\n", connection.hello())
        connection.close()
        self.assertEqual(["exit", "0"], connection.end())

    def wait_renewed(self, number, why):
        """Wait for another generation than *number*, because of *why*."""

        def renewed():
            self.use()
            return (self.status()["generation"] or 0) > number

        if kernel():
            wait_until(renewed, "another generation")
            self.rest()
            self.assertIn(f"{why}; starting another zygote", self.log_text())

    def test_served_directory(self):
        """The new directory can be written, the old one cannot."""
        number = self.start()
        os.rename(self.root, self.root + "-old")
        os.mkdir(self.root)
        self.wait_renewed(number, f"{self.root} is another one now")
        lines = [
            f"open('{self.root}/new', 'w').close()",
            f"open('{self.root}-old/new', 'w').close()",
        ]
        found = self.try_once(*lines)
        self.assertEqual("None", found[lines[0]])
        if kernel():
            self.assertEqual("PermissionError", found[lines[1]])

    def test_runtime_directory(self):
        """The service makes again what was in it; FIFOs lead there as before."""
        number = self.start()
        shutil.rmtree(f"{self.runtime}/connections")
        os.rename(f"{self.runtime}/replies", f"{self.outside}/replies")
        for name in ("connections", "replies"):
            path = f"{self.runtime}/{name}"
            wait_until(lambda path=path: os.path.isdir(path), f"{name} is there")
        self.use()
        self.wait_renewed(number, "connections is another one now")

    def test_log(self):
        """FAULT 33: brz.log is begun anew when it is long, or was removed."""
        path = os.path.join(self.home, "breezy", "brz.log")
        number = self.start()
        os.truncate(path, (4 << 20) + 1)
        self.wait_renewed(number, "brz.log is to be begun anew")
        if kernel():
            self.assertTrue(os.path.exists(path + ".old"))
            self.assertTrue(os.path.getsize(path) < 1 << 20)
        line = "trace.mutter('a line of a worker')"
        self.assertEqual({line: "None"}, self.try_once(line))
        with open(path) as log:
            self.assertIn("a line of a worker", log.read())
