# SPDX-License-Identifier: GPL-2.0-or-later

"""Units and their drop-ins."""

import os

from breezy.tests import TestCaseInTempDir

from ...lpserve.installation.unitfiles import find_unit
from .installationcase import write


class TestUnits(TestCaseInTempDir):
    def test_drop_ins(self):
        """The first directory that has the unit counts; drop-ins of all do."""
        places = [os.path.join(self.test_dir, name) for name in ("etc", "lib")]
        for place in places:
            os.makedirs(os.path.join(place, "a.service.d"))
        write("etc/a.service", "[Service]\nUser=one\nExecStart=/a \\\n  'b c' %%\n")
        write("lib/a.service", "[Service]\nUser=two\nType=notify\n")
        write("lib/a.service.d/50.conf", "[Service]\nEnvironment=A=1 'B=2 3'\n")
        unit = find_unit("a.service", tuple(places))
        self.assertEqual(["/a", "b c", "%"], unit.command())
        self.assertEqual({"A": "1", "B": "2 3"}, unit.environ())
        self.assertEqual("one", unit.last("Service", "User"))
        self.assertIs(None, unit.last("Service", "Type"))
        write(
            "etc/a.service.d/60.conf", "# x\n[Service]\nExecStart=\nExecStart=-/d e\n"
        )
        write("etc/a.service.d/50.conf", "[Service]\nUser=three\n")
        unit = find_unit("a.service", tuple(places))
        self.assertEqual(["/d", "e"], unit.command())
        self.assertEqual("three", unit.last("Service", "User"))
        self.assertEqual({}, unit.environ())
        self.assertIs(None, find_unit("b.service", tuple(places)))
