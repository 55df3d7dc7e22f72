# SPDX-License-Identifier: GPL-2.0-or-later

"""Writes to clients."""

import fcntl

from ..streams.keptcase import (
    Client,
    KeptCase,
    to_make,
)


class TestPipe(KeptCase):
    def test_size(self):
        """An account may have 64 MiB of pipes, and many clients."""
        self.get(to_make(), chunks=[b"x" * (1 << 21)])
        client = Client()
        self.answer(client, None, lambda: iter(["not made"]))
        size = fcntl.fcntl(client.output.fileno(), fcntl.F_GETPIPE_SZ)
        self.assertEqual((1 << 21) + 5, len(client.end()))
        self.assertGreaterEqual(1 << 18, size)
