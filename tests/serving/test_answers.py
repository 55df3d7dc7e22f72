# SPDX-License-Identifier: GPL-2.0-or-later

"""Every request is answered, and nothing of the host is in an answer."""

import os
import shutil

from breezy import errors
from breezy.bzr.smart.request import (
    FailedSmartServerResponse,
    SmartServerRequest,
    SuccessfulSmartServerResponse,
    request_handlers,
)
from breezy.tests import TestCase
from breezy.tests.scenarios import load_tests_apply_scenarios

from ...lpserve.serving.answers import hide_paths
from .smartcase import FORMATS, Request, SmartTestCase
from .smartverbs import CHANGES, REVISION, VERBS, requests
from .test_containment import snapshot

load_tests = load_tests_apply_scenarios


class TestHidePaths(TestCase):
    def test_hidden(self):
        for text, shown in (
            ("there is no directory /srv/a b", "there is no directory ... b"),
            ("No such file: '/srv/x y'", "No such file: '... y'"),
            ("[Errno 2] None: '/a' -> '/b/c'", "[Errno 2] None: '...' -> '...'"),
            ("Error in file:///etc/x.conf.", "Error in ..."),
            ("readonly+file:///srv/x", "..."),
            ("in (/etc/x)", "in (...)"),
        ):
            self.assertEqual(shown, hide_paths(text))

    def test_shown(self):
        for text in ("and/or", "a / b", "http://host/path", "../x", "a revision/x"):
            self.assertEqual(text, hide_paths(text))

    def test_inside(self):
        for text, shown in (
            ("filtered-123:///a/b c", "/a/b c"),
            ("LockDir(readonly+filtered-123:///a)", "LockDir(/a)"),
            ("'/srv/my root/a b'", "'/a b'"),
            ("file:///srv/my%20root/a", "/a"),
            ("/srv/my rooted", "... rooted"),
        ):
            self.assertEqual(shown, hide_paths(text, "/srv/my root"))


class TestUnspeakable(SmartTestCase):
    """FAULT 38: an error that could not be encoded was never answered."""

    scenarios = [(str(format), {"format": format}) for format in FORMATS]

    def setUp(self):
        super().setUp()
        os.mkdir("root")
        self.server = self.make_server("root", False)

    def failing(self, error=None, answer=None, at="do", stream=None):
        """What is answered to a verb that does this."""

        class Failing(SmartServerRequest):
            def do(self):
                return self.happen("do")

            def do_body(self, body):
                return self.happen("do_body")

            def happen(self, place):
                if place != at:
                    return None
                if error is not None:
                    raise error
                return answer

        request_handlers.register(b"failing", Failing)
        body = b"body" if at == "do_body" else None
        try:
            answer = self.ask(self.server, Request((b"failing",), body), self.format)
        finally:
            request_handlers.remove(b"failing")
        self.assertIs(None, self.error)
        return answer

    def test_errors(self):
        class Mute(Exception):
            def __str__(self):
                raise ValueError

        # In place of an ellipsis the answer may have more words.
        for error, *words in (
            (errors.TokenMismatch(b"given", None), b"TokenMismatch", b"given", b""),
            (
                errors.IncompatibleRepositories("caf\u00e9", "b", "c"),
                *(b"IncompatibleRepositories", "caf\u00e9".encode(), b"b", b"c"),
            ),
            (errors.ReadError(None), b"ReadError", b""),
            # Nothing of the host is told.
            (
                FileNotFoundError(2, "No such file", "/etc/secret place"),
                *(b"error", b"FileNotFoundError", b"No such file"),
            ),
            # A path with a newline in it is no second answer.
            (
                errors.PermissionDenied("a\nb\x01c", "why\nnot"),
                *(b"PermissionDenied", ...),
            ),
            (
                UnicodeDecodeError("utf-8", b"\xff", 0, 1, "why"),
                *(b"error", b"UnicodeDecodeError", ...),
            ),
            (Mute(), b"error", ...),
        ):
            for at in ("do", "do_body"):
                answer = self.failing(error, at=at)
                self.assertEqual(self.format == 1, answer.good, error)
                self.assertEqual(b"", answer.rest, error)
                if words[-1] is ...:
                    expected = words[:-1]
                    self.assertEqual(expected, answer.words[: len(expected)])
                else:
                    self.assertEqual(words, answer.words)

    def test_answers(self):
        words = (b"LockFailed", "lock", ValueError("why"), None, 3, [b"a", "b"])
        for response, expected in (
            (FailedSmartServerResponse(words), [b"LockFailed", b"lock", b"why", b""]),
            (SuccessfulSmartServerResponse((b"ok", None, "a")), [b"ok", b"", b"a"]),
            (SuccessfulSmartServerResponse((b"ok",), body="a"), [b"error"]),
        ):
            answer = self.failing(answer=response)
            self.assertEqual(expected, answer.words[: len(expected)])

    def test_stream_that_fails(self):
        def stream():
            yield b"chunk"
            raise errors.TokenMismatch(b"given", None)

        answer = self.failing(
            answer=SuccessfulSmartServerResponse((b"ok",), body_stream=stream())
        )
        if self.format == 3:
            words = [b"ok", b"TokenMismatch", b"given", b""]
            self.assertEqual((False, words, b"chunk"), answer)
        elif self.format == 2:
            rest = b"chunked\n5\nchunkERR\nd\nTokenMismatch5\ngiven0\nEND\n"
            self.assertEqual((True, [b"ok"], rest), answer)

    def test_unknown_verbs(self):
        for verb in (b"no-such", b"\xff\xfe", b""):
            answer = self.ask(self.server, Request((verb,)), self.format)
            self.assertEqual(self.format == 1, answer.good)


class TestReadOnly(SmartTestCase):
    """FAULT 38: what changes something is refused, answered, and changes nothing."""

    scenarios = [(str(format), {"format": format}) for format in FORMATS]

    def setUp(self):
        super().setUp()
        os.mkdir("root")
        tree = self.make_branch_and_tree("root/branch")
        self.build_tree(["root/branch/file"])
        tree.add(["file"])
        tree.commit("message", rev_id=REVISION)
        os.mkdir("root/empty")
        shutil.copytree("root/branch", "root/other")
        self.make_repository("root/shared", shared=True)
        self.server = self.make_server("root", False)

    def test_changes(self):
        before = snapshot("root")
        good = set()
        for verb in CHANGES:
            for path in (b"branch", b"shared", b"empty", b"new", b""):
                for request in requests(verb, path):
                    answer = self.ask(self.server, request, self.format)
                    if answer.good:
                        good.add(verb)
                    self.assertNotIn(
                        self.test_dir.encode(), repr(answer).encode(), request
                    )
        self.assertEqual(before, snapshot("root"))
        if self.format != 1:
            # There is nothing to break, to pack or to reconcile.
            idle = {b"Branch.break_lock", b"Repository.break_lock"}
            idle |= {b"PackRepository.autopack", b"Repository.reconcile"}
            self.assertEqual(set(), good - idle)

    def test_every_verb(self):
        """With too few words, with too many, and with what is none."""
        for verb in VERBS:
            for words in ((), (b"",), (b"branch", b"\xff"), (b"branch",) * 20):
                request = Request((verb, *words), b"\xff\0")
                self.ask(self.server, request, self.format)
                if self.format == 3:  # the others cannot tell that there is no body
                    self.ask(self.server, request._replace(body=None), self.format)
