# SPDX-License-Identifier: GPL-2.0-or-later

"""The metrics that are made of the answers of the service."""

import os
import re

from breezy.tests import TestCase

from ...lpserve.exporter.asking import Found
from ...lpserve.exporter.collector import make_page
from ...lpserve.exporter.processes import Measured
from ...lpserve.service.accounts import RESULTS, Accounts
from ...lpserve.service.board import Board
from ...lpserve.sshstate import SshState
from ..harness import PLUGIN

STATUS = {
    "version": "1.2",
    "breezy": '3.3"\n',
    "state": "running",
    "workers": {"spare": 2, "busy": 1, "waiting": 3, "starting": 0, "queued": 4},
    "descriptors": 20,
    "warnings": ["one"],
    "warm": [{"path": "/srv/a", "state": "warm"}, {"path": "/srv/b", "state": "cold"}],
    "warm_set": {"bytes": 1000},
    "streams": {"kept": 5, "bytes": 6000, "making": 2, "waiting": 1},
}


def text_of(found):
    """The text of the page."""
    return make_page(lambda: found, "3")()[0].decode()


def samples(found):
    """Of each metric, with its labels, the value."""
    lines = [line for line in text_of(found).splitlines() if line[0] != "#"]
    pairs = (line.rpartition(" ") for line in lines if line.startswith("lpserve_"))
    return {name: float(value) for name, _, value in pairs}


class TestCollector(TestCase):
    def setUp(self):
        super().setUp()
        board = Board()
        self.addCleanup(board.close)
        self.metrics = {
            **Accounts(board).metrics(os.getpid(), None, []),
            "reloads": {"done": 1, "failed": 2},
            "requests": 5,
            "faults": 6,
            "refused": {"busy": 7},
            "generation": 1,
            "streams": {"kept": 8, "followed": 0, "made": 3},
            "stream_bytes": {"kept": 9000, "followed": 0},
        }
        self.ssh = [
            SshState("0.0.0.0:22", 1.0, connections={"logged_in": 2}, sessions=3),
        ]
        self.found = Found(
            metrics=self.metrics,
            status=STATUS,
            measured=Measured({"service": 1, "zygote": 2, "workers": 3}, 1024),
            ssh=self.ssh,
        )

    def test_documented(self):
        """doc/metrics.txt has every name, and no other."""
        made = set(re.findall(r"(?m)^# TYPE (lpserve_\w+) ", text_of(self.found)))
        path = os.path.join(PLUGIN, "doc", "metrics.txt")
        with open(path, encoding="utf-8") as file:
            told = set(re.findall(r"(?m)^(lpserve_\w+)", file.read()))
        self.assertEqual(made, told)

    def test_values(self):
        found = samples(self.found)
        for name, value in (
            ("lpserve_up", 1),
            ('lpserve_refusals_total{code="busy"}', 7),
            ('lpserve_refusals_total{code="denied"}', 0),
            ('lpserve_waiting_connections{wants="place"}', 4),
            ('lpserve_workers{state="spare"}', 2),
            ("lpserve_warm_repositories", 1),
            ("lpserve_warnings", 1),
            ('lpserve_streams_total{how="kept"}', 8),
            ('lpserve_stream_bytes_total{how="kept"}', 9000),
            ("lpserve_kept_streams_bytes", 6000),
            ('lpserve_current_streams{state="waiting"}', 1),
            ("lpserve_max_fds", 1024),
            ('lpserve_build_info{breezy_version="3.3\\"\\n",version="1.2"}', 1),
            ('lpserve_hand_over_seconds_bucket{le="+Inf"}', 0),
            ('lpserve_hand_over_seconds_bucket{le="0.0005"}', 0),
            ('lpserve_ssh_connections{state="logged_in"}', 2),
        ):
            self.assertEqual(value, found[name], name)
        for result in RESULTS:
            self.assertIn(
                f'lpserve_connections_total{{door="fifo",result="{result}"}}', found
            )

    def test_down(self):
        """What is known without the service is told."""
        found = samples(Found("no service", drained=True, ssh=self.ssh))
        self.assertEqual((0, 1), (found["lpserve_up"], found["lpserve_drained"]))
        self.assertEqual(3, found["lpserve_ssh_sessions"])
        self.assertNotIn("lpserve_requests_total", found)

    def test_other_versions(self):
        """What is missing, of another kind or unknown is left out."""
        expected = set(samples(self.found))
        odds = (None, "7", [], {}, [7, "x"], {"busy": "x", "u1": 3}, float("nan"))
        for odd in (
            *odds,
            10**400,
            {"hand_over": {"buckets": [[1, 10**400]]}},
            "\ud800",
        ):
            for name in self.metrics:
                made = Found(metrics={**self.metrics, name: odd}, status=STATUS)
                self.assertEqual(set(), set(samples(made)) - expected, (name, odd))
            for name in STATUS:
                made = Found(metrics=self.metrics, status={**STATUS, name: odd})
                names = {
                    each
                    for each in samples(made)
                    if not each.startswith("lpserve_build_info")
                }
                self.assertEqual(set(), names - expected, (name, odd))

    def test_no_label_grows(self):
        """A service that told users or paths would not get them into a label."""
        self.metrics["refused"]["alice"] = 1
        self.metrics["connections"].append(
            {"result": "alice", "door": "fifo", "count": 1}
        )
        for name in ("warm", "processes"):
            self.metrics[name]["/srv/alice"] = 1
        self.assertNotIn("alice", text_of(self.found))

    def test_successor(self):
        """Of two at one address, the one that listens counts, and both are open."""
        old = SshState(
            *("0.0.0.0:22", 0.5, True, {"logged_in": 4}, 4),
            logins={"accepted": 1000},
        )
        for both in ([old, *self.ssh], [*self.ssh, old]):
            found = samples(Found(ssh=both))
            name = 'lpserve_ssh_logins_total{listen="0.0.0.0:22",result="accepted"}'
            self.assertEqual(0, found[name])
            self.assertEqual(7, found["lpserve_ssh_sessions"])
