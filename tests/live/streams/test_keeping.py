# SPDX-License-Identifier: GPL-2.0-or-later

"""Streams that a service keeps, from the first clone on."""

import json
import os
import signal

from ...harness import wait_until
from ..warm.warmcase import WarmCase


class TestKeeping(WarmCase):
    warm = 0

    def setUp(self):
        super().setUp()
        self.cache = os.path.join(self.home, "lpserve", "streams")
        self.access_log = os.path.join(self.test_dir, "access.log")
        self.clones = 0

    def clone(self, name="trunk"):
        """Clone *name*; how many streams were made, kept and followed for that."""
        self.clones += 1
        to = os.path.join(self.test_dir, f"clone{self.clones}")
        self.run_brz("branch", "-q", "--no-tree", f"bzr+ssh://host/{name}", to)
        self.rest()
        wait_until(lambda: len(self.lines()) == self.clones, "a line for each")
        line = json.loads(self.lines()[-1])
        self.assertEqual(bool(line["streams"]["kept"]), bool(line["bytes_kept"]))
        return [line["streams"][how] for how in ("made", "kept", "followed")]

    def lines(self):
        """Those of the access log."""
        with open(self.access_log, encoding="utf-8") as file:
            return file.readlines()

    def streams(self, *words):
        """What the command prints."""
        done = super(WarmCase, self).run_brz("lp-serve-control", "streams", *words)
        return done.stdout.decode()

    def keep(self):
        """Clone until the stream is kept."""
        self.assertEqual([[1, 0, 0]] * 2, [self.clone(), self.clone()])

    def start(self, **options):
        self.start_warm(access_log=self.access_log, **options)
        self.make_branch("trunk")

    def test_life(self):
        """Kept at the second time, and served from there; told of everywhere."""
        self.start()
        self.assertEqual([1, 0, 0], self.clone())
        self.assertEqual([], os.listdir(self.cache))
        self.assertEqual([1, 0, 0], self.clone())
        [name] = os.listdir(self.cache)
        path = os.path.join(self.cache, name)
        self.assertEqual(0o600, os.stat(path).st_mode & 0o777)
        self.assertEqual([0, 1, 0], self.clone())
        size = os.stat(path).st_size
        status = self.status()["streams"]
        names = ("directory", "off", "kept", "bytes", "hits", "misses", "making")
        expected = [self.cache, "", 1, size, 1, 2, 0]
        self.assertEqual(expected, [status[name] for name in names])
        metrics = json.loads(self.ask("metrics")[1])
        self.assertEqual({"kept": 1, "followed": 0, "made": 2}, metrics["streams"])
        [kept] = json.loads(self.streams("--json"))["kept"]
        self.assertEqual((name, size, 1), (kept["key"], kept["bytes"], kept["uses"]))
        row = self.streams().splitlines()[1].split()
        self.assertEqual([name[:12], "kept"], row[:2])
        # Another tip is another stream.
        self.commit("trunk")
        self.assertEqual([1, 0, 0], self.clone())
        self.assertStartsWith(self.streams("--drop"), "1 kept streams (")
        self.assertEqual([], os.listdir(self.cache))
        self.assertEqual("", self.log_text().replace("INFO", "").partition("WARN")[1])

    def test_reload(self):
        """Off, on, smaller."""
        self.start()
        self.keep()
        self.configure(access_log=self.access_log, stream_cache="off")
        self.ask("reload")
        self.assertEqual([0, 0, 0], self.clone())
        self.assertEqual(1, len(os.listdir(self.cache)))
        self.configure(access_log=self.access_log)
        self.ask("reload")
        self.assertEqual([0, 1, 0], self.clone())
        self.configure(access_log=self.access_log, stream_cache_size=0)
        self.ask("reload")
        wait_until(lambda: not os.listdir(self.cache), "it is dropped")
        self.assertEqual([1, 0, 0], self.clone())

    def test_restart(self):
        """What was kept is known, and what was being made is removed."""
        self.start()
        self.keep()
        [name] = os.listdir(self.cache)
        self.service.send_signal(signal.SIGKILL)
        self.service.wait()
        left = os.path.join(self.cache, f"{name}.7.tmp")
        with open(left, "wb"):
            pass
        self.start_service()
        self.rest()
        wait_until(lambda: not os.path.exists(left), "it is removed")
        self.assertEqual(1, self.status()["streams"]["kept"])
        self.assertEqual([0, 1, 0], self.clone())

    def test_upgrade(self):
        """The successor knows what is kept."""
        self.start()
        self.keep()
        self.assertEqual("ok", self.ask("upgrade")[0])
        wait_until(lambda: not self.status()["predecessors"], "it is alone")
        self.assertEqual(1, self.status()["streams"]["kept"])
        self.assertEqual([0, 1, 0], self.clone())

    def test_unfit(self):
        """One clear warning, and no kept streams."""
        os.makedirs(self.cache)
        os.chmod(self.cache, 0o755)
        self.start()
        why = f"{self.cache} is open to others (mode 0755)"
        self.assertEqual([0, 0, 0], self.clone())
        self.assertEqual(1, self.log_text().count(why))
        self.assertEqual(why, self.status()["streams"]["off"])
