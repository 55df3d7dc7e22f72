# SPDX-License-Identifier: GPL-2.0-or-later

"""What may be typed to 'make cluster', without a cluster."""

from types import SimpleNamespace

from breezy.tests import TestCase, TestSkipped

try:
    from ....demo import cluster
except ImportError:  # what is installed has no demo/
    cluster = None


class Cluster:
    """Notes what happens to its host, which runs or does not."""

    def __init__(self):
        self.pids = [4711]
        self.done = []
        self.hosts = {
            "one": SimpleNamespace(
                processes=lambda: self.pids, upgrade=lambda: self.done.append("upgrade")
            )
        }

    def states(self):
        return {"one": "UP"}

    def _do(self, name, found):
        self.done.append(name)
        return found

    def drain(self, name):
        return self._do("drain", 0.1)

    def resume(self, name):
        return self._do("resume", 0.1)

    def lose(self, name):
        return self._do("lose", ([], 0.1))

    def bring_back(self, name):
        return self._do("bring_back", 0.1)


class TestTyped(TestCase):
    def setUp(self):
        super().setUp()
        if cluster is None:
            raise TestSkipped("demo/ is not here")
        self.said = []
        self.overrideAttr(cluster, "say", self.said.append)
        self.cluster = Cluster()

    def refuse(self, line):
        """Why this is not done."""
        made = self.assertRaises(
            cluster.DemoError, cluster.carry_out, self.cluster, line.split()
        )
        return str(made)

    def test_running(self):
        for word in ("drain", "resume", "upgrade", "kill"):
            cluster.carry_out(self.cluster, [word, "one"])
        self.assertEqual(["drain", "resume", "upgrade", "lose"], self.cluster.done)
        self.assertEqual("host one runs", self.refuse("start one"))

    def test_killed(self):
        """HAProxy would never tell of a host that does not run what is waited for."""
        self.cluster.pids = []
        for word in ("drain", "resume", "upgrade", "kill"):
            self.assertEqual("host one does not run", self.refuse(f"{word} one"))
        cluster.carry_out(self.cluster, ["start", "one"])
        self.assertEqual(["bring_back"], self.cluster.done)

    def test_nonsense(self):
        for line in ("drain", "drain four", "drain one one", "end one", "status one"):
            self.assertEqual("not understood", self.refuse(line))
        self.assertEqual([], self.cluster.done)
