# SPDX-License-Identifier: GPL-2.0-or-later

"""Breezy, a Python package and lpserve are replaced under load, and nobody notices."""

import os
import signal

from ..warm.warmcase import SmartClient
from .installed import BREEZY, CONFIGOBJ, LPSERVE, RELEASES, Installation
from .loadcase import UPGRADES, LoadCase

#: A plug-in: has workers say what they have.
_TELLS = """
import sys
from breezy.bzr.smart import request

class Versions(request.SmartServerRequest):
    def do(self):
        found = (sys.modules[name].__version__.encode() for name in %r)
        return request.SuccessfulSmartServerResponse((b"ok", *found))

request.request_handlers.register(b"Test.versions", Versions, "read")
"""
PACKAGES = (BREEZY, CONFIGOBJ, LPSERVE)


class InstalledCase(LoadCase):
    """A service runs from an installation of its own."""

    #: The rehearsal is part of what must bear it.
    rehearses = True

    def setUp(self):
        super().setUp()
        self.installation = Installation(os.path.join(self.test_dir, "installation"))
        self.versions = dict.fromkeys(PACKAGES, RELEASES["old"])
        self.add_plugin("tells", _TELLS % ([each.module for each in PACKAGES],))
        tells = self.plugins["tells"]
        self.start_service(
            "--client-timeout=60",
            "-Olpserve.sandbox=writes",
            PYTHONPATH=self.installation.path,
            BRZ_PLUGINS_AT=f"tells@{tells}",
            BRZ_PLUGIN_PATH="-site:-user:+core",
        )

    def reload(self):
        """Do what is to be done when packages have changed."""
        answer = self.ask("reload")
        self.assertEqual("ok", answer[0], f"{answer} {self.log_text()}")

    def ask_versions(self, connection):
        """The versions that a worker has, in the order of `PACKAGES`."""
        asker = SmartClient(connection.stdout, connection.stdin)
        answer, _ = asker.ask(b"Test.versions", body=b"")
        asker.close()
        return [each.decode() for each in answer[1:]]

    def check_versions(self):
        """A new connection has what is expected."""
        connection = self.open("alice")
        self.assertEqual([*self.versions.values()], self.ask_versions(connection))
        connection.close()
        self.assertEqual(["exit", "0"], connection.end())


class TestKinds(InstalledCase):
    """Each is upgraded and downgraded, in the ways of pip and dpkg."""

    def test_kinds(self):
        self.load(self.change_all)

    def change_all(self):
        pip, dpkg = self.installation.as_pip, self.installation.as_dpkg
        self.check_versions()
        self.wait_pushes()
        self.tell("none")
        for packages in [(each,) for each in PACKAGES]:
            self.change(packages, "new", pip)
            self.change(packages, "old", dpkg)
        for _ in range(UPGRADES):
            for packages in [(each,) for each in PACKAGES] + [PACKAGES]:
                self.change(packages, "new", dpkg)
                self.change(packages, "old", pip)

    def change(self, packages, release, tool):
        old = [*self.versions.values()]
        held = self.open("alice")
        before = self.status()["pid"]
        for each in packages:
            tool(each, release, self.meanwhile)
        start = len(self.log_text())
        self.reload()
        # It is an upgrade if it is lpserve that has changed.
        self.assertEqual(LPSERVE in packages, self.status()["pid"] != before)
        self.versions.update(dict.fromkeys(packages, RELEASES[release]))
        self.check_versions()
        status = self.status()
        self.assertEqual(self.versions[LPSERVE], status["version"])
        self.assertEqual(self.versions[BREEZY], status["breezy"])
        self.assertEqual(old, self.ask_versions(held))
        held.close()
        self.assertEqual(["exit", "0"], held.end())
        self.wait_alone()
        names = ", ".join(each.name for each in packages)
        self.tell(f"{names} {self.versions[packages[0]]}, {tool.__name__}")
        self.assertNotContainsRe(self.log_text(start), "Traceback|missed|ERROR")

    def meanwhile(self):
        """Files are missing, or of another release than what runs."""
        self.check_versions()
        self.wait_pushes()


class TestMissing(InstalledCase):
    """Files are missing that a new process needs: what runs goes on."""

    def test_missing(self):
        for package in PACKAGES:
            self.installation.as_pip(package, "new", self.fail_to_reload)
            self.reload()
            self.versions[package] = RELEASES["new"]
            self.check_versions()
        self.installation.as_pip(BREEZY, "old", self.lose_zygote)
        self.reload()
        self.versions[BREEZY] = RELEASES["old"]
        self.check_versions()

    def fail_to_reload(self):
        answer = self.ask("reload")
        self.assertEqual(["error", "failed"], answer[:2])
        self.assertContainsRe(answer[2], "^it ended ")
        self.check_versions()

    def lose_zygote(self):
        """Spare workers serve; then clients are told, and serve themselves."""
        self.rest()
        os.kill(self.status()["zygote"], signal.SIGKILL)
        self.wait_for_log("the zygote has ended")
        self.check_versions()
        self.check_versions()
        refused = self.connect("alice")
        self.assertEqual(
            ["error", "failed", "no zygote; the log says why"], refused.answer
        )
