# SPDX-License-Identifier: GPL-2.0-or-later

"""A zygote as the service sees it; small scripts play the zygote."""

import contextlib
import os
import re
import signal
import sys
import time

from ...lpserve import channel, system
from ...lpserve.errors import ZygoteError
from ...lpserve.service import generation
from ...lpserve.service.children import Children
from ...lpserve.service.generation import Generation, LaunchSpec
from ..harness import PLUGIN
from .test_loop import LoopTestCase

PROLOGUE = """
import os, signal, socket, sys
sys.path.insert(0, sys.argv[1])
from lpserve import channel
link = socket.socket(fileno=int(sys.argv[2]))
start, _ = channel.receive(link)
"""
READY = (
    "channel.send(link, 'ready', version=channel.VERSION, modules=12, cold='', "
    "sandbox={'why': ''}, warnings=[])\n"
)
UNTIL_RETIRED = "channel.receive(link)\n"


class TestGeneration(LoopTestCase):
    """The test is the owner; it keeps what it is told in `told`."""

    def setUp(self):
        super().setUp()
        self.told = []
        self.children = Children(self.loop, lambda: None)
        self.addCleanup(self.end)

    def zygote_ready(self, found):
        self.told.append(("ready", found.number, found.modules))

    def zygote_ended(self, found, why):
        self.told.append(("ended", found.number, why))

    def zygote_outdated(self, found, why):
        self.told.append(("outdated", found.number, why))

    def forked(self, serial, pid):
        self.told.append(("forked", serial, pid))

    def fork_failed(self, serial, why):
        self.told.append(("fork-failed", serial, why))

    def end(self):
        for child in list(self.children._table.values()):
            child.signal(signal.SIGKILL)
        self.run_until(lambda: not len(self.children), "every zygote has ended")

    def start(self, script, start=None, children=None):
        python = (sys.executable, "-I", "-S", "-c")
        launch = LaunchSpec((*python, PROLOGUE + script, PLUGIN), {}, start or {})
        return Generation(5, self.loop, children or self.children, launch, self)

    def wait_told(self, count=1):
        self.run_until(lambda: len(self.told) >= count, f"{count} events")
        return self.told[-1]

    def test_retired(self):
        """A zygote that is retired exits, and nothing is left open."""
        before = system.open_descriptors()
        found = self.start(READY + UNTIL_RETIRED)
        self.assertFalse(found.ready)
        self.assertEqual(("ready", 5, 12), self.wait_told())
        self.assertTrue(found.ready)
        found.retire()
        found.retire()
        self.assertEqual(("ended", 5, "it ended with exit 0"), self.wait_told(2))
        self.assertEqual(before, system.open_descriptors())

    def test_start(self):
        """It is sent the state of a fresh process; its stdin is empty."""
        script = (
            "fine = start['umask'] == 18 and not os.read(0, 1)\n"
            "channel.send(link, 'failed', text=f'{fine} {sorted(os.environ)}')\n"
        )
        self.start(script, {"umask": 18})
        kind, _, why = self.wait_told()
        self.assertEqual("ended", kind)
        self.assertStartsWith(why, "True ")
        self.assertNotIn("HOME", why)

    def test_descriptors(self):
        """FAULT 10: it inherits its channel and stdio, and nothing else."""
        ours = {each for each in system.open_descriptors() if os.get_inheritable(each)}
        script = (
            "found = set()\n"
            "for each in range(300):\n"
            "    try: os.fstat(each)\n"
            "    except OSError: continue\n"
            "    found.add(each)\n"
            "found -= {0, 1, 2, link.fileno()}\n"
            "channel.send(link, 'failed', text=f'found: {sorted(found)}')\n"
        )
        opened = os.open(os.devnull, os.O_RDONLY)
        self.addCleanup(os.close, opened)
        self.start(script)
        found = re.findall("[0-9]+", self.wait_told()[2].removeprefix("found: "))
        self.assertEqual(set(), set(map(int, found)) - ours)

    def test_fork(self):
        """Requests to it, answers from it."""
        script = READY + (
            "message, ends = channel.receive(link)\n"
            "os.write(ends[0], b'worker')\n"
            "channel.send(link, 'forked', serial=message['serials'][0], pid=77)\n"
            "message, ends = channel.receive(link)\n"
            "text = f\"spare: {message['spare']}, {start['settings']}\"\n"
            "[serial] = message['serials']\n"
            "channel.send(link, 'fork-failed', serial=serial, text=text)\n"
        )
        found = self.start(script + UNTIL_RETIRED, {"settings": {"a": 1}})
        self.wait_told()
        for serial in (31, 32):
            ours, theirs = channel.pair()
            self.addCleanup(ours.close)
            with theirs:
                found.fork([serial], [theirs], serial == 32, [-1])
            if serial == 31:
                self.assertEqual(b"worker", ours.recv(10))
        self.assertEqual(
            ("fork-failed", 32, "spare: True, {'a': 1}"), self.wait_told(3)
        )
        self.assertEqual(("forked", 31, 77), self.told[1])

    def test_outdated(self):
        """The owner gets the reason; the generation has what "ready" said."""
        said = "channel.send(link, 'outdated', text='moved')\n"
        found = self.start(READY + said + UNTIL_RETIRED)
        self.assertEqual(("outdated", 5, "moved"), self.wait_told(2))
        self.assertEqual(({"why": ""}, []), (found.sandbox, found.warnings))

    def test_failed(self):
        """The owner gets the text of the failure."""
        self.start("channel.send(link, 'failed', text='no Breezy')\nsys.exit(1)")
        self.assertEqual(("ended", 5, "no Breezy"), self.wait_told())

    def test_died_when_ready(self):
        found = self.start(READY + "os.kill(os.getpid(), signal.SIGKILL)")
        self.wait_told(2)
        self.assertEqual(("ended", 5, "it ended with signal 9"), self.told[1])
        ours, theirs = channel.pair()
        with ours, theirs:
            self.assertRaises(OSError, found.fork, [1], [theirs], False, [-1])

    def test_died_before_it_was_told_anything(self):
        """The owner learns of it once, and nothing is left open."""

        class Slow(Children):
            def add(self, pid, *words, **keywords):
                os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
                return super().add(pid, *words, **keywords)

        before = system.open_descriptors()
        slow = Slow(self.loop, lambda: None)
        launch = LaunchSpec(("/bin/false",), {}, {})
        try:
            Generation(5, self.loop, slow, launch, self)
        except (ZygoteError, OSError):
            self.told.append("raised")
        self.run_until(lambda: not len(slow), "it was reaped")
        self.assertEqual(1, len(self.told))
        self.assertEqual(before, system.open_descriptors())

    def test_another_version(self):
        """A zygote of another version, installed meanwhile, is not used."""
        self.start(
            "channel.send(link, 'ready', version=0, modules=1)\n" + UNTIL_RETIRED
        )
        kind, _, why = self.wait_told()
        self.assertEqual("ended", kind)
        self.assertContainsRe(why, "another version of lpserve is installed")

    def test_never_ready(self):
        self.overrideAttr(generation, "READY_TIMEOUT", 0.05)
        self.start(UNTIL_RETIRED)
        kind, _, why = self.wait_told()
        self.assertEqual("ended", kind)
        self.assertContainsRe(why, "not ready after")

    def look_often(self):
        self.overrideAttr(generation, "LOOK_EACH", 0.02)

    def ask(self, found):
        """Ask for a worker."""
        ours, theirs = channel.pair()
        self.addCleanup(ours.close)
        with theirs:
            found.fork([31], [theirs], True, [-1])

    def test_does_not_answer(self):
        """FAULT 50: a zygote that does not answer a request to fork has ended."""
        self.look_often()
        found = self.start(READY + "signal.pause()")
        self.wait_told()
        self.ask(found)
        kind, _, why = self.wait_told(2)
        self.assertEqual("ended", kind)
        self.assertContainsRe(why, "^it has not answered for")
        self.run_until(lambda: not len(self.children), "it was killed")
        self.assertEqual(2, len(self.told))

    def test_stopped(self):
        """FAULT 50: the same when its channel is full."""
        self.look_often()
        found = self.start(READY + "while True: channel.receive(link)")
        self.wait_told()
        os.kill(found.pid, signal.SIGSTOP)
        with contextlib.suppress(BlockingIOError):
            while True:
                found.keep("/some/where", None)
        found.ping()
        self.assertContainsRe(self.wait_told(2)[2], "^it has not answered for")

    def test_cannot_be_killed(self):
        """The owner does not wait for a zygote that the kernel does not end."""
        self.look_often()
        found = self.start(READY + "signal.pause()")
        self.wait_told()
        self.overrideAttr(found._child, "signal", lambda number: None)
        found.ping()
        self.assertEqual("ended", self.wait_told(2)[0])
        self.assertEqual(1, len(self.children))
        os.kill(found.pid, signal.SIGKILL)
        self.run_until(lambda: not len(self.children), "it has ended at last")
        self.assertEqual(2, len(self.told))

    def test_answers(self):
        """A slow zygote that answers to "fork" and "ping" is left alone."""
        self.look_often()
        script = (
            "import time\n"
            "while True:\n"
            "    message, _ = channel.receive(link)\n"
            "    if message is None: break\n"
            "    time.sleep(0.1)\n"
            "    if message['kind'] == 'ping': channel.send(link, 'pong')\n"
            "    for serial in message.get('serials', ()):\n"
            "        channel.send(link, 'forked', serial=serial, pid=1)\n"
        )
        found = self.start(READY + script)
        self.wait_told()
        for number in range(2, 6):
            self.ask(found)
            self.assertEqual("forked", self.wait_told(number)[0])
            found.ping()
            self.run_until(lambda: not found._owed, "an answer to the ping")
        found.retire()
        self.assertEqual("it ended with exit 0", self.wait_told(6)[2])

    def test_we_did_not_look(self):
        """Time for which the service itself was stopped does not count."""
        self.overrideAttr(generation, "LOOK_EACH", 0.05)
        script = (
            "import time\n"
            "channel.receive(link); time.sleep(0.2); channel.send(link, 'pong')\n"
        )
        found = self.start(READY + script + UNTIL_RETIRED)
        self.wait_told()
        found.ping()
        time.sleep(1)  # as if by SIGSTOP
        self.run_until(lambda: not found._owed, "an answer to the ping")
        self.assertEqual(1, len(self.told))

    def test_closes_its_channel_and_goes_on(self):
        """A zygote that has closed its channel is killed."""
        self.start("link.close()\nsignal.pause()")
        self.assertEqual(("ended", 5, "it ended with signal 9"), self.wait_told())

    def test_cannot_be_started(self):
        before = system.open_descriptors()
        launch = LaunchSpec(("/no/such/program",), {}, {})
        error = self.assertRaises(
            ZygoteError, Generation, 1, self.loop, self.children, launch, self
        )
        self.assertEqual("cannot start a zygote: No such file or directory", str(error))
        self.assertEqual(before, system.open_descriptors())
        self.assertEqual([], self.told)
