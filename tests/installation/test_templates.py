# SPDX-License-Identifier: GPL-2.0-or-later

"""What 'lp-serve-setup files' writes."""

import os

from ...lpserve.installation import templates
from ...lpserve.installation.templates import TemplateError, write_files
from .installationcase import InstallationCase, read, write


class TestFiles(InstallationCase):
    def written(self, name):
        return read(self.installation.path("files", name))

    def test_filled(self):
        """The paths of the installation are in them, and no other."""
        names = sorted(os.listdir(templates.deploy_directory()))
        self.assertEqual(names, sorted(os.listdir(self.installation.path("files"))))
        for name in names:
            text = self.written(name)
            for word in (templates.BRZ, templates.CLIENT, "~bzr", "/srv/bzr/"):
                if (name, word) != ("breezy.conf", "/srv/bzr/"):
                    self.assertNotContainsString(text, word)
        unit = self.written("lpserve.service")
        account = self.installation.account
        for line in (
            f"User={account}",
            f"ExecStart={self.installation.brz} lp-serve --fork-server",
        ):
            self.assertContainsString(unit, f"\n{line}\n")
        # systemd makes directories in /run only.
        self.assertNotContainsString(unit, "RuntimeDirectory")
        self.assertContainsString(
            self.written("sshd_config"), f"\nMatch User {account}\n"
        )
        self.assertContainsString(
            self.written("authorized_keys"),
            f'command="{self.installation.client} alice"',
        )

    def test_configuration(self):
        """It has the options of the installation, each once."""
        text = self.written("breezy.conf")
        for line in read(self.installation.config).splitlines():
            self.assertEqual(1, f"\n{text}".count(f"\n{line}\n"), line)
        self.assertContainsString(text, "\n#lpserve.warm_memory = 256\n")

    def test_in_run(self):
        with open(self.installation.config, "a") as file:
            file.write("lpserve.runtime_dir = /run/bzr-lpserve\n")
        write_files(self.installation.place(), self.installation.path("files"), True)
        unit = self.written("lpserve.service")
        self.assertContainsString(unit, "\nRuntimeDirectory=bzr-lpserve\n")
        self.assertContainsString(unit, "\nRuntimeDirectoryMode=0700\n")

    def test_templates(self):
        """What is replaced is in deploy/."""
        source = templates.deploy_directory()
        text = "".join(read(os.path.join(source, each)) for each in os.listdir(source))
        for word in (
            *(templates.BRZ, templates.CLIENT, templates.RUNTIME, "\nUser=bzr\n"),
            *("\nMatch User bzr\n", "\nRuntimeDirectory=lpserve\n"),
            *("~bzr/.config/breezy/breezy.conf", "~bzr/.ssh/"),
        ):
            self.assertContainsString(text, word)

    def test_refuses(self):
        """Nothing is replaced without --force, and nothing else is written."""
        place = self.installation.place()
        directory = self.installation.path("other")
        os.mkdir(directory)
        write(os.path.join(directory, "sshd_config"), "mine\n")
        error = self.assertRaises(TemplateError, write_files, place, directory, False)
        self.assertContainsString(str(error), "sshd_config is there already; --force")
        self.assertEqual(["sshd_config"], os.listdir(directory))
        write_files(place, directory, True)
        self.assertNotEqual("mine\n", read(os.path.join(directory, "sshd_config")))
        missing = os.path.join(directory, "a", "b")
        error = self.assertRaises(TemplateError, write_files, place, missing, False)
        self.assertContainsString(str(error), "No such file")
