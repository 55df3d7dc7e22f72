# SPDX-License-Identifier: GPL-2.0-or-later

"""The grammar of requests and answers, and requests out of a stream of rubbish."""

import os
import random
import shlex

from breezy.tests import TestCase

from ..lpserve import wire
from ..lpserve.client import conversation
from ..lpserve.wire import Request, RequestError, RequestReader


def parse(line):
    return wire.parse_request(line if isinstance(line, bytes) else line.encode())


class TestGrammar(TestCase):
    """`wire.parse_request`: one line to one request."""

    def test_understood(self):
        """Every verb, with everything it takes."""
        me = {"reply": "me"}
        for line, expected in (
            ("hello", Request("hello")),
            ("hello reply=me", Request("hello", **me)),
            (" \thello\t reply=me \r", Request("hello", **me)),
            ("'hello' \"reply=me\"", Request("hello", **me)),
            ("status reply=me", Request("status", **me)),
            ("reload reply=me", Request("reload", **me)),
            ("shutdown", Request("shutdown")),
            ("end 4711 reply=me", Request("end", ("4711",), **me)),
            ("end alice now", Request("end", ("alice", "now"))),
            ("history 20", Request("history", ("20",))),
            ("shutdown now reply=me", Request("shutdown", ("now",), **me)),
            ("spawn alice reply=me", Request("spawn", ("alice",), **me)),
            ("spawn ~ reply=me", Request("spawn", ("~",), **me)),
            (f"spawn {'a' * 64} reply=me", Request("spawn", ("a" * 64,), **me)),
            (
                "spawn a.b+c@d-e_f reply=me",
                Request("spawn", ("a.b+c@d-e_f",), **me),
            ),
            (
                "spawn alice env.LANG=C env.TZ= reply=me",
                Request("spawn", ("alice",), {"LANG": "C", "TZ": ""}, "me"),
            ),
            (
                "spawn alice reply=me 'env.A=b c' env.E=f=g",
                Request("spawn", ("alice",), {"A": "b c", "E": "f=g"}, "me"),
            ),
            (
                "spawn alice env.A='bzr #1'",
                Request("spawn", ("alice",), {"A": "bzr #1"}),
            ),
        ):
            self.assertEqual(expected, parse(line), repr(line))

    def test_refused(self):
        """Everything else is ``bad-request``, and says why in one line."""
        longest = "a" * 64
        for line, why in (
            ("", "empty line"),
            (" \t\r", "empty line"),
            ("''", "unknown verb ''"),
            ("HELLO", "unknown verb HELLO"),
            ("reply=me", "unknown verb"),
            ("hello you", "does not take you"),
            ("hello env.A=b", "takes no env"),
            ("status all", "does not take"),
            ("reload now", "does not take now"),
            ("shutdown later", "does not take later"),
            ("shutdown now now", "does not take now"),
            ("spawn", "one USER, not 0"),
            ("spawn alice bob", "one USER, not 2"),
            ("spawn -alice", "USER must match"),
            ("spawn .", "USER must match"),
            ("spawn ''", "USER must match"),
            ("spawn a/b", "USER must match"),
            ("spawn 'a b'", "USER must match"),
            ("spawn älice", "USER must match"),
            (f"spawn {longest}a", "USER must match"),
            ("spawn alice reply=", "reply must match"),
            ("spawn alice reply=../me", "reply must match"),
            ("spawn alice reply=.me", "reply must match"),
            (f"spawn alice reply={longest}a", "reply must match"),
            ("spawn alice reply=a reply=b", "reply is given twice"),
            ("spawn alice env.A=1 env.A=2", "env.A is given twice"),
            ("spawn alice reply=me now", "positional words come before"),
            ("spawn alice directory=/", "unknown key directory"),
            ("spawn alice env.=b", "unknown key env."),
            ("spawn alice env.1A=b", "unknown key env.1A"),
            ("spawn 'alice", "no closing quotation"),
            ("spawn alice\\", "no escaped character"),
            (b"spawn alice env.A=\xff", "not UTF-8 (byte 19)"),
            (b"hello\0", "NUL"),
            ("h" * 4096, "at most 4096"),
        ):
            error = self.assertRaises(RequestError, parse, line)
            self.assertEqual("bad-request", error.code, repr(line))
            self.assertIn(why, error.text)
            self.assertNotIn("\n", error.text)

    def test_longest(self):
        """4096 bytes with the newline are allowed, one more is not."""
        start = "spawn alice reply=me env.A="
        fits = start + "x" * (4095 - len(start))
        self.assertEqual("me", parse(fits).reply)
        error = self.assertRaises(RequestError, parse, fits + "x")
        self.assertEqual("me", error.reply)

    def test_reply_of_a_refused_request(self):
        """Where a name can be made out, the error is for it."""
        for line, reply in (
            (b"what reply=me", "me"),
            (b"what reply=me\r", "me"),
            (b"\xff\0 reply=me", "me"),
            (b"x" * 5000 + b" reply=me", "me"),
            (b"spawn 'alice reply=me", "me"),
            (b"what reply=one reply=two", "two"),
            (b"reply=me", "me"),
            (b"what xreply=me", None),
            (b"what reply=a/b", None),
            (b"what", None),
        ):
            error = self.assertRaises(RequestError, parse, line)
            self.assertEqual(reply, error.reply, repr(line))

    def test_split_is_that_of_the_shell(self):
        """The fast path gives what `shlex.split` gives."""
        chooser = random.Random(1)
        for _ in range(3000):
            length = chooser.randrange(12)
            text = "".join(chooser.choices("a=#;é\x0b\x0c\x1f \t\r'\"\\", k=length))
            try:
                expected = shlex.split(text)
            except ValueError:
                self.assertRaises(ValueError, wire.split, text)
            else:
                self.assertEqual(expected, wire.split(text), text)

    def test_words_survive_quoting(self):
        """FAULT 13: whatever is quoted comes out as it went in."""
        chooser = random.Random(2)
        letters = "ab ='\"\\$`!#*~\t\r\x01\x1b\x7f\x85é\u2028\u20ac\U0001f600"
        for number in range(3000):
            value = "".join(chooser.choices(letters, k=number % 40))
            for quote in (shlex.quote, conversation.quote):
                word = quote("env.A=" + value)
                found = parse(f"spawn alice {word} reply=me")
                self.assertEqual({"A": value}, found.env)


class TestAnswers(TestCase):
    """Answers are one line, and `shlex.split` reads them."""

    def test_round_trip(self):
        words = ["ok", "12", "/run/a b/it's", "", '"', "\\", "é", "{'a': \"b\"}"]
        line = wire.encode_answer(*words)
        self.assertEqual(1, line.count(b"\n"))
        self.assertEqual(words, shlex.split(line.decode()))

    def test_errors(self):
        """Every code; the text is one word on one line whatever was in it."""
        for code in ("bad-request", "denied", "busy", "stopping", "failed"):
            self.assertIn(code, wire.ERROR_CODES)
            line = wire.encode_error(code, "it's\nover\r two\n")
            self.assertEqual(1, line.count(b"\n"))
            self.assertEqual(
                ["error", code, "it's over two"], shlex.split(line.decode())
            )

    def test_path_that_is_not_utf8(self):
        """A directory may have any name; the client decodes it likewise."""
        path = os.fsdecode(b"/run/\xff")
        line = wire.encode_answer("ok", path)
        self.assertEqual(["ok", path], shlex.split(os.fsdecode(line)))


class TestRequestReader(TestCase):
    """What arrives at the control FIFO, in whatever pieces."""

    def setUp(self):
        super().setUp()
        self.reader = RequestReader()

    def feed(self, data, now=0.0):
        """Requests as verbs and replies, errors as ``error`` and replies."""
        return [
            (each.verb if isinstance(each, Request) else "error", each.reply)
            for each in self.reader.feed(data, now)
        ]

    def test_newline_in_front_ends_half_a_line(self):
        """FAULT 11: and nobody else's request waits for its rest."""
        self.assertEqual([], self.feed(b"spawn bo reply=bo"))
        self.assertTrue(self.reader.waiting)
        found = self.feed(b"\nspawn alice reply=alice\n")
        self.assertEqual([("spawn", "bo"), ("spawn", "alice")], found)
        self.assertFalse(self.reader.waiting)

    def test_whole_line_between_two_halves(self):
        """Without a newline in front: neither writer loses its request."""
        self.assertEqual([], self.feed(b"spawn bob"))
        self.assertEqual([("hello", "a")], self.feed(b"hello reply=a\n"))
        self.assertEqual([("spawn", "a")], self.feed(b"spawn al reply=a\n"))
        self.assertEqual([("spawn", "b")], self.feed(b" reply=b\n"))
        self.assertFalse(self.reader.waiting)

    def test_rescued_behind_half_a_line(self):
        """Behind rubbish, a request with a reply is found, in one piece or several."""
        for rubbish in (b"x", b"\xff\0", b"what ", b"spawn bo", b"sh", b"y" * 9000):
            found = self.feed(rubbish + b"spawn alice env.A='b c' reply=a\n")
            self.assertEqual([("error", None), ("spawn", "a")], found, repr(rubbish))
        self.assertEqual([], self.feed(b"\xffrub"))
        self.assertEqual([], self.feed(b"bish spawn ali"))
        self.assertEqual([("error", None), ("spawn", "a")], self.feed(b"ce reply=a\n"))

    def test_longest_is_rescued(self):
        """Of the requests that a line may end with, the longest."""
        found = self.reader.feed(b"?spawn hello env.A=status reply=a\n", 0)
        self.assertEqual(Request("spawn", ("hello",), {"A": "status"}, "a"), found[1])

    def test_without_reply_nothing_is_rescued(self):
        """Rubbish that ends like a request is rubbish: there is no shutdown in it."""
        for line in (b"?shutdown\n", b"? shutdown now\n", b"\xffspawn alice\n"):
            self.assertEqual([("error", None)], self.feed(line), repr(line))

    def test_refused_request_is_not_searched(self):
        """A value that a request carries is never a request itself.

        A user may choose what is in LANG (sshd's AcceptEnv) but not who it is.
        """
        value = "\udcff spawn root env.LC_ALL=x\\'"
        for line in (
            f"spawn alice env.LANG={conversation.quote(value)} reply=me",
            "spawn o+/brien env.LANG=shutdown reply=me",
            "spawn 'a b' env.TZ=x\\ spawn\\ root reply=me",
        ):
            data = line.encode("utf-8", "surrogateescape") + b"\n"
            self.assertEqual([("error", "me")], self.feed(data), repr(line))

    def test_not_rescued_behind_a_value(self):
        """It may be one; its writer is told that it was not understood."""
        for rubbish in (b"'", b'"', b"a=", b"'\\"):
            found = self.feed(rubbish + b"spawn alice reply=a\n")
            self.assertEqual([("error", "a")], found, repr(rubbish))

    def test_overlong_is_told_once(self):
        for _ in range(3):
            piece = b"x" * 3000
            self.assertEqual([], self.feed(piece))
            self.assertEqual([], self.feed(piece))
            self.assertEqual([], self.feed(piece))
            self.assertEqual([("error", None)], self.feed(piece + b"\n"))
            self.assertFalse(self.reader.waiting)
            self.assertEqual([("hello", "a")], self.feed(b"hello reply=a\n"))

    def test_overlong_is_forgotten_as_it_comes(self):
        """A line without end is not kept."""
        for _ in range(50):
            self.feed(b"x" * 65536)
        self.assertTrue(len(self.reader._held) <= 2 * wire.MAX_REQUEST)
        self.assertEqual(("spawn", "a"), self.feed(b" spawn alice reply=a\n")[-1])

    def test_overlong_in_pieces_is_answered(self):
        """Its writer is told, once, although its name comes last."""
        found = self.feed(b"spawn alice env.A=" + b"x" * 6000)
        found += self.feed(b"x reply=me\n")
        self.assertEqual([("error", "me")], [each for each in found if each[1]])

    def test_half_a_line_expires(self):
        for line in (b"spawn alice reply=me", b"x" * 9000 + b" reply=me"):
            self.feed(line, now=10.0)
            self.assertIs(None, self.reader.expire(14.9))
            self.assertTrue(self.reader.waiting)
            error = self.reader.expire(15.0)
            self.assertEqual(("bad-request", "me"), (error.code, error.reply))
            self.assertFalse(self.reader.waiting)
            self.assertIs(None, self.reader.expire(30.0))

    def test_more_of_half_a_line_does_not_prolong_it(self):
        """FAULT 11: a byte now and then holds nothing up for ever."""
        for second in range(5):
            self.feed(b"x", now=float(second))
            self.assertIs(None, self.reader.expire(second + 0.9))
        self.assertIsNot(None, self.reader.expire(5.0))

    def test_next_half_line_has_its_own_time(self):
        self.feed(b"one", now=0.0)
        self.feed(b"\ntwo", now=4.0)
        self.assertIs(None, self.reader.expire(8.0))
        self.assertIsNot(None, self.reader.expire(9.0))

    def test_good_requests_in_rubbish(self):
        """20,000 lines in arbitrary pieces: none is lost, none is added."""
        chooser = random.Random(20260721)
        stream, good, bad = [], [], 0
        for number in range(20000):
            if chooser.random() < 0.4:
                request = make_request(chooser, number)
                good.append(request)
                line = encode(request)
            else:
                line = make_rubbish(chooser)
                bad += 1
            stream.append(b"\n" + line + b"\n")
        data = b"".join(stream)
        found, position = [], 0
        while position < len(data):
            size = chooser.choice((1, 2, 7, 100, 4096, 65536))
            size = chooser.randrange(1, size + 1)
            found += self.reader.feed(data[position : position + size], 0.0)
            position += size
        requests = [each for each in found if isinstance(each, Request)]
        self.assertEqual(len(good), len(requests))
        self.assertEqual(good, requests)
        self.assertEqual(bad, len(found) - len(requests))


def make_request(chooser, number):
    """A random good request with a reply."""
    reply = f"good.{number}"
    verb = chooser.choice(wire.VERBS)
    if verb == "access":
        return Request(verb, (f"user{number}", "/a path"), {}, reply)
    if verb != "spawn":
        words = ("alice",) if verb == "end" else ()
        if verb in ("end", "shutdown") and chooser.random() < 0.5:
            words += ("now",)
        return Request(verb, words, {}, reply)
    env = {
        name: "".join(chooser.choices("ab '\"\\=é€", k=chooser.choice((0, 5, 30, 600))))
        for name in ("LANG", "TZ", "BRZ_EMAIL")
        if chooser.random() < 0.5
    }
    return Request("spawn", (f"user{number}",), env, reply)


def encode(request):
    """The line of *request*, without its newline."""
    words = [request.verb, *request.words]
    words += [f"env.{name}={value}" for name, value in request.env.items()]
    return " ".join(map(shlex.quote, [*words, f"reply={request.reply}"])).encode()


def make_rubbish(chooser):
    """A line no end of which is a request: what it ends with sees to that."""
    kind = chooser.randrange(4)
    if kind == 0:
        line = chooser.randbytes(chooser.randrange(200)).replace(b"\n", b"")
    elif kind == 1:  # a request that was cut off
        line = encode(make_request(chooser, 0))
        line = line[: chooser.randrange(len(line))]
    elif kind == 2:
        line = chooser.choice((b"x", b"reply=no ", b"spawn ")) * chooser.randrange(2000)
    else:
        pieces = (b"spawn", b"reply=", b"no", b" ", b"'", b"\\", b"\0", b"hello", b"\r")
        line = b"".join(chooser.choices(pieces, k=chooser.randrange(20)))
    return line + chooser.choice((b"\xff", b"\0", b" bad.key=1"))
