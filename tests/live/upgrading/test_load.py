# SPDX-License-Identifier: GPL-2.0-or-later

"""Upgrades while clients connect and push: nobody is refused, nobody is cut."""

from .loadcase import UPGRADES, LoadCase


class TestLoad(LoadCase):
    """FAULT-free is not enough: no connection knows of an upgrade."""

    def test_load(self):
        self.start_service("--client-timeout=60")
        self.load(self.upgrade_often)

    def upgrade_often(self):
        for _ in range(UPGRADES or 3):
            self.upgrade()
            self.wait_alone()
            self.tell("the same code")
