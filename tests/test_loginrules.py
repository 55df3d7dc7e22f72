# SPDX-License-Identifier: GPL-2.0-or-later

"""What the options say of clients that have not logged in."""

from breezy.tests import TestCase

from ..lpserve import loginrules
from ..lpserve.loginrules import Penalties, Rules, Startups


class TestParsing(TestCase):
    """What the options may say."""

    def assertWrong(self, parse, *texts):
        for text in texts:
            self.assertRaises(ValueError, parse, text)

    def test_max_startups(self):
        parse = loginrules.parse_max_startups
        self.assertEqual(Startups(10, 30, 100), parse(" 10:30:100 "))
        self.assertEqual(Startups(7, 100, 7), parse("7"))
        wrong = ("", "x", "0", "-1", "10:30", "10:0:20", "10:101:20", "20:30:10")
        self.assertWrong(parse, *wrong, "1:2:3:4", "10:30:100x", "\u0661")

    def test_per_source(self):
        parse = loginrules.parse_per_source
        self.assertEqual([0, 0, 3], [parse(each) for each in ("none", "None", "3")])
        self.assertWrong(parse, "", "0", "-1", "no", "1.5")
        # Whatever one source does, nobody else is dropped at random.
        for start, most in ((10, 9), (2, 1), (1, 1)):
            rules = Rules(Startups(start, 30, 100))
            self.assertEqual(most, rules.most_of_a_source)

    def test_netblock_size(self):
        parse = loginrules.parse_netblock_size
        self.assertEqual((24, 56), parse("24:56"))
        self.assertEqual((0, 128), parse("0"))
        self.assertWrong(parse, "", "33", "-1", "32:129", ":64", "a:b", "1:2:3")

    def test_seconds(self):
        """As sshd_config(5), "TIME FORMATS"."""
        parse = loginrules.parse_seconds
        for text, expected in (
            *(("90", 90), ("1m30s", 90), ("10m", 600), ("2H", 7200), ("1d", 86400)),
            *(("0", 0), ("0.5s", 0.5), ("1w", 604800)),
        ):
            self.assertEqual(expected, parse(text))
        self.assertWrong(parse, "", "s", "-1", "1x", "1 m", "1m 30", "inf", "1e3", ".5")

    def test_penalties(self):
        parse = loginrules.parse_penalties
        self.assertEqual(Penalties(), parse("yes"))
        self.assertEqual(Penalties(enabled=False), parse("no"))
        text = "authfail:1m Grace-Exceeded:2s noauth:0 min:0 max:1h max-sources4:5"
        expected = Penalties(
            *(True, 60, 5, 2, 0, 0, 3600), max_sources4=5, deny_all=True
        )
        self.assertEqual(expected, parse(f"{text} overflow:deny-all"))
        self.assertEqual(Penalties(), parse("overflow:permissive"))
        wrong = ("yes no", "no authfail:5s", "authfail", "authfail:", "crash:90s")
        self.assertWrong(parse, *wrong, "max-sources4:0", "overflow:x", "enabled:1")

    def test_networks(self):
        parse = loginrules.parse_networks
        found = parse("10.0.0.0/8, 192.0.2.1,2001:db8::/32 ::ffff:192.0.2.2")
        self.assertEqual([8, 32, 32, 32], [each.bits for each in found])
        self.assertEqual([4, 4, 16, 4], [len(each.address) for each in found])
        self.assertEqual((), parse(""))
        self.assertWrong(parse, "host", "10.0.0.1/8", "10.0.0.0/33", "::/129", "1.2.3")
