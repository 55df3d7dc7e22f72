# SPDX-License-Identifier: GPL-2.0-or-later

"""What the tests of the sandbox with real services share.

Where the kernel has no Landlock they show that the service says so and runs on.
"""

import json
import os

from ...harness import LiveTestCase, read_line
from ...sandbox.test_landlock import kernel


class SandboxCase(LiveTestCase):
    """With the plug-in ``tryer``, and a directory that is not served, ``outside``.

    :cvar foreign: whether there is that plug-in, which does not come with Breezy.
    """

    foreign = True

    def setUp(self):
        super().setUp()
        self.outside = os.path.join(self.test_dir, "outside")
        self.lines = os.path.join(self.home, "breezy", "tryer")
        self.temporary = os.path.join(self.test_dir, "temporary")
        os.mkdir(self.temporary)
        self.build_tree(["outside/", "outside/file", "outside/empty/", "root/file"])
        if self.foreign:
            here = os.path.dirname(os.path.abspath(__file__))
            self.plugins["tryer"] = os.path.join(here, "tryer.py")

    @property
    def env(self):
        return {**super().env, "TRYER": self.lines, "TMPDIR": self.temporary}

    def start_sandbox(self, holds, *options, **conf):
        """Start a service in which *holds* is to hold; its status.

        :param options: of the command.
        :param conf: lines of breezy.conf.
        """
        self.configure(**conf)
        self.start_service(*options)
        self.rest()
        found = self.status()["sandbox"]
        if not kernel():
            self.assertEqual("off", found["holds"])
            self.assertNotEqual("", found["why"])
            return found
        self.assertEqual((holds, kernel()), (found["holds"], found["abi"]))
        self.assertEqual("", found["why"])
        return found

    def attempts(self, connection, *lines):
        """What becomes of *lines* of Python in a worker: what they are, or an error."""
        with open(self.lines, "w") as file:
            file.write("".join(f"{line}\n" for line in lines))
        os.write(connection.stdin, b"tryer\n")
        kind, _, text = read_line(connection.stdout).partition(b"\x01")
        self.assertEqual(b"ok", kind, text)
        return dict(zip(lines, json.loads(text), strict=True))

    def try_once(self, *lines, user="alice", door=None):
        """`attempts` over a connection of its own."""
        connection = self.connect(user, door).open()
        found = self.attempts(connection, *lines)
        connection.close()
        self.assertEqual(["exit", "0"], connection.end())
        return found

    def assertDenied(self, found, but=()):
        """That none of what was tried was done."""
        if kernel():
            errors = ("PermissionError", "OSError")  # EACCES or EPERM; EXDEV
            done = {line: end for line, end in found.items() if end not in errors}
            self.assertEqual({}, done)


def tree(path):
    """What is beneath *path*: names, and what is in files."""
    found = {}
    for directory, names, files in os.walk(path):
        found[directory] = sorted(names)
        for name in files:
            with open(os.path.join(directory, name), "rb") as file:
                found[os.path.join(directory, name)] = file.read()
    return found
