# SPDX-License-Identifier: GPL-2.0-or-later

"""When which repository is loaded, with fake loaders and a fake zygote."""

import os
import subprocess

from ...lpserve import channel
from ...lpserve.service import warmer, warmset
from ...lpserve.service.children import Children
from ...lpserve.service.warmer import Warmer
from ...lpserve.service.warmstore import WarmStore
from .test_loop import LoopTestCase
from .test_warmstore import Store


class Zygote:
    """Takes notes of what it is asked.

    :ivar asked: the loaders: serial, path and the loader's end of its channel.
    :ivar kept: what later workers know: paths, and those that they forgot.
    """

    cold = ""

    def __init__(self):
        self.asked = []
        self.kept = []
        self.gone = self.busy = False

    def load(self, serial, end, path, room):
        if self.gone:
            raise BrokenPipeError
        self.asked.append((serial, path, end.dup()))

    def keep(self, path, descriptor):
        if self.busy:
            raise BlockingIOError
        self.kept.append((path, descriptor is not None))


class WarmerCase(LoopTestCase):
    def setUp(self):
        super().setUp()
        self.children = Children(self.loop, lambda: None)
        self.spares = []
        self.file = os.path.join(self.test_dir, "warm")
        self.store = Store()
        self.came_back = []
        self.warmer = self.make_warmer()
        self.zygote = Zygote()
        self.warmer.limit(2, 1000, 0.0, ())
        self.warmer.use(self.zygote)

    def make_warmer(self):
        made = Warmer(
            self.loop,
            self.children,
            WarmStore(self.file, "1", self.store, self.came_back),
            lambda path, descriptor: self.spares.append((path, descriptor is not None)),
        )
        self.addCleanup(made.stop)
        return made

    def use(self, path, outcome="cold"):
        self.warmer.handle_message({"kind": "used", "path": path, "outcome": outcome})

    def asked(self):
        return [path for _, path, _ in self.zygote.asked]

    def wait_asked(self, *paths):
        self.run_until(lambda: self.asked() == list(paths), f"{paths} are asked for")

    def states(self):
        return {each["path"]: each["state"] for each in self.warmer.set.describe()}

    def wait_state(self, path, state):
        self.run_until(lambda: self.states().get(path) == state, f"{path} is {state}")

    def be_loader(self, **result):
        """The loader that was asked for last says *result*, and ends."""
        serial, _, end = self.zygote.asked[-1]
        child = subprocess.Popen(["sleep", "1000"])
        self.addCleanup(child.wait)
        self.addCleanup(child.kill)
        self.warmer.forked(serial, child.pid)
        with end:
            if result:
                reader, writer = os.pipe()
                descriptors = (reader,) if result.pop("attached", True) else ()
                channel.send(end, result.pop("kind"), descriptors, **result)
                os.close(reader)
                os.close(writer)
        child.kill()

    def load(self, size=10):
        self.be_loader(kind="loaded", size=size, revisions=3, seconds=0.1)


class TestLoading(WarmerCase):
    def test_loaded(self):
        """The zygote and the spare workers have it."""
        self.use("/a")
        self.wait_asked("/a")
        self.load()
        self.wait_state("/a", "warm")
        self.assertEqual([("/a", True)], self.zygote.kept)
        self.assertEqual([("/a", True)], self.spares)
        self.assertEqual(1, self.warmer.edition)

    def test_not_kept_any_more(self):
        for number, path in enumerate("abc"):
            self.use("/" + path)
            self.run_until(lambda n=number: len(self.asked()) > n, "it is asked for")
            self.load()
            self.wait_state("/" + path, "warm")
        self.assertEqual(("/a", False), self.zygote.kept[2])
        self.assertEqual(self.zygote.kept, self.spares)

    def test_interval(self):
        """Loaders run one after another, once for each repository in an interval."""
        self.warmer.limit(2, 1000, 3600.0, ())
        self.use("/a")
        self.wait_asked("/a")
        self.use("/b")
        self.use("/a")  # it was used while it was loaded
        self.load()
        self.wait_asked("/a", "/b")
        self.load()
        self.wait_state("/b", "warm")
        self.use("/b")
        self.assertEqual(["/a", "/b"], self.asked())
        self.warmer.limit(2, 1000, 0.0, ())
        self.wait_asked("/a", "/b", "/b")

    def test_flood(self):
        """In an interval no more are loaded than can be kept."""
        self.warmer.limit(2, 1000, 3600.0, ())
        for number in range(5):
            self.use(f"/{number}")
            self.run_until(lambda: True, "a round")
        for _ in range(2):
            self.load()
            count = len(self.asked())
            self.run_until(
                lambda n=count: not self.warmer._loader or len(self.asked()) > n, "on"
            )
        self.assertEqual(2, len(self.asked()))

    def test_zygote_does_not_keep_up(self):
        """A zygote whose channel was full gets the rest later."""
        self.zygote.busy = True
        self.use("/a")
        self.wait_asked("/a")
        self.load()
        self.wait_state("/a", "warm")
        self.assertEqual([], self.zygote.kept)
        self.zygote.busy = False
        self.run_until(lambda: self.zygote.kept == [("/a", True)], "it is told")

    def test_another_zygote(self):
        self.test_loaded()
        self.warmer.use(None)
        self.use("/b")
        self.zygote = Zygote()
        self.warmer.use(self.zygote)
        self.assertEqual([("/a", True)], self.zygote.kept)
        self.wait_asked("/b")

    def test_zygote_dies_first(self):
        """The zygote dies before it has forked the loader: the next one is asked."""
        self.use("/a")
        self.wait_asked("/a")
        self.zygote.asked[0][2].close()
        self.warmer.use(None)
        self.assertEqual({"/a": "cold"}, self.states())
        self.zygote = Zygote()
        self.warmer.use(self.zygote)
        self.wait_asked("/a")
        self.load()
        self.wait_state("/a", "warm")

    def test_zygote_dies_later(self):
        """The loader goes on."""
        self.use("/a")
        self.wait_asked("/a")
        self.load()
        self.warmer.use(None)
        self.wait_state("/a", "warm")

    def test_zygote_is_gone(self):
        """A dead zygote that is not reaped yet is no fault of the repository."""
        self.zygote.gone = True
        self.use("/a")
        self.assertEqual({"/a": "cold"}, self.states())

    def test_another_breezy(self):
        self.zygote.cold = "it is another"
        self.warmer.use(self.zygote)
        self.use("/a")
        self.assertEqual([], self.asked())
        self.assertEqual("it is another", self.warmer.status()["warm_set"]["off"])

    def test_stopped(self):
        self.warmer.stop()
        self.use("/a")
        self.assertEqual([], self.asked())


class TestFailures(WarmerCase):
    def check(self, why):
        self.wait_state("/a", "aside")
        self.assertContainsRe(self.warmer.set.describe()[0]["why"], why)
        self.assertEqual([], self.zygote.kept)

    def begin(self):
        self.use("/a")
        self.wait_asked("/a")

    def test_no_result(self):
        loaded = {"kind": "loaded", "size": 1, "revisions": 1, "seconds": 1}
        for result, why in (
            (
                {"kind": "not-loaded", "text": "it is no repository"},
                "it is no repository",
            ),
            ({}, "its loader ended with signal 9"),
            ({**loaded, "attached": False}, "it sent nothing"),
            (
                {**loaded, "size": 1001},
                "0.0 MiB are more than lpserve.warm_memory",
            ),
            (b"rubbish", "its loader ended with signal 9"),
        ):
            self.warmer.stop()
            self.zygote, self.warmer = Zygote(), self.make_warmer()
            self.warmer.limit(2, 1000, 0.0, ())
            self.warmer.use(self.zygote)
            self.begin()
            if isinstance(result, bytes):
                self.zygote.asked[0][2].send(result)
                result = {}
            self.be_loader(**result)
            self.check(f"^{why}$")

    def test_no_fork(self):
        self.begin()
        serial, _, end = self.zygote.asked[0]
        end.close()
        self.warmer.fork_failed(serial, "Cannot allocate memory")
        # It is no fault of the repository.
        self.wait_asked("/a", "/a")

    def test_changing(self):
        """It is tried again in a moment."""
        self.overrideAttr(warmset, "IN_A_MOMENT", 0.01)
        self.begin()
        self.be_loader(kind="changing", text="it changes")
        self.wait_asked("/a", "/a")
        self.load()
        self.wait_state("/a", "warm")

    def test_late(self):
        """A loader that is forked after its time-out is ended."""
        self.overrideAttr(warmer, "LOAD_TIMEOUT", 0.0)
        self.begin()
        loader = self.warmer._loader
        self.run_until(lambda: loader.why, "its time is over")
        self.be_loader()
        self.check("^it took more than 0 s$")

    def test_overdue(self):
        self.overrideAttr(warmer, "LOAD_TIMEOUT", 0.01)
        self.begin()
        serial, _, end = self.zygote.asked[0]
        child = subprocess.Popen(["sleep", "1000"])
        self.addCleanup(child.wait)
        self.warmer.forked(serial, child.pid)
        self.check("^it took more than 0 s$")
        end.close()

    def test_not_ours(self):
        """Messages about loaders that nobody asked for are ignored."""
        self.warmer.forked(-7, os.getpid())
        self.warmer.fork_failed(-7, "no")
        for message in ({}, {"path": "/a"}, {"path": 1, "outcome": "hit"}):
            self.warmer.handle_message(message)
        self.assertEqual({}, self.states())


class TestFile(WarmerCase):
    def test_saved(self):
        self.use("/a")
        self.warmer.save()
        other = self.make_warmer()
        other.start()
        other.limit(2, 1000, 0.0, ())
        self.assertEqual(["/a"], [each["path"] for each in other.set.describe()])

    def test_cannot_be_saved(self):
        """A file that cannot be written is no error."""
        os.mkdir("warm")
        self.use("/a")
        self.warmer.save()
        self.make_warmer().start()
        self.assertEqual([], [each for each in os.listdir() if ".new" in each])
