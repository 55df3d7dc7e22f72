# SPDX-License-Identifier: GPL-2.0-or-later

"""The HTTP server of the exporter."""

import asyncio
import contextlib
import threading

from breezy.tests import TestCase

from ...lpserve.exporter.web import Computed, Response, Web
from ..waiting import DEADLINE

LARGE = b"x" * (32 << 20)


async def small():
    return Response("200 OK", b"small\n")


async def large():
    return Response("200 OK", LARGE)


async def broken():
    raise ValueError("on purpose")


PAGES = {"/small": small, "/large": large, "/broken": broken}


class TestWeb(TestCase):
    """The server and its clients are in one event loop."""

    def serve(self, test, **options):
        """Run *test*, a function of what connects to a server with these options."""

        async def run():
            web = Web(PAGES, **options)
            server = await web.listen("127.0.0.1", 0)
            port = server.sockets[0].getsockname()[1]
            writers = []

            async def connect(data=b""):
                # Its buffer is small, so that the server has to wait for it.
                reader, writer = await asyncio.open_connection(
                    "127.0.0.1", port, limit=1024
                )
                writers.append(writer)
                writer.write(data)
                return reader

            try:
                await test(connect)
                while web._open:
                    await asyncio.sleep(0.005)
            finally:
                for writer in writers:
                    writer.close()
                server.close()

        asyncio.run(asyncio.wait_for(run(), DEADLINE))

    def test_requests(self):
        async def test(connect):
            for request, status, body in (
                (b"GET /small HTTP/1.1\r\nHost: a\r\n\r\n", b"200", b"small\n"),
                (b"GET /small?a=b HTTP/1.0\r\n\r\n", b"200", b"small\n"),
                (b"HEAD /small HTTP/1.1\r\n\r\n", b"200", b""),
                (b"POST /small HTTP/1.1\r\n\r\n", b"405", b"Method Not Allowed\n"),
                (b"GET /../etc/passwd HTTP/1.1\r\n\r\n", b"404", b"Not Found\n"),
                (b"GET /broken HTTP/1.1\r\n\r\n", b"500", b"a fault\n"),
                (b"\x16\x03\x01\xff rubbish\r\n\r\n", b"400", b"Bad Request\n"),
                (b"GET /small\r\n\r\n", b"400", b"Bad Request\n"),
                (b"x" * 9000, b"431", b"Request Header Fields Too Large\n"),
            ):
                reader = await connect(request)
                head, _, found = (await reader.read(-1)).partition(b"\r\n\r\n")
                self.assertEqual((status, body), (head[9:12], found), request)
                if status == b"200":
                    self.assertIn(b"\r\nContent-Length: 6\r\n", head)

        self.serve(test)

    def test_slow(self):
        """Who sends half a request, or does not read, is disconnected."""

        async def test(connect):
            for request in (b"", b"GET /small HTTP/1.1\r\n"):
                reader = await connect(request)
                self.assertEqual(b"", await reader.read(-1))
            await connect(b"GET /large HTTP/1.1\r\n\r\n")

        self.serve(test, patience=0.05)

    def test_many(self):
        """Those who ask for nothing make place for others."""

        async def test(connect):
            silent = [await connect() for _ in range(3)]
            reader = await connect(b"GET /small HTTP/1.1\r\n\r\n")
            self.assertTrue((await reader.read(-1)).startswith(b"HTTP/1.1 200 "))
            with contextlib.suppress(ConnectionResetError):
                self.assertEqual(b"", await silent[0].read(-1))
            for each in silent:
                each._transport.close()

        self.serve(test, patience=DEADLINE, most=2)


class TestComputed(TestCase):
    def test_one_at_a_time(self):
        """All who ask meanwhile have the same value; whoever asks later the next."""
        running, go_on = threading.Event(), threading.Event()
        count = []

        def compute():
            count.append(threading.current_thread())
            running.set()
            go_on.wait(DEADLINE)
            return len(count)

        async def run():
            computed = Computed(compute)
            asked = [asyncio.ensure_future(computed.get()) for _ in range(3)]
            while not running.is_set():
                await asyncio.sleep(0.005)
            asked[0].cancel()  # the others wait for the same
            go_on.set()
            found = await asyncio.gather(*asked[1:])
            return [*found, await computed.get()]

        self.assertEqual([1, 1, 2], asyncio.run(run()))
        self.assertNotIn(threading.main_thread(), count)

    def test_kept(self):
        count = []

        async def run():
            computed = Computed(lambda: count.append(0), DEADLINE)
            await computed.get()
            await computed.get()

        asyncio.run(run())
        self.assertEqual(1, len(count))
