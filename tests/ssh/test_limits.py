# SPDX-License-Identifier: GPL-2.0-or-later

"""Who may connect to the SSH server."""

import json
import random

from breezy.tests import TestCase

from ...lpserve import loginrules
from ...lpserve.loginrules import NetBlockSize, Penalties, Rules, Startups
from ...lpserve.ssh.limits import Limits


class LimitsCase(TestCase):
    def limits(self, startups=(10, 30, 500), per_source=0, chance=0, **rules):
        """Limits that draw *chance* each time."""
        made = Rules(Startups(*startups), per_source, **rules)
        return Limits(made, lambda below: chance)

    def begin(self, limits, host, count=1, now=0.0):
        """Have so many clients let in; what to end them with."""
        sources = []
        for _ in range(count):
            self.assertEqual("", limits.refusal(host, now))
            sources.append(limits.begin(host))
        return sources


class TestStartups(LimitsCase):
    """FAULT 39: drops grow with the count; a source takes no more than its share."""

    def test_slope(self):
        """The probability of a drop is that of sshd."""
        startups = Startups(10, 30, 100)
        for count, percent in (
            *((0, 0), (9, 0), (10, 30), (11, 30), (12, 31), (55, 65), (99, 99)),
            *((100, 100), (1000, 100)),
        ):
            dropped = [startups.drops(count, chance) for chance in range(100)]
            self.assertEqual(percent, sum(dropped), count)

    def test_number(self):
        """One number is the count at which all are refused."""
        limits = self.limits(loginrules.parse_max_startups("3"))
        sources = self.begin(limits, "192.0.2.1", 3)
        self.assertEqual("past max_startups", limits.refusal("192.0.2.2", 0))
        limits.end(sources.pop())
        self.begin(limits, "192.0.2.2")

    def test_source(self):
        """A source at its limit is refused; another one is let in."""
        limits = self.limits(per_source=None)
        sources = self.begin(limits, "192.0.2.1", 9)
        for _ in range(1000):
            found = limits.refusal("192.0.2.1", 0)
            self.assertEqual("past per_source_max_startups", found)
            self.assertEqual("", limits.refusal("192.0.2.2", 0))
        limits.end(sources.pop())
        self.begin(limits, "192.0.2.1")

    def test_netblocks(self):
        """A source is a block of addresses; IPv4 and IPv6 are apart."""
        blocks = NetBlockSize(24, 64)
        limits = self.limits(per_source=1, netblock_size=blocks)
        for host, same, other in (
            ("192.0.2.1", "192.0.2.254", "192.0.3.1"),
            ("2001:db8::1", "2001:db8::2:3:4:5%eth0", "2001:db8:0:1::1"),
            ("::ffff:198.51.100.1", "198.51.100.7", "::c633:6401"),
        ):
            (source,) = self.begin(limits, host)
            self.assertNotEqual("", limits.refusal(same, 0))
            self.assertEqual("", limits.refusal(other, 0))
            limits.end(source)
            self.assertEqual("", limits.refusal(same, 0))
        self.assertEqual((0, {}), (limits.count, limits._counts))

    def test_rules_change(self):
        """A connection that ends is counted off under the rules of its begin."""
        limits = self.limits(per_source=1)
        sources = self.begin(limits, "192.0.2.1")
        blocks = NetBlockSize(8, 8)
        limits.rules = Rules(Startups(10, 30, 500), 1, netblock_size=blocks)
        sources += self.begin(limits, "192.0.2.2")
        self.assertNotEqual("", limits.refusal("192.9.9.9", 0))
        for each in sources:
            limits.end(each)
        self.assertEqual((0, {}), (limits.count, limits._counts))


class TestPenalties(LimitsCase):
    """FAULT 39: the penalty of a source grows with each failed login."""

    def penalise(self, limits, kind, count=1, now=0.0, host="192.0.2.1"):
        return [limits.penalise(host, kind, now) for _ in range(count)]

    def test_grows(self):
        limits = self.limits()
        self.assertEqual([0, 0, 0, 20], self.penalise(limits, "authfail", 4))
        refused = "penalty: failed authentication"
        self.assertEqual(refused, limits.refusal("192.0.2.1", 19.9))
        self.assertEqual("", limits.refusal("192.0.2.2", 0))
        # What is added while it lasts makes it longer, up to ten minutes.
        self.assertEqual([0] * 1000, self.penalise(limits, "noauth", 1000))
        self.assertIn("without attempting", limits.refusal("192.0.2.1", 599.9))
        self.assertEqual("", limits.refusal("192.0.2.1", 600.1))
        # After the end, penalties start from zero.
        self.assertEqual([0] * 3, self.penalise(limits, "invaliduser", 3, 601))

    def test_off(self):
        """For all sources, for exempt networks, for one kind of failure."""
        off = self.limits(penalties=Penalties(enabled=False))
        networks = loginrules.parse_networks("192.0.2.0/24,2001:db8::/32")
        exempt = self.limits(exempt=networks)
        for limits in (off, exempt):
            for host in ("192.0.2.1", "2001:db8::1"):
                self.assertEqual(
                    [0] * 99, self.penalise(limits, "authfail", 99, 0, host)
                )
                self.assertEqual("", limits.refusal(host, 0))
        self.assertNotEqual([0] * 9, self.penalise(exempt, "authfail", 9, 0, "::1"))
        none = self.limits(penalties=Penalties(noauth=0))
        self.assertEqual([0] * 99, self.penalise(none, "noauth", 99))

    def test_memory(self):
        """The table is bounded; the longest penalties stay in it."""
        limits = self.limits(penalties=Penalties(max_sources4=100, max_sources6=10))
        self.penalise(limits, "authfail", 10, 0, "192.0.2.1")
        for number in range(5000):
            host = f"10.0.{number >> 8}.{number & 255}"
            self.penalise(limits, "noauth", number % 3, 0, host)
            self.penalise(limits, "noauth", 1, 0, f"2001:db8::{number:x}")
        for size, most in ((4, 100), (16, 10)):
            table = limits._tables[size]
            self.assertEqual(most, len(table.found))
            self.assertEqual(most, len(table.order))
        self.assertNotEqual("", limits.refusal("192.0.2.1", 49))
        self.assertEqual("", limits.refusal("192.0.2.1", 51))
        self.assertEqual("", limits.refusal("2001:db8::1", 51))
        self.assertEqual([0, 0], [len(t.found) for t in limits._tables.values()])

    def test_deny_all(self):
        """With `deny_all`, a full table refuses all other sources."""
        rules = Penalties(max_sources4=3, deny_all=True)
        limits = self.limits(penalties=rules)
        for number in range(10):
            self.penalise(limits, "authfail", 1, 0, f"192.0.2.{number}")
        refused = "too many penalised addresses"
        self.assertEqual(refused, limits.refusal("198.51.100.1", 4))
        self.assertEqual("", limits.refusal("2001:db8::1", 4))
        self.assertEqual("", limits.refusal("198.51.100.1", 6))

    def test_random(self):
        """The results are those of a simple model: one sum for each source."""
        seed = random.SystemRandom().randrange(1 << 32)
        self.log("seed %d", seed)
        chance = random.Random(seed)
        limits = self.limits()
        ends, active, now = {}, set(), 0.0
        for _ in range(5000):
            now += chance.expovariate(5)
            host = f"192.0.2.{chance.randrange(20)}"
            if ends.get(host, 0) <= now:
                ends.pop(host, None)
                active.discard(host)
            self.assertEqual(host in active, limits.refusal(host, now) != "")
            kind = chance.choice(list(loginrules.REASONS))
            end = ends.get(host, now) + getattr(Penalties(), kind)
            ends[host] = min(end, now + 600)
            if ends[host] - now > 15:
                active.add(host)
            limits.penalise(host, kind, now)


class TestHandedOver(LimitsCase):
    """Another process goes on with the penalties."""

    def test_penalties(self):
        penalties = Penalties(authfail=60.0, noauth=5.0, least=10.0)
        before = self.limits(penalties=penalties)
        for host, kind in (("192.0.2.1", "authfail"), ("2001:db8::1", "authfail")):
            before.penalise(host, kind, 0.0)
        before.penalise("192.0.2.2", "noauth", 0.0)  # too little to refuse it
        before.penalise("192.0.2.3", "authfail", -60.0)  # over
        packed = json.loads(json.dumps(before.pack(0.0)))
        self.assertEqual(3, len(packed))
        after = self.limits(penalties=penalties)
        after.take(packed)
        for host in ("192.0.2.1", "192.0.2.2", "192.0.2.3", "2001:db8::1"):
            self.assertEqual(before.refusal(host, 1.0), after.refusal(host, 1.0))
        self.assertEqual(64.0, after.penalise("192.0.2.2", "authfail", 1.0))
        self.assertEqual("", after.refusal("192.0.2.1", 61.0))
        self.assertNotEqual("", after.refusal("192.0.2.2", 61.0))
