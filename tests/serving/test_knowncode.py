# SPDX-License-Identifier: GPL-2.0-or-later

"""Whether this Breezy is the one that is wrapped."""

from breezy.bzr import pack_repo
from breezy.tests import TestCase

from ...lpserve.serving import knowncode
from ...lpserve.serving.knowncode import UnexpectedBreezy, check, digest
from ...lpserve.streams import wrapping as streams
from ...lpserve.warm import wrapping as warm


def one(self, number):
    return self.count + number  # a comment


def with_docs(self, number):
    """Says something."""
    return self.count + number


class TestDigest(TestCase):
    def test_code_only(self):
        """Neither comments, documentation nor lines count; the name does."""
        with_docs.__name__ = "with_docs"
        shape = knowncode._shape
        self.assertNotEqual(digest(one), digest(with_docs))

        def one_more():
            def one(self, number):
                """Says more."""
                return self.count + number

            return one

        self.assertEqual(digest(one), digest(one_more()))
        self.assertEqual(shape([1, "a", None]), "[1,'a',None]")

    def test_other_code(self):
        def changed():
            def one(self, number):
                return self.count - number

            return one

        self.assertNotEqual(digest(one), digest(changed()))

    def test_no_source(self):
        self.assertRaises(UnexpectedBreezy, digest, len)
        namespace = {}
        exec("def made(): pass", namespace)
        self.assertRaises(UnexpectedBreezy, digest, namespace["made"])


class TestCheck(TestCase):
    def test_this_breezy(self):
        """The one that the tests run with is one of those that are known."""
        check(warm.EXPECTED)
        check(streams.EXPECTED)

    def test_missing(self):
        names = ((pack_repo.PackRepository, "no_such_function", ("x",)),)
        self.assertRaises(UnexpectedBreezy, check, names)

    def test_all_wrapped_are_checked(self):
        for module in (warm, streams):
            expected = {(owner, name) for owner, name, _ in module.EXPECTED}
            for owner, name, _ in module._WRAPPERS:
                self.assertIn((owner, name), expected)
