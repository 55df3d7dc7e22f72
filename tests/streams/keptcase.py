# SPDX-License-Identifier: GPL-2.0-or-later

"""Answers from kept streams: a client at a pipe, and a service that says what to do."""

import os
import queue
import socket
import threading

from breezy.tests import TestCaseInTempDir

from ...lpserve import channel
from ...lpserve.serving.patience import Output
from ...lpserve.streams import asking
from ...lpserve.streams.asking import Inbox
from ...lpserve.streams.kept import KeptAnswer
from ...lpserve.streams.keptfile import frame

KEY = "5e" * 32
DEADLINE = 60.0
CHUNKS = [bytes([number]) * size for number, size in enumerate((1, 9000, 70000, 3))]


def wire(chunks):
    """What a client reads."""
    return b"".join(frame(chunk) + chunk for chunk in chunks)


class Client:
    """Reads an answer from a pipe."""

    def __init__(self, reading=True):
        self._reads, writes = os.pipe()
        self.output = Output(writes, 0)
        self._writes = writes
        self.received = b""
        self._thread = threading.Thread(target=self._read)
        self._ready = threading.Event()
        if reading:
            self._ready.set()
        self._thread.start()

    def read(self):
        """Begin to read."""
        self._ready.set()

    def _read(self):
        self._ready.wait(DEADLINE)
        while data := os.read(self._reads, 1 << 16):
            self.received += data
        os.close(self._reads)

    def hang_up(self):
        """Close the reading end, of which nothing is read."""
        os.dup2(os.open(os.devnull, os.O_RDONLY), self._reads)
        self._ready.set()

    def end(self):
        """Close the writing end; all that was read."""
        os.close(self._writes)
        self._thread.join(DEADLINE)
        return self.received


class Service:
    """Answers what a worker asks with the next of *answers*, or a list of several.

    None closes the channel.
    """

    def __init__(self, *answers):
        ours, self.worker = channel.pair()
        self.link = ours
        self.inbox = Inbox(self.worker)
        self._answers = list(answers)
        self.heard = queue.Queue()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self):
        while (found := channel.receive(self.link))[0] is not None:
            message = found[0]
            self.heard.put(message)
            if message["kind"] == "stream-wanted" and self._answers:
                answer = self._answers.pop(0)
                for each in answer if isinstance(answer, list) else [answer]:
                    self.say(each)

    def say(self, answer):
        """Send an answer, or close."""
        if answer is None:
            self.link.shutdown(socket.SHUT_WR)
        else:
            channel.send(self.link, "stream", **{"key": KEY, **answer})

    def end(self):
        """Stop; what was heard, as pairs of kind and what is not the key."""
        self.worker.close()
        self._thread.join(DEADLINE)
        self.link.close()
        found = []
        while not self.heard.empty():
            message = self.heard.get()
            kind = message.pop("kind")
            del message["key"]
            found.append((kind, message))
        return found


def to_make(keep=True, room=1 << 30):
    """The answer that has a worker make a stream."""
    return {"do": "make", "keep": keep, "room": room}


def to_follow(pid=0):
    """The answer that has a worker read behind *pid*, or this process."""
    return {"do": "follow", "pid": pid or os.getpid()}


class KeptCase(TestCaseInTempDir):
    """Has a directory for streams."""

    def setUp(self):
        super().setUp()
        os.mkdir("streams")
        # However busy the machine is, the service answers in time.
        self.overrideAttr(asking, "PATIENCE", DEADLINE)

    def answer(self, client, service, make, is_valid=True):
        """Write one answer as a worker does."""
        answer = KeptAnswer(
            *("streams", KEY, client.output, service and service.inbox),
            *(make, lambda: is_valid),
        )
        for chunk in answer.chunks():
            client.output.write(frame(chunk) + chunk)
            client.output.flush()

    def get(self, *answers, chunks=CHUNKS, **options):
        """What a client reads, and what the service hears."""
        client, service = Client(), Service(*answers)
        try:
            self.answer(client, service, lambda: iter(chunks), **options)
        finally:
            received, heard = client.end(), service.end()
        return received, heard

    def files(self):
        """The names of files in the directory."""
        return sorted(os.listdir("streams"))
