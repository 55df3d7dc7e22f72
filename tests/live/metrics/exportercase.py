# SPDX-License-Identifier: GPL-2.0-or-later

"""What the tests of the exporter share: one that runs, and requests to it."""

import http.client
import re
import socket
import subprocess

from breezy.tests import features

from ...harness import DEADLINE, LiveTestCase, read_line

#: What ``lp-serve-exporter`` needs.
prometheus_client = features.ModuleAvailableFeature("prometheus_client")


class ExporterTestCase(LiveTestCase):
    """An exporter on a port of its own.

    :ivar exporter: the process.
    :ivar port: where it listens.
    """

    def setUp(self):
        super().setUp()
        self.requireFeature(prometheus_client)

    def begin_exporter(self, *options, **env):
        """Start it."""
        self.exporter = self.start_words(
            self.brz("lp-serve-exporter", *options),
            {"stdin": subprocess.DEVNULL},
            **env,
        )
        self.addCleanup(self.exporter.kill)
        return self.exporter

    def start_exporter(self, *options, **env):
        """Start it, and wait until it listens."""
        self.begin_exporter(*(options or ("--listen=127.0.0.1:0",)), **env)
        line = read_line(self.exporter.stderr.fileno()).decode()
        found = re.fullmatch(r"Listening on 127\.0\.0\.1:(\d+)\n", line)
        self.assertIsNot(None, found, line)
        self.port = int(found[1])

    def get(self, path, status=200):
        """The body of the answer to a request, which must have this status."""
        made = http.client.HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE)
        try:
            made.request("GET", path)
            answer = made.getresponse()
            text = answer.read().decode()
        finally:
            made.close()
        self.assertEqual(status, answer.status, text)
        return text

    def samples(self):
        """Of each metric, with its labels, the value."""
        pairs = (
            line.rpartition(" ")
            for line in self.get("/metrics").splitlines()
            if line[0] != "#"
        )
        return {name: float(value) for name, _, value in pairs}

    def connect_tcp(self):
        """A connection to it that has not asked for anything."""
        made = socket.create_connection(("127.0.0.1", self.port), DEADLINE)
        self.addCleanup(made.close)
        return made
