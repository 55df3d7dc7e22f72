# SPDX-License-Identifier: GPL-2.0-or-later

"""A breezy.conf with mistakes in it: FAULT 65."""

import os
import subprocess

from .test_lp_serve_control import ControlTestCase


class TestControl(ControlTestCase):
    """The administrator's commands work whatever is wrong with other options."""

    def test_bad_values(self):
        service = self.start_service()
        self.configure(
            max_workers="many",
            allow_writes="perhaps",
            connect_timeout="soon",
            warm_memory="-1",
        )
        self.assertSays(
            self.control("hello"),
            f"lpserve {self.status()['version']} pid={service.pid}\n",
        )
        done = self.control("status")
        self.assertEqual((0, b""), (done.returncode, done.stderr))
        self.assertFails(self.control("reload"), 1, "failed: ", "lpserve.")
        self.assertEqual(1, self.status()["generation"])
        self.assertSays(self.control("shutdown"), "")
        self.assertEqual(0, service.wait())

    def test_too_large(self):
        """A reload with a number that has no room is answered, and changes nothing."""
        self.start_service()
        for value in ("99999999999999999999", "-1"):
            self.configure(history=value)
            self.assertFails(self.control("reload"), 1, "failed: ", "lpserve.history")
        self.assertEqual(1, self.status()["generation"])

    def test_place(self):
        """The one option that matters is obeyed."""
        self.start_service()
        self.configure(runtime_dir=self.runtime, max_workers="many")
        done = self.control("hello", LPSERVE_RUNTIME_DIR="/nowhere")
        self.assertEqual((0, b""), (done.returncode, done.stderr))
        self.configure(runtime_dir="/nowhere", max_workers="many")
        self.assertFails(self.control("hello"), 69, "no service at /nowhere")
        done = self.control("hello", "--runtime-dir", self.runtime)
        self.assertEqual((0, b""), (done.returncode, done.stderr))


class TestWarnings(ControlTestCase):
    """Options that mean nothing are told at the start and at a reload; it works."""

    def start_with(self, *lines):
        with open(self.config, "w") as file:
            file.write("\n".join(("[DEFAULT]", *lines, "")))

    def warnings(self, start=0):
        lines = self.log_text(start).splitlines()
        return [line.split(" WARNING ")[1] for line in lines if " WARNING " in line]

    def test_unknown_options(self):
        self.start_with(
            "lpserve.max_worker = 7",
            "lpserve.nothing_like_it = 1",
            "lpserve.max_workers = 5",
            "email = Alice <alice@example.com>",
            "[OTHER]",
            "lpserve.directory = /srv",
        )
        self.start_service("-Olpserve.spare_worker=3")
        expected = [
            "breezy.conf: there is no option lpserve.max_worker; did you mean "
            "lpserve.max_workers?",
            "breezy.conf: there is no option lpserve.nothing_like_it",
            "breezy.conf: lpserve.directory is not read, not in [DEFAULT]",
            "there is no option lpserve.spare_worker; did you mean "
            "lpserve.spare_workers?",
        ]
        self.assertEqual(expected, self.warnings())
        start = len(self.log_text())
        self.assertSays(self.control("reload"), "")
        self.assertEqual(expected, self.warnings(start))
        start = len(self.log_text())
        self.configure(max_workers=5)
        self.assertSays(self.control("reload"), "")
        self.assertEqual(expected[-1:], self.warnings(start))

    def test_directory(self):
        """What is served has to be there; of one for each user, what is above it."""
        missing = os.path.join(self.test_dir, "missing")
        told = [f"lpserve.directory: {missing} is not there"]
        for directory, warnings in (
            (missing, told),
            (f"{self.root}/%u/branches", []),
            (f"{missing}/%u", told),
        ):
            start = len(self.log_text()) if os.path.exists(self.log_path) else 0
            self.start_service("--directory", directory)
            self.assertEqual(warnings, self.warnings(start))
            self.stop_service()

    def test_reload_with_another_directory(self):
        file = os.path.join(self.test_dir, "file")
        with open(file, "w"):
            pass
        self.configure(directory=self.root, warm_repositories=0)
        self.start_configured()
        start = len(self.log_text())
        self.configure(directory=file, warm_repositories=0)
        self.assertSays(self.control("reload"), "")
        told = f"lpserve.directory: {file} is not a directory"
        self.assertEqual([told], self.warnings(start))

    def start_configured(self):
        """A service that is told nothing on its command line."""
        with open(self.log_path, "ab") as log:
            self.service = subprocess.Popen(
                self.brz("lp-serve", "--fork-server"),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.env,
            )
        self.addCleanup(self.stop_service, self.service)
        self.wait_for_log("Listening on ")
