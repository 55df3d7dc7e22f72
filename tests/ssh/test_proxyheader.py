# SPDX-License-Identifier: GPL-2.0-or-later

"""Headers of the PROXY protocol."""

import random
import struct

from breezy.tests import TestCase

from ...lpserve.ssh.arrivals import Address
from ...lpserve.ssh.proxyheader import Header, HeaderError, parse_header

PREFIX = b"\r\n\r\n\0\r\nQUIT\n"
CLIENT, SERVER = Address("198.51.100.7", 4711), Address("203.0.113.5", 22)
CLIENT6, SERVER6 = Address("2001:db8::7", 4711), Address("2001:db8::5", 22)


def version_2(kind, body, command=0x21):
    return PREFIX + struct.pack("!BBH", command, kind, len(body)) + body


V4 = bytes((198, 51, 100, 7, 203, 0, 113, 5)) + struct.pack("!2H", 4711, 22)
V6 = bytes.fromhex("20010db8" + "0" * 23 + "7" + "20010db8" + "0" * 23 + "5")
V6 += struct.pack("!2H", 4711, 22)
#: A type, a length and a value, as proxies add: PP2_TYPE_UNIQUE_ID.
MORE = b"\x05\0\x04abcd"

VALID = (
    (b"PROXY TCP4 198.51.100.7 203.0.113.5 4711 22\r\n", CLIENT, SERVER),
    (b"PROXY TCP6 2001:db8:0::0:7 2001:DB8::5 4711 22\r\n", CLIENT6, SERVER6),
    (b"PROXY UNKNOWN\r\n", None, None),
    (b"PROXY UNKNOWN ff:ff::1 ff:ff::1 65535 65535\r\n", None, None),
    (version_2(0x11, V4), CLIENT, SERVER),
    (version_2(0x11, V4 + MORE), CLIENT, SERVER),
    (version_2(0x21, V6), CLIENT6, SERVER6),
    (version_2(0x00, b"", 0x20), None, None),
    # Of a health check that has addresses, and of a client without.
    (version_2(0x11, V4, 0x20), None, None),
    (version_2(0x00, b""), None, None),
    (version_2(0x31, bytes(216)), None, None),
)

INVALID = (
    *(b"SSH-2.0-OpenSSH_9.2\r\n", b"\0", b"P\r\n", b"PROXY\r\n", b"\r\n\r\nQUIT"),
    *(b"PROXY " + b"x" * 101, b"PROXY UNKNOWN" + b" " * 94, b"PROXY UNKNOWNS\r\n"),
    *(b"PROXY TCP4\r\n", b"PROXY TCP4 198.51.100.7\r\n", b"PROXY UDP4 1 2 3 4\r\n"),
    b"PROXY TCP4 198.51.100.7 203.0.113.5 4711 65536\r\n",
    b"PROXY TCP4 198.51.100.7 203.0.113.5 -1 22\r\n",
    b"PROXY TCP4 198.51.100.7 203.0.113.5 x 22\r\n",
    b"PROXY TCP4 198.51.100.700 203.0.113.5 4711 22\r\n",
    b"PROXY TCP4 localhost 203.0.113.5 4711 22\r\n",
    b"PROXY TCP4 2001:db8::7 2001:db8::5 4711 22\r\n",
    b"PROXY TCP6 198.51.100.7 203.0.113.5 4711 22\r\n",
    b"PROXY TCP4 198.51.100.7\xff 203.0.113.5 4711 22\r\n",
    *(version_2(0x11, V4, 0x11), version_2(0x11, V4, 0x2F), version_2(0x11, V4[:-1])),
    *(version_2(0x12, V4), version_2(0x77, V4), version_2(0x21, V4)),
    version_2(0x11, V4 + bytes(4096)),
)


class TestHeader(TestCase):
    def test_valid(self):
        """The addresses are found, and where the header ends."""
        for data, source, destination in VALID:
            wanted = Header(len(data), source, destination)
            for rest in (b"", b"SSH-2.0-client\r\n", data):
                self.assertEqual(wanted, parse_header(data + rest), data)

    def test_split(self):
        """Of a part, no more bytes are wanted than there are in the header."""
        for data, _, _ in VALID:
            for length in range(len(data)):
                wanted = parse_header(data[:length])
                self.assertIsInstance(wanted, int)
                self.assertTrue(length < wanted <= len(data), (data, length, wanted))

    def test_invalid(self):
        for data in INVALID:
            self.assertRaises(HeaderError, parse_header, data)

    def test_rubbish(self):
        """Whatever comes after what a header begins with, nothing else is raised."""
        source = random.Random(7)
        for number in range(2000):
            first = (PREFIX + b"\x21", b"PROXY ", b"PROXY TCP4 ", b"")[number % 4]
            data = first + source.randbytes(source.randrange(200))
            try:
                found = parse_header(data)
            except HeaderError:
                continue
            if isinstance(found, int):
                self.assertTrue(found > len(data))
