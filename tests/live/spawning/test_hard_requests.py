# SPDX-License-Identifier: GPL-2.0-or-later

"""Requests that are slow, cut short, or made of unusual words."""

import json
import os
import select
import shlex
import signal
import time

from ....lpserve.client.conversation import Conversation
from ...harness import DEADLINE, DOORS, read_line, wait_until
from .test_requests import RequestsTestCase

#: Writes down what a worker was told: USER and its environment.
WITNESS = """
import json, os
from breezy.plugins.lpserve.lpserve.serving import smartserver as serving

def serve_and_report(user, *args, real=serving.serve_and_report, **kwargs):
    if user != "rehearsal":
        path = os.path.join(os.environ["WITNESS"], user)
        with open(path + ".new", "w") as file:
            json.dump(dict(os.environ), file)
        os.rename(path + ".new", path)
    return real(user, *args, **kwargs)

serving.serve_and_report = serve_and_report
"""

#: With this plug-in the service waits for ever for the rest of half a line.
PATIENT = """
from breezy.plugins.lpserve.lpserve import wire
wire.RequestReader.HOLD = 1e9
"""


class TestSlowAndGone(RequestsTestCase):
    LINE = b"hello reply=me\n"

    def check_idle(self) -> None:
        """Check that the service sleeps, and uses no time of a processor."""
        stat = f"/proc/{self.service.pid}/stat"
        seen: list[tuple[bytes, ...]] = []

        def asleep() -> bool:
            with open(stat, "rb") as file:
                fields = file.read().rpartition(b")")[2].split()
            seen.append((fields[0], fields[11], fields[12]))
            # For a tenth of a second: /proc counts in hundredths.
            return len(seen) >= 20 and set(seen[-20:]) == {(b"S", *seen[-1][1:])}

        wait_until(asleep, "the service sleeps")

    def test_slow(self):
        """FAULT 11: a slow request is understood, and nobody waits for half of one."""
        self.add_plugin("patient", PATIENT)
        self.start_service()
        reply = self.make_reply("me")
        control = os.open(self.control, os.O_WRONLY)
        self.addCleanup(os.close, control)
        for byte in self.LINE:
            os.write(control, bytes([byte]))
        self.assertEqual("ok", shlex.split(read_line(reply).decode())[0])
        os.write(control, b"spawn 'alice reply=me")
        self.check_serves()
        # A shell's request, without the newline in front that ours have.
        other = self.make_reply("other")
        self.assertEqual("ok", self.answer_to(b"hello reply=other\n", other)[0])
        answer = shlex.split(read_line(reply).decode())
        self.assertEqual(["error", "bad-request"], answer[:2])
        self.check_idle()

    def test_gone_in_mid_request(self):
        """FAULT 12: the client goes after each byte of a request."""
        self.start_service()
        before = self.rest()
        reply = self.make_reply("me")
        line = b"spawn alice env.LANG=C reply=me"
        for length in range(1, len(line)):
            self.write_control(line[:length])
            self.assertEqual(f"pid={self.service.pid}", self.ask("hello")[-1])
        self.check_idle()
        self.assertEqual("ok", self.answer_to(b"\n" + self.LINE, reply)[0])
        self.rest(descriptors=before)

    def test_gone_before_and_in_the_answer(self):
        """FAULT 12: the client goes before its answer, or in the middle of it."""
        self.configure(connect_timeout=1)
        self.start_service()
        before = self.rest()
        for verb in (["hello"], ["status"], ["quit"], ["spawn", "alice"]):
            for length in range(0, 70, 5):
                conversation = Conversation(self.runtime)
                conversation.send(verb, time.monotonic() + DEADLINE)
                if length:
                    select.select([conversation.reply], [], [], DEADLINE)
                    os.read(conversation.reply, length)
                conversation.close()
            self.assertEqual(f"pid={self.service.pid}", self.ask("hello")[-1])
        self.check_idle()
        self.check_serves()
        # The workers that nobody connected to have given up.
        self.rest(descriptors=before)
        self.assertEqual(DOORS, self.paths_left())


class TestWords(RequestsTestCase):
    """FAULT 13: words are refused or survive exactly."""

    WORDS = (
        "",
        " ",
        "a b",
        " a  b ",
        "it's",
        '"',
        "\\",
        "\\n",
        "tab\there",
        "$HOME `id` $(id)",
        "a=b",
        "reply=other",
        "spawn eve reply=eve",
        "#no comment",
        "*;&|<>()",
        "caf\u00e9 \u20ac \U0001f600",
        "\x01\x1b[31m",
        "x" * 3900,
    )

    def test_words_survive(self):
        witness = os.path.join(self.test_dir, "witness")
        os.mkdir(witness)
        self.add_plugin("witness", WITNESS)
        self.start_service(WITNESS=witness)
        for number, word in enumerate(self.WORDS):
            self.check_serves(f"user{number}", SSH_ORIGINAL_COMMAND=word)
            with open(os.path.join(witness, f"user{number}")) as file:
                self.assertEqual(word, json.load(file)["SSH_ORIGINAL_COMMAND"])
        self.assertEqual(len(self.WORDS), len(os.listdir(witness)))

    def test_words_are_refused(self):
        self.start_service()
        reply = self.make_reply("me")
        for word in (b"a\0b", b"\xff", b"\xed\xa0\x80", b"\xc0\xaf"):
            line = b"spawn alice env.LANG='" + word + b"' reply=me\n"
            answer = self.answer_to(line, reply)
            self.assertEqual(["error", "bad-request"], answer[:2])
        # A newline ends a request, quoted or not; what follows is another request.
        self.write_control(b"spawn alice env.LANG='a\nhello reply=me\n")
        self.assertEqual("ok", shlex.split(read_line(reply).decode())[0])
        # 4096 bytes with the newline are allowed, and no more.
        line = b"spawn alice reply=me env.LANG=%s\n"
        fits = line % (b"x" * (4096 - len(line) + 2))
        self.assertEqual(4096, len(fits))
        answer = self.answer_to(fits, reply)
        self.assertEqual("ok", answer[0])
        os.kill(int(answer[1]), signal.SIGKILL)
        self.assertEqual(b"signal 9\n", read_line(reply))
        answer = self.answer_to(fits.replace(b"x\n", b"xx\n"), reply)
        self.assertEqual(["error", "bad-request"], answer[:2])
        self.assertEqual(1, self.status()["totals"]["spawned"])
