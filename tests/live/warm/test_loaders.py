# SPDX-License-Identifier: GPL-2.0-or-later

"""Loaders that fail, and workers that report rubbish, do the service no harm."""

import os
import signal

from ...harness import DEADLINE, wait_until
from ...processes import title_of
from .warmcase import WarmCase

GRAPH = b"Repository.get_revision_graph"

#: Has loaders do what the file "loader" says.
BAD_LOADER = """
import os, signal, time
from breezy.plugins.lpserve.lpserve.warm import loader as warmload

real = warmload.load

def load(path):
    with open("BAD_LOADER") as file:
        what = file.read()
    if what == "raise":
        raise RuntimeError("no\\nsuch luck")
    if what == "hang":
        time.sleep(1000)
    if what == "eat":
        held = []
        while True:
            held.append(bytearray(1 << 24))
    if what == "die":
        os.kill(os.getpid(), signal.SIGSEGV)
    return real(path)

warmload.load = load
warmload.MEMORY = 1 << 26
"""

#: A service whose loaders may take half a second.
HASTY_SERVICE = """
from breezy.plugins.lpserve.lpserve.service import warmer, warmset
warmer.LOAD_TIMEOUT = 0.5
warmset.ASIDE = 0.2
"""


class TestBadLoaders(WarmCase):
    """A repository that cannot be loaded is put aside, and served as ever."""

    def setUp(self):
        super().setUp()
        self.switch = os.path.join(self.test_dir, "loader")
        self.add_plugin("bad_loader", BAD_LOADER.replace("BAD_LOADER", self.switch))
        self.add_plugin("hasty_service", HASTY_SERVICE)
        self.tip = self.make_branch("a")

    def do(self, what):
        with open(self.switch, "w") as file:
            file.write(what)

    def check(self, what, why):
        self.do(what)
        self.start_warm(warm_memory=1)
        self.assertEqual(3, self.once(GRAPH, b"a/", self.tip)[1].count(b"\n") + 1)
        log = self.wait_for_log("is put aside for 0 s: ")
        self.assertContainsRe(log, why)
        # For a growing time.
        self.wait_for_log("is put aside for 1 s: ")
        self.assertEqual(3, self.once(GRAPH, b"a/", self.tip)[1].count(b"\n") + 1)
        self.do("work")
        self.wait_warm("a")
        self.assertEqual(0, self.status()["totals"]["faults"])

    def test_raises(self):
        self.check("raise", "aside for 0 s: RuntimeError: no such luck\n")

    def test_hangs(self):
        self.check("hang", "aside for 0 s: it took more than 0 s\n")

    def test_eats_memory(self):
        self.check("eat", "aside for 0 s: it takes too much memory\n")

    def test_dies(self):
        self.check("die", "aside for 0 s: its loader ended with signal 11\n")

    def test_service_ends(self):
        """Told to or killed, with a loader that hangs: nothing is left."""
        self.do("hang")
        for number in (signal.SIGTERM, signal.SIGKILL):
            self.start_warm()
            self.once(GRAPH, b"a/", self.tip)
            self.wait_loader()
            self.service.send_signal(number)
            ended = 0 if number == signal.SIGTERM else -number
            self.assertEqual(ended, self.service.wait(DEADLINE))
            wait_until(lambda: not self.processes(), "the loader ended")
        self.remove_doors()

    def wait_loader(self):
        def there():
            return [pid for pid in self.processes() if title_of(pid) == "lp-loader"]

        wait_until(there, "there is a loader")


#: Workers that tell rubbish, and a lot of it, before they end.
RUBBISH = """
import os, socket
from breezy.plugins.lpserve.lpserve import channel
from breezy.plugins.lpserve.lpserve.warm import memory as warm

real = warm.RepositoryCache.report

def report(self):
    real(self)
    link = self._link
    for data in (b"x", b"[]", b"{}", b'"kind"', b'{"kind": []}', b"\\xff" * 9999,
                 b'{"kind": "used"}', b'{"kind": "imported"}', b'{"kind": "left"}',
                 b'{"kind": "used", "path": 7, "outcome": []}',
                 b'{"kind": "used", "path": "a", "outcome": "hit"}',
                 b'{"kind": "used", "path": "/\\\\n", "outcome": "hit"}'):
        link.send(data)
        socket.send_fds(link, [data], [link.fileno()])
    for number in range(1000):
        try:
            channel.send(link, "used", flags=socket.MSG_DONTWAIT,
                         path="/nowhere/%d" % number, outcome="cold")
        except OSError:
            break

warm.RepositoryCache.report = report
"""


class TestRubbish(WarmCase):
    def test_rubbish(self):
        """The service survives what workers say, and keeps nothing of it open."""
        tip = self.make_branch("a")
        self.add_plugin("rubbish", RUBBISH)
        self.start_warm(warm_interval=3600)
        descriptors = self.rest()
        for _ in range(3):
            self.assertEqual((b"ok",), self.once(GRAPH, b"a/", tip)[0])
        wait_until(lambda: not self.status()["warm_set"]["loading"], "all is loaded")
        # And that of the only one that is there.
        self.rest(descriptors=descriptors + 1)
        status = self.status()
        self.assertEqual(0, status["totals"]["faults"])
        self.assertTrue(len(status["warm"]) <= 64, len(status["warm"]))
