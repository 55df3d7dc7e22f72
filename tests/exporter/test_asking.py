# SPDX-License-Identifier: GPL-2.0-or-later

"""What the exporter makes of answers that make no sense."""

from unittest import mock

from breezy.tests import TestCase

from ...lpserve.exporter import asking


class TestOddAnswers(TestCase):
    """They are faults to be told, and no failures of the exporter."""

    def test_metrics(self):
        for text in ("[" * 100_000, "[]", "7", "", "9" * 10_000):
            talk = mock.Mock()
            talk.return_value.wait_answer.return_value = ["ok", text]
            with mock.patch.object(asking, "SocketConversation", talk):
                found = asking.Asking("/nowhere", None).find()
            self.assertNotEqual("", found.fault, text[:9])

    def test_health(self):
        """What it says can be encoded."""
        with mock.patch.object(asking, "health_fault", lambda *words: "no \udc80"):
            said = asking.Asking("/nowhere", None).health()
        self.assertEqual("no ?", said)
