# SPDX-License-Identifier: GPL-2.0-or-later

"""The status as a person reads it."""

import json

from breezy.tests import TestCase

from ..lpserve.report import format_seconds, format_status
from ..lpserve.reportstreams import format_streams

STATUS = {
    "pid": 17,
    "version": "1.2",
    "uptime": 3725.25,
    "runtime_dir": "/run/lpserve",
    "doors": ["control", "socket"],
    "state": "running",
    "generation": 3,
    "zygote": 18,
    "modules": 812,
    "sandbox": {
        "asked": "auto",
        "holds": "writes",
        "abi": 7,
        "why": "",
    },
    "workers": {"spare": 2, "busy": 1, "waiting": 0, "starting": 0, "queued": 0},
    "totals": {
        "requests": 9,
        "spawned": 5,
        "ended": 4,
        "gone": 2,
        "failed": 0,
        "faults": 0,
    },
    "rehearsal": None,
    "refused": {},
    "warnings": [],
    "descriptors": 23,
    "warm": [
        {
            "path": "/srv/a",
            "state": "warm",
            "uses": 9,
            "hits": 7,
            "used": 3.0,
            "bytes": 3 << 20,
            "revisions": 30000,
            "load_seconds": 0.341,
            "age": 120.0,
        },
        {
            "path": "/srv/b",
            "state": "aside",
            "uses": 1,
            "hits": 0,
            "used": 70.0,
            "why": "it takes too much memory",
            "retry": 45.0,
        },
        {"path": "/srv/c", "state": "cold", "uses": 1, "hits": 0, "used": 71.0},
    ],
    "warm_set": {"edition": 4, "bytes": 3 << 20, "off": "", "loading": None},
}

TABLE = """\
service            lpserve 1.2, pid 17
state              running, up 1 h 2 min
runtime directory  /run/lpserve
doors              control, socket
generation         3 (zygote 18, 812 modules loaded)
sandbox            writes (auto), Landlock 7
workers            2 spare, 1 busy, 0 waiting, 0 starting, 0 queued
totals             9 requests, 5 spawned, 4 ended, 2 gone, 0 failed, 0 faults
refused            none
descriptors        23
warm repositories  1, 3.0 MiB, edition 4
  /srv/a: warm, 30000 revisions, 3.0 MiB, loaded 2 min ago in 0.341 s, 7 hits of 9 uses
  /srv/b: aside, it takes too much memory; again in 45 s, 0 hits of 1 uses
  /srv/c: cold, 0 hits of 1 uses
"""


class TestReport(TestCase):
    """`report.format_status`."""

    def test_table(self):
        self.assertEqual(TABLE, format_status(json.dumps(STATUS)))

    def assertShows(self, lines, **changed):
        table = format_status(json.dumps({**STATUS, **changed}))
        self.assertContainsString(table, lines)

    def test_rows(self):
        """What can be otherwise."""
        none = "generation         none: a zygote is being started\n"
        self.assertShows(none, generation=None, zygote=None, modules=None)
        self.assertShows(
            "rehearsal          failed: no space; again in 2 min\n",
            rehearsal={"why": "no space", "retry": 120.5},
        )
        refused = {"busy": 2, "bad-request": 1}
        self.assertShows("refused            2 busy, 1 bad-request\n", refused=refused)
        off = {"edition": 0, "bytes": 0, "off": "no such function", "loading": None}
        self.assertShows(
            "warm repositories  none: no such function\n", warm=[], warm_set=off
        )
        for changed, text in (
            ({"asked": "strict", "holds": "strict"}, "strict (strict), Landlock 7"),
            ({"holds": "off", "why": "no Landlock"}, "off: no Landlock"),
            ({"asked": "off", "holds": "off"}, "off: lpserve.sandbox says so"),
        ):
            found = {**STATUS["sandbox"], **changed}
            self.assertShows(f"\nsandbox            {text}\n", sandbox=found)

    def test_streams(self):
        found = {
            "off": "",
            "fault": "",
            "kept": 2,
            "bytes": 3 << 20,
            "limit": 1 << 30,
            "making": 1,
            "waiting": 0,
            "hits": 9,
            "misses": 4,
            "followed": 3,
            "bytes_served": 5 << 20,
        }
        counts = "9 kept, 3 followed, 4 made, 1 being made, 0 waiting"
        lines = "kept streams       2, 3.0 MiB of 1024.0 MiB{}\n"
        lines += f"streams            {counts}; 5.0 MiB of kept ones\n"
        self.assertShows(lines.format(""), streams=found)
        faulty = {**found, "fault": "/srv: No such file"}
        self.assertShows(lines.format("; /srv: No such file"), streams=faulty)
        off = {**found, "off": "no reason"}
        self.assertShows("kept streams       none: no reason\nwarm", streams=off)

    def test_table_of_streams(self):
        who = {"pid": 7, "user": "alice", "seconds": 61.5}
        made = {**who, "key": "a" * 64, "keep": False, "followers": 0}
        then = "2026-01-01T00:00:00.000Z"
        text = format_streams(
            json.dumps(
                {
                    "making": [made, {**made, "keep": True, "followers": 2}],
                    "waiting": [{**who, "key": "b" * 64}],
                    "kept": [
                        {"key": "c" * 64, "bytes": 9, "last_used": then, "uses": 3}
                    ],
                }
            )
        )
        [_, *rows] = text.splitlines()
        self.assertEqual(
            [
                "aaaaaaaaaaaa made 7 alice 1 min 1 s",
                "aaaaaaaaaaaa made, to be kept, 2 follow 7 alice 1 min 1 s",
                "bbbbbbbbbbbb waiting 7 alice 1 min 1 s",
            ],
            [" ".join(row.split()) for row in rows[:3]],
        )
        self.assertEqual(["cccccccccccc", "kept", "9", "B"], rows[3].split()[:4])
        self.assertEqual("3", rows[3].split()[-1])

    def test_warnings(self):
        table = format_status(json.dumps({**STATUS, "warnings": ["so", "and so"]}))
        self.assertEqual(TABLE + "WARNING: so\nWARNING: and so\n", table)

    def test_older_service(self):
        """A service that was started before these fields existed."""
        new = ("rehearsal", "sandbox", "warnings")
        status = {name: each for name, each in STATUS.items() if name not in new}
        expected = TABLE.replace("sandbox            writes (auto), Landlock 7\n", "")
        self.assertEqual(expected, format_status(json.dumps(status)))

    def test_seconds(self):
        for seconds, text in (
            (0, "0 s"),
            (0.9, "0 s"),
            (59.9, "59 s"),
            (60, "1 min"),
            (61, "1 min 1 s"),
            (3600, "1 h"),
            (3661, "1 h 1 min"),
            (86400, "1 d"),
            (90061, "1 d 1 h"),
            (86400 * 400, "400 d"),
        ):
            self.assertEqual(text, format_seconds(seconds))
