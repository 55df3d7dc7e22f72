# SPDX-License-Identifier: GPL-2.0-or-later

"""Answers from kept streams, whatever makers, followers and clients do."""

import os
import signal
import subprocess
import threading

from ...lpserve.streams import asking, kept, progress
from ...lpserve.streams.keptfile import KeptFile, NewFile
from .keptcase import (
    CHUNKS,
    DEADLINE,
    KEY,
    Client,
    KeptCase,
    Service,
    to_follow,
    to_make,
    wire,
)

SIZE = len(wire(CHUNKS))
WANTED = ("stream-wanted", {"again": False})
AGAIN = ("stream-wanted", {"again": True})


def made(size):
    return ("stream-made", {"size": size})


class TestMade(KeptCase):
    def test_kept(self):
        """Whoever asks after it is made gets it from the file, without asking."""
        received, heard = self.get(to_make())
        self.assertEqual(wire(CHUNKS), received)
        self.assertEqual([WANTED, made(SIZE)], heard)
        self.assertEqual([KEY], self.files())
        self.assertEqual(0o600, os.stat(f"streams/{KEY}").st_mode & 0o777)
        received, heard = self.get(chunks=["not made"])
        self.assertEqual(wire(CHUNKS), received)
        self.assertEqual([("stream-used", {"size": SIZE, "how": "kept"})], heard)

    def test_not_kept(self):
        """What nobody has asked for before, what is too large, what has changed."""
        for answer, is_valid in (
            (to_make(keep=False), True),
            (to_make(room=0), True),
            (to_make(room=100), True),
            (to_make(room=SIZE), True),
            (to_make(), False),
            (None, True),
        ):
            received, heard = self.get(answer, is_valid=is_valid)
            self.assertEqual(wire(CHUNKS), received)
            self.assertEqual([WANTED, made(0)], heard)
            self.assertEqual([], self.files())

    def test_no_service(self):
        client = Client()
        self.answer(client, None, lambda: iter(CHUNKS))
        self.assertEqual(wire(CHUNKS), client.end())
        self.assertEqual([], self.files())

    def test_late(self):
        """The service says nothing."""
        self.overrideAttr(asking, "PATIENCE", 0.01)
        self.assertEqual((wire(CHUNKS), [WANTED, made(0)]), self.get())

    def test_no_directory(self):
        os.rmdir("streams")
        self.assertEqual(wire(CHUNKS), self.get(to_make())[0])
        self.assertPathDoesNotExist("streams")

    def test_incomplete(self):
        """A file under its name that is none, or of another account, is not used."""
        for content in (b"", b"rubbish" * 20, CHUNKS[1]):
            with open(f"streams/{KEY}", "wb") as file:
                file.write(content)
            self.assertEqual(wire(CHUNKS), self.get(to_make())[0])
            self.assertEqual(wire(CHUNKS), self.get(None)[0])
            os.unlink(f"streams/{KEY}")
        self.get(to_make())
        os.truncate(f"streams/{KEY}", 5000)
        self.assertEqual(wire(CHUNKS), self.get(to_make())[0])
        self.assertEqual(wire(CHUNKS), self.get()[0])
        os.unlink(f"streams/{KEY}")
        os.symlink("/etc/passwd", f"streams/{KEY}")
        self.assertEqual(wire(CHUNKS), self.get(to_make(keep=False))[0])

    def test_error(self):
        """An error in the middle is left to the encoder, after what was before."""

        def broken():
            yield from CHUNKS[:2]
            raise KeyError("lost")

        client, service = Client(), Service(to_make())
        self.assertRaises(KeyError, self.answer, client, service, broken)
        self.assertEqual(wire(CHUNKS[:2]), client.end())
        self.assertEqual([WANTED, made(0)], service.end())
        self.assertEqual([], self.files())

    def test_error_and_slow_client(self):
        """The encoder tells of an error after a whole frame."""

        def broken():
            yield from CHUNKS
            raise KeyError("lost")

        client, service = Client(reading=False), Service(to_make())
        thread = threading.Thread(
            target=self.assertRaises,
            args=(KeyError, self.answer, client, service, broken),
        )
        thread.start()
        while service.heard.qsize() < 2:
            self.assertTrue(thread.is_alive())
        client.read()
        thread.join(DEADLINE)
        self.assertEqual(wire(CHUNKS), client.end())
        self.assertEqual([WANTED, made(0)], service.end())

    def test_failed_response(self):
        failed = object()
        client, service = Client(), Service(to_make())
        answer = kept.KeptAnswer(
            *("streams", KEY, client.output, service.inbox),
            *(lambda: iter([*CHUNKS, failed]), lambda: True),
        )
        self.assertEqual([failed], list(answer.chunks()))
        self.assertEqual(wire(CHUNKS), client.end())
        service.end()
        self.assertEqual([], self.files())

    def test_wait(self):
        """Too many are made: it is made in its turn, or was kept meanwhile."""
        wait = {"do": "wait"}
        client, service = Client(), Service([wait, to_make()])
        self.answer(client, service, lambda: iter(CHUNKS))
        self.assertEqual(wire(CHUNKS), client.end())
        self.assertEqual([WANTED, made(SIZE)], service.end())

        client, service = Client(), Service([wait, to_make()])
        asked = threading.Event()
        original = kept.Service.wait_for_turn

        def wait_for_turn(of, descriptor):
            os.rename("kept", f"streams/{KEY}")
            asked.set()
            return original(of, descriptor)

        self.overrideAttr(kept.Service, "wait_for_turn", wait_for_turn)
        os.rename(f"streams/{KEY}", "kept")
        self.answer(client, service, lambda: iter(["not made"]))
        self.assertTrue(asked.is_set())
        self.assertEqual(wire(CHUNKS), client.end())
        used = ("stream-used", {"size": SIZE, "how": "kept"})
        self.assertEqual([WANTED, used, made(0)], service.end())


class TestClient(KeptCase):
    def test_slow(self):
        """A client that does not read keeps nobody from having the stream."""
        client, service = Client(reading=False), Service(to_make())
        there = threading.Event()
        thread = threading.Thread(
            target=self.answer, args=(client, service, lambda: iter(CHUNKS))
        )
        self.overrideAttr(
            NewFile,
            "publish",
            lambda file, publish=NewFile.publish: (publish(file), there.set()),
        )
        thread.start()
        self.assertTrue(there.wait(DEADLINE))
        self.assertEqual(wire(CHUNKS), self.get()[0])
        # It takes none of the places of those who make streams, either.
        for message in (WANTED, made(SIZE)):
            self.assertEqual(message[0], service.heard.get(timeout=DEADLINE)["kind"])
        client.read()
        thread.join(DEADLINE)
        self.assertEqual(wire(CHUNKS), client.end())
        service.end()

    def get_alone(self, answer, reader=False):
        """A client hangs up after the first chunk; how many chunks were made."""
        client, service = Client(reading=False), Service(answer)
        count = []

        def chunks():
            for chunk in CHUNKS * 2:
                count.append(chunk)
                yield chunk
                if len(count) == 1:
                    client.hang_up()
                    if reader:
                        file = KeptFile("streams", KEY, os.getpid())
                        self.addCleanup(file.close)

        self.assertRaises(BrokenPipeError, self.answer, client, service, chunks)
        client.end()
        service.end()
        return len(count)

    def test_gone_in_line(self):
        """Whoever hangs up waits no more, and nothing is made for it."""
        client, service = Client(reading=False), Service({"do": "wait"})
        original = kept.Service.wait_for_turn

        def wait_for_turn(of, descriptor):
            client.hang_up()
            return original(of, descriptor)

        self.overrideAttr(kept.Service, "wait_for_turn", wait_for_turn)
        made_for_it = []
        self.assertRaises(
            *(BrokenPipeError, self.answer, client, service),
            lambda: made_for_it.append(1) or iter(CHUNKS),
        )
        self.assertEqual([], made_for_it)
        client.end()
        self.assertEqual([WANTED, made(0)], service.end())

    def test_gone(self):
        """It is made to its end if it is kept, or if somebody reads behind."""
        self.assertGreater(4, self.get_alone(to_make(keep=False)))
        self.assertEqual([], self.files())
        self.assertEqual(8, self.get_alone(to_make(keep=False), reader=True))
        self.assertEqual([], self.files())
        self.assertEqual(8, self.get_alone(to_make()))
        self.assertEqual(wire(CHUNKS * 2), self.get()[0])


class TestFollowed(KeptCase):
    """The maker is this process, and another one in test_streams.py of tests/live."""

    def begin(self, count):
        """A file that is being made, with *count* chunks."""
        file = NewFile("streams", KEY, 1 << 30)
        self.addCleanup(file.close)
        for chunk in CHUNKS[:count]:
            file.add(chunk)
        return file

    def follow(self, *answers, chunks=("not made",)):
        client, service = Client(), Service(to_follow(), *answers)
        thread = threading.Thread(
            target=self.answer, args=(client, service, lambda: iter(chunks))
        )
        thread.start()
        return client, service, thread

    def test_to_the_end(self):
        file = self.begin(1)
        client, service, thread = self.follow()
        while not file.has_readers:
            self.assertTrue(thread.is_alive())
        for chunk in CHUNKS[1:]:
            file.add(chunk)
        file.complete()
        thread.join(DEADLINE)
        self.assertEqual(wire(CHUNKS), client.end())
        used = ("stream-used", {"size": SIZE, "how": "followed"})
        self.assertEqual([WANTED, used], service.end())

    def test_gone(self):
        """A client that has gone is not waited for, as its maker is."""
        self.begin(0)
        client, service = Client(reading=False), Service(to_follow())
        client.hang_up()
        self.assertRaises(
            BrokenPipeError, self.answer, client, service, lambda: iter(["not made"])
        )
        client.end()
        self.assertEqual([WANTED], service.end())

    def test_maker_ends(self):
        """After each chunk, and in the middle of one; who follows makes the rest."""
        for count in range(5):
            for half in (False, True):
                for answer in (to_make(), to_make(keep=False, room=0), None):
                    file = self.begin(count)
                    if half:
                        file._write(b"b\0\0\xff\xff half", file.end)
                    client, service, thread = self.follow(answer, chunks=CHUNKS)
                    while not file.has_readers:
                        self.assertTrue(thread.is_alive())
                    os.unlink(file._path)
                    file.close()
                    thread.join(DEADLINE)
                    self.assertEqual(wire(CHUNKS), client.end())
                    self.assertEqual(AGAIN, service.end()[1])
                    self.assertEqual(
                        [KEY] if answer and answer["keep"] else [], self.files()
                    )
                    for name in self.files():
                        self.assertEqual(wire(CHUNKS), self.get()[0])
                        os.unlink(f"streams/{name}")

    def test_second_maker_ends_sooner(self):
        """Of two makers that end, the second had made less than was sent."""
        first = self.begin(2)
        with subprocess.Popen(["true"]) as other:
            pass
        second = NewFile("streams", "0" * 64, 1 << 30)
        os.rename(second._path, f"streams/{KEY}.{other.pid}.tmp")
        second.close()
        client, service, thread = self.follow(
            to_follow(other.pid), to_make(), chunks=CHUNKS
        )
        while not first.has_readers:
            self.assertTrue(thread.is_alive())
        os.unlink(first._path)
        first.close()
        thread.join(DEADLINE)
        self.assertEqual(wire(CHUNKS), client.end())
        service.end()

    def test_maker_stands_still(self):
        self.overrideAttr(progress, "_STILL", 0.05)
        with subprocess.Popen(["sleep", "600"]) as stopped:
            os.kill(stopped.pid, signal.SIGSTOP)
            file = self.begin(2)
            os.rename(file._path, f"streams/{KEY}.{stopped.pid}.tmp")
            client, service = Client(), Service(to_follow(stopped.pid), None)
            self.answer(client, service, lambda: iter(CHUNKS))
            stopped.kill()
        self.assertEqual(wire(CHUNKS), client.end())
        self.assertEqual([WANTED, AGAIN, made(0)], service.end())

    def test_nobody(self):
        """The maker has gone before its file was opened."""
        received, heard = self.get(to_follow(), to_make())
        self.assertEqual(wire(CHUNKS), received)
        self.assertEqual([WANTED, AGAIN, made(SIZE)], heard)

    def test_just_published(self):
        self.get(to_make())
        os.rename(f"streams/{KEY}", "later")
        original = kept.KeptAnswer._follow

        def follow(answer, pid):
            os.rename("later", f"streams/{KEY}")
            return original(answer, pid)

        self.overrideAttr(kept.KeptAnswer, "_follow", follow)
        received, _ = self.get(to_follow(), chunks=["not made"])
        self.assertEqual(wire(CHUNKS), received)

    def test_other_bytes(self):
        """Who follows would make another stream: no wrong byte is sent."""
        file = self.begin(2)
        client, service = Client(), Service(to_follow(), to_make())
        other = [CHUNKS[0], CHUNKS[1][:-1] + b"!", *CHUNKS[2:]]
        thread = threading.Thread(target=self.close_when_read, args=(file,))
        thread.start()
        self.assertRaises(
            kept.OtherBytes, self.answer, client, service, lambda: iter(other)
        )
        thread.join(DEADLINE)
        self.assertEqual(wire(CHUNKS[:2]), client.end())
        service.end()
        self.assertEqual([], self.files())

    def close_when_read(self, file):
        while not file.has_readers:
            pass
        os.unlink(file._path)
        file.close()
