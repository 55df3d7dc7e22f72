# SPDX-License-Identifier: GPL-2.0-or-later

"""Who gets a place, who waits for one, and who is refused."""

from collections import Counter

from ...lpserve.service import doors
from ...lpserve.service.admission import FULL, Admission, Limits
from ...lpserve.service.connection import Connection
from .test_loop import LoopTestCase


class Reply(doors.Reply):
    answer = None

    def send(self, line):
        self.answer = line.decode()
        return True


class TestAdmission(LoopTestCase):
    def setUp(self):
        super().setUp()
        self.started = []
        self.refused = Counter()
        self.admission = Admission(self.loop, self.started.append, self.refused)

    def limit(self, workers=0, per_user=0, per_address=0, queue_timeout=60.0):
        self.admission.use(Limits(workers, per_user, per_address, queue_timeout))

    def ask(self, user, address=""):
        env = {"SSH_CLIENT": f"{address} 1 2"} if address else {}
        connection = Connection(user, env, Reply())
        self.admission.ask(connection)
        return connection

    def users(self):
        return "".join(each.user for each in self.started)

    def end(self, connection):
        connection.release()
        connection.release()  # which does nothing
        self.run_loop()

    def run_loop(self):
        self.loop.call_later(0, self.loop.stop)
        self.loop.run()

    def test_no_limits(self):
        for _ in range(3):
            self.ask("a", "192.0.2.1")
        self.assertEqual("aaa", self.users())

    def test_limits(self):
        """Of each kind; without a queue."""
        for limits, more in (
            ({"workers": 2}, ("c", "192.0.2.3")),
            ({"per_user": 1}, ("a", "192.0.2.3")),
            ({"per_address": 1}, ("c", "192.0.2.1")),
        ):
            self.limit(queue_timeout=0.0, **limits)
            first, second = self.ask("a", "192.0.2.1"), self.ask("b", "192.0.2.2")
            refused = self.ask(*more)
            self.assertStartsWith(refused.reply.answer, "error busy '")
            self.assertEndsWith(refused.reply.answer, "try again later'\n")
            self.end(first)
            again = self.ask(*more)
            self.assertIs(None, again.reply.answer)
            self.end(second)
            self.end(again)
        self.assertEqual({"busy": 3}, self.refused)

    def test_refuse_queued(self):
        """Those of a user, or all."""
        self.limit(workers=1)
        self.ask("a")
        queued = [self.ask(user) for user in "bcb"]
        self.assertEqual(2, self.admission.refuse_queued("failed", "why", "b"))
        answers = [each.reply.answer for each in queued]
        refused = "error failed why\n"
        self.assertEqual([refused, None, refused], answers)
        self.assertEqual(1, self.admission.refuse_queued("failed", "why"))
        self.assertEqual(0, self.admission.queued)

    def test_unknown_addresses(self):
        self.limit(per_address=1, queue_timeout=0.0)
        self.ask("a")
        self.ask("b")
        self.assertEqual("ab", self.users())

    def test_fair(self):
        """The one with the fewest has the next place; then who waits longest."""
        self.limit(workers=3)
        open_ = [self.ask(user) for user in "aab"]
        for user in "aaabcb":
            self.ask(user)
        self.assertEqual(6, self.admission.queued)
        for connection in open_:
            self.end(connection)
        # There were a a b; c has none, then a has 1 and b 1, and a came first.
        self.assertEqual("aab" + "cab", self.users())

    def test_others_are_not_held_up(self):
        """By somebody who has reached a limit of his own."""
        self.limit(workers=3, per_user=1)
        self.ask("a")
        waiting = self.ask("a")
        self.ask("b")
        self.assertEqual("ab", self.users())
        self.end(self.started[0])
        self.assertIs(waiting, self.started[2])

    def test_gives_up(self):
        self.limit(workers=1, queue_timeout=0.01)
        self.ask("a")
        late = self.ask("b")
        self.loop.call_later(0.02, self.loop.stop)
        self.loop.run()
        self.assertEqual(f"error busy '{FULL}'\n", late.reply.answer)
        self.assertEqual(0, self.admission.queued)

    def test_leaves(self):
        """A client that goes away, and a service that stops."""
        self.limit(workers=1)
        first = self.ask("a")
        gone, left = self.ask("b"), self.ask("c")
        gone.reply.on_disconnect()
        self.admission.refuse_queued("stopping", "the service is stopping")
        self.assertStartsWith(left.reply.answer, "error stopping")
        self.end(first)
        self.assertEqual("a", self.users())
        self.assertEqual({"failed": 1, "stopping": 1}, self.refused)

    def test_queue_is_bounded(self):
        """Who has the most in it loses his last."""
        self.limit(workers=1)
        self.admission.MOST_QUEUED = 3
        self.ask("a")
        kept, lost = self.ask("b"), self.ask("b")
        self.ask("c")
        self.ask("d")
        self.assertIs(None, kept.reply.answer)
        self.assertStartsWith(lost.reply.answer, "error busy")

    def test_limits_change(self):
        self.limit(workers=1)
        self.ask("a")
        self.ask("b")
        self.limit(workers=2)
        self.assertEqual("ab", self.users())

    def test_refused_in_the_end(self):
        """One that was admitted and gets no worker gives its place back."""
        self.limit(workers=1)
        first = self.ask("a")
        self.ask("b")
        first.refuse("failed", "cannot fork a worker")
        self.run_loop()
        self.assertEqual("ab", self.users())
        self.assertEqual({"failed": 1}, self.refused)
