# SPDX-License-Identifier: GPL-2.0-or-later

"""What is logged of a connection to the SSH server."""

import shlex
import string

from breezy.tests import TestCase

from ...lpserve.ssh.arrivals import Address, Arrival
from ...lpserve.ssh.record import Record

#: What clients may make up.
HOSTILE = (
    *("it's", 'a "b" c', "'", '"\'"', "\\", "a\\'b", "$(id) `id` ; rm -rf / &"),
    *("a\nb", "a\r\nuser=root exit=0", "\0", "\x1b[2J\x1b]0;title\a", "\x85\u2028"),
    *(
        "\u202egnp.exe",
        "\ud800",
        "\udcff",
        "K\xf6nig \N{SNOWMAN}",
        "user=bob",
        "=",
        " ",
    ),
    *("", "-", "#", "\t", "::1:4711", string.printable),
)


def make_record(**fields):
    peer, local = Address("127.0.0.1", 4711), Address("127.0.0.2", 22)
    return Record(**{"arrival": Arrival(1000.0, peer, local), **fields})


class TestLine(TestCase):
    def fields(self, record):
        """Its line, as a program reads it."""
        line = record.line()
        self.assertTrue(line.isprintable(), repr(line))
        return dict(word.split("=", 1) for word in shlex.split(line))

    def test_all(self):
        record = make_record(
            user="alice",
            key="SHA256:abc/d+e",
            command="bzr serve --inet --directory=/ --allow-writes",
            served="worker 17",
            authenticated=1000.0251,
            ready=1000.03,
            first_byte=1001.0,
            end=1061.5,
            received=12,
            sent=3456,
            exit="0",
        )
        self.assertEqual(
            "user=alice peer=127.0.0.1:4711 key=SHA256:abc/d+e "
            "command='bzr serve --inet --directory=/ --allow-writes' "
            "served='worker 17' accepted=1000.000 authenticated=+0.025 ready=+0.030 "
            "first_byte=+1.000 end=+61.500 received=12 sent=3456 exit=0",
            record.line(),
        )

    def test_nothing_reached(self):
        """Every word is there, also those without a value."""
        self.assertEqual(
            "user=- peer=127.0.0.1:4711 key=- command=- served=- accepted=1000.000 "
            "authenticated=- ready=- first_byte=- end=- received=0 sent=0 exit=-",
            make_record().line(),
        )

    def test_hostile(self):
        """Values that a client chose change neither the words nor their number."""
        names = list(self.fields(make_record()))
        for text in HOSTILE:
            for name in ("user", "command", "exit", "key", "served"):
                fields = self.fields(make_record(**{name: text}))
                self.assertEqual(names, list(fields), repr(text))
                shown = "".join(c if c.isprintable() else "?" for c in text)
                if text:
                    self.assertEqual(shown, fields[name])
                self.assertEqual("0", fields["sent"])

    def test_long(self):
        """Long values are cut, so that a pipe takes the line at once."""
        for character in "x", "'", "\n", "\N{SNOWMAN}", "\N{PILE OF POO}":
            text = character * 10_000
            record = make_record(user="u" * 64, key="k" * 60, command=text, exit=text)
            fields = self.fields(record)
            shown = text[:300] if character != "\n" else "?" * 300
            self.assertEqual([shown] * 2, [fields["command"], fields["exit"]])
            self.assertTrue(len(record.line().encode()) < 4000)
            self.assertTrue(len(make_record(user=text).line().encode()) < 4000)
