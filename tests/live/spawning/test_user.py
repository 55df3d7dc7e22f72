# SPDX-License-Identifier: GPL-2.0-or-later

"""FAULT 46: hooks know for whom they run, whatever a request says."""

import json
import os

from ...harness import DOORS, HELLO, LiveTestCase
from .test_hard_requests import WITNESS


class TestUser(LiveTestCase):
    def setUp(self):
        super().setUp()
        self.witness = os.path.join(self.test_dir, "witness")
        os.mkdir(self.witness)
        self.add_plugin("witness", WITNESS)

    @property
    def env(self):
        # Whoever starts a service, or a client, may be served by another one.
        return {**super().env, "WITNESS": self.witness, "LPSERVE_USER": "outside"}

    def seen(self, user):
        with open(os.path.join(self.witness, user)) as file:
            return json.load(file)

    def serve(self, user, door, **env):
        connection = self.connect(user, door, **env).open()
        connection.hello()
        connection.close()
        self.assertEqual(["exit", "0"], connection.end())
        return self.seen(user)

    def test_worker(self):
        """In a spare worker and in another one; through both doors."""
        for number, spares in enumerate((0, 2)):
            self.configure(spare_workers=spares)
            service = self.start_service()
            self.rest(spares)
            for door in DOORS:
                user = f"user{number}{door}"
                found = self.serve(user, door, BRZ_EMAIL="eve")
                self.assertEqual(
                    (user, "eve"), (found["LPSERVE_USER"], found["BRZ_EMAIL"])
                )
            self.assertEqual(0, self.stop_service(service))

    def test_no_request_sets_it(self):
        """Not even if lpserve.environment has the name, which is warned of."""
        self.configure(environment="LANG, LPSERVE_USER")
        self.start_service()
        self.wait_for_log("lpserve.environment: no request can set LPSERVE_USER")
        for door in DOORS:
            asked = self.ask_worker("alice", door, LPSERVE_USER="eve")
            self.assertEqual(["error", "denied"], asked.wait()[:2])
        # A client does not try.
        done = self.run_program(["lp-serve-client", "alice"], b"hello\n")
        self.assertEqual((0, HELLO, b""), (done.returncode, done.stdout, done.stderr))
        self.assertEqual("alice", self.seen("alice")["LPSERVE_USER"])

    def test_without_a_service(self):
        self.configure(directory=self.root, environment="LPSERVE_USER")
        for words in (
            ["lp-serve-client", "alice"],
            self.brz("lp-serve", "--inet", "bob"),
        ):
            done = self.run_program(words, b"hello\n")
            self.assertEqual((0, HELLO), (done.returncode, done.stdout))
            self.assertEqual(words[-1], self.seen(words[-1])["LPSERVE_USER"])
