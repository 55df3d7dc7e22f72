# SPDX-License-Identifier: GPL-2.0-or-later

"""Debian's package, as far as it can be seen without building it."""

import os
import re
import subprocess

from breezy.tests import TestCaseInTempDir

from ... import __version__
from ...lpserve import location
from ..harness import PLUGIN
from .place import PACKAGING, packaging, read

DEBIAN = os.path.join(PACKAGING, "debian")


def debian(name):
    """The text of a file of Debian's."""
    return read("packaging", "debian", name)


class TestPackage(TestCaseInTempDir):
    def setUp(self):
        super().setUp()
        self.requireFeature(packaging)

    def test_version(self):
        """It is that of the plug-in: 0.2.0.dev0 sorts before 0.2.0 as 0.2.0~dev0."""
        upstream = re.match(r"brz-lpserve \((.*)-[^-]*\) ", debian("changelog"))[1]
        expected = re.sub(r"\.?(dev|a|b|rc)(\d+)$", r"~\1\2", __version__)
        self.assertEqual(expected, upstream)

    def test_scripts(self):
        """Shell scripts are without errors of syntax."""
        names = [n for n in os.listdir(DEBIAN) if n.endswith(("inst", "rm"))]
        self.assertNotEqual([], names)
        for name in [*names, "tests/selftest", "../make-deb"]:
            path = os.path.join(DEBIAN, name)
            subprocess.run(["sh", "-n", path], check=True)

    def test_removed(self):
        """A purge removes the directories that are made, but not what is served."""
        made = re.findall(r"^d (\S+)", debian("brz-lpserve.tmpfiles"), re.M)
        removed = re.search(r"rm -rf (.*)", debian("brz-lpserve.postrm"))[1].split()
        for path in made:
            if path != "/srv/bzr":
                there = [each for each in removed if path.startswith(each)]
                self.assertEqual(1, len(there), path)
        self.assertNotIn("/srv/bzr", removed)

    def test_configuration(self):
        """The account finds the configuration, and it names the places made."""
        tmpfiles = debian("brz-lpserve.tmpfiles")
        home = re.search(r'" (/\S+) /bin/sh', debian("brz-lpserve.sysusers"))[1]
        link = re.search(r"^L (\S+/breezy) .* (\S+)$", tmpfiles, re.M)
        self.assertEqual((f"{home}/.config/breezy", "/etc/lpserve"), link.groups())
        text = read("deploy", "breezy.conf")
        served = re.search(r"^lpserve.directory = (.*)", text, re.M)[1]
        self.assertContainsString(tmpfiles, f"d {served} ")
        keys = re.search(r"^lpserve.authorized_keys = (.*)", text, re.M)[1]
        self.assertEqual(keys, "/" + debian("brz-lpserve-ssh.dirs").strip())
        key = re.search(r"^lpserve.host_key = (.*)", text, re.M)[1]
        self.assertContainsString(debian("brz-lpserve-ssh.postinst"), f"key={key}\n")
        # The head and what follows are one file that the client can read.
        os.makedirs("home/breezy")
        with open("home/breezy/breezy.conf", "w") as file:
            file.write(debian("breezy.conf.head") + text)
        found = location.read_options({"BRZ_HOME": os.path.abspath("home")})
        self.assertEqual("/run/lpserve", found["runtime_dir"])

    def test_deployed(self):
        """What debian/rules takes from deploy/ begins as it expects."""
        deploy = os.path.join(PLUGIN, "deploy")
        for name in os.listdir(deploy):
            if name.endswith((".service", ".socket", ".conf")):
                head, _, rest = read("deploy", name).partition("\n\n")
                lines = head.splitlines()
                self.assertEqual([], [n for n in lines if not n.startswith("#")], name)
                self.assertStartsWith(rest, "[")
        self.assertContainsRe(read("deploy", "sshd_config"), r"(?m)^Match User bzr$")
