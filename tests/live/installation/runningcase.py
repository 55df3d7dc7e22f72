# SPDX-License-Identifier: GPL-2.0-or-later

"""An installation with a service that runs."""

import json
import os

from ...harness import LiveTestCase
from ...installation.installationcase import Installation, read, write


class RunningCase(LiveTestCase):
    """A service of the `installation`."""

    def setUp(self):
        super().setUp()
        os.chmod(self.test_dir, 0o755)
        self.installation = Installation(os.path.join(self.test_dir, "inst"))
        self.runtime = self.installation.path("run")
        self.root = self.installation.path("served")
        self.set("autostart", False)

    @property
    def env(self):
        found = super().env
        if hasattr(self, "installation"):
            # As systemd or sshd start something.
            for name in ("BRZ_HOME", "XDG_CACHE_HOME", "LPSERVE_RUNTIME_DIR"):
                del found[name]
            found["HOME"] = self.installation.path("home")
        return found

    def set(self, name, value):
        """Set an option to another value."""
        lines = read(self.installation.config).splitlines()
        kept = [line for line in lines if not line.startswith(f"lpserve.{name} ")]
        kept.append(f"lpserve.{name} = {value}")
        write(self.installation.config, "\n".join(kept) + "\n", 0o600)

    def setup(self, *words, **options):
        """Run 'brz lp-serve-setup' with *words* to its end."""
        for name, value in {
            "account": self.installation.account,
            "sshd-config": self.installation.sshd_config,
            "units": self.installation.path("units"),
            **options,
        }.items():
            if value is not None:
                words = (*words, f"--{name}={value}")
        return self.run_program([self.installation.brz, "lp-serve-setup", *words])

    def findings(self, status, **options):
        """What 'check' finds, as pairs of the severity and what is wrong."""
        done = self.setup("check", "--json", **options)
        self.assertEqual((status, b""), (done.returncode, done.stderr), str(done))
        found = json.loads(done.stdout)["findings"]
        self.assertTrue(all(each["remedy"] for each in found))
        return [(each["severity"], each["what"]) for each in found]
