# SPDX-License-Identifier: GPL-2.0-or-later

"""The service through its life, and one connection through it."""

import os

from ...harness import LiveTestCase, wait_until


class TestService(LiveTestCase):
    rehearses = True

    def test_hello(self):
        service = self.start_service()
        self.assertEqual(
            ["ok", "lpserve", self.status()["version"], f"pid={service.pid}"],
            self.ask("hello"),
        )

    def test_connection(self):
        self.start_service()
        before = self.settled_status()["descriptors"]
        connection = self.connect().open()
        self.assertEqual(b"ok\x012\n", connection.hello())
        self.assertFalse(os.path.exists(connection.paths[0]))
        connection.close()
        self.assertEqual(["exit", "0"], connection.end())
        wait_until(
            lambda: self.settled_status()["descriptors"] == before,
            "the service has closed what it opened",
        )

    def test_no_spares(self):
        self.configure(spare_workers=0)
        self.start_service()
        connection = self.connect().open()
        self.assertEqual(b"ok\x012\n", connection.hello())
        self.assertEqual(0, self.status()["workers"]["spare"])
        connection.close()
        self.assertEqual(["exit", "0"], connection.end())
