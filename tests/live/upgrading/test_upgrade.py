# SPDX-License-Identifier: GPL-2.0-or-later

"""An upgrade: another process serves, the old one finishes what it has."""

import json
import os
import shutil
import signal
import socket

from breezy.tests.scenarios import load_tests_apply_scenarios

from ...harness import BY_DOOR, HELLO, PLUGIN, LiveTestCase, wait_until
from ..ssh.test_haproxy import free_port
from ..warm.warmcase import WarmCase

load_tests = load_tests_apply_scenarios


class UpgradeCase(LiveTestCase):
    """A test that upgrades a service."""

    def install(self) -> str:
        """Have services use a copy of the plug-in, which may be changed; its path."""
        place = os.path.join(self.test_dir, "installed")
        wanted = shutil.ignore_patterns("__pycache__", "tests", "benchmarks", ".*")
        shutil.copytree(PLUGIN, place, ignore=wanted)
        self.plugins["lpserve"] = place
        return place

    def upgrade(self) -> tuple[int, int]:
        """Upgrade the service; the pids before and after."""
        before = self.status()["pid"]
        answer = self.ask("upgrade")
        self.assertEqual("ok", answer[0], f"{answer} {self.log_text()}")
        after = self.status()["pid"]
        self.assertNotEqual(before, after)
        return before, after

    def users(self, verb: str) -> list[str]:
        """Of the connections that *verb* knows of."""
        return sorted(each["user"] for each in json.loads(self.ask(verb)[1]))

    def predecessors(self) -> dict[int, int]:
        """The pids of services that finish connections, and how many."""
        found = self.status()["predecessors"]
        return {each["pid"]: each["connections"] for each in found}

    def wait_alone(self) -> None:
        """Wait until all predecessors have ended."""
        wait_until(lambda: not self.predecessors(), "the predecessors have ended")

    def open(self, user: str):
        """A connection of *user*, which has been greeted."""
        made = self.connect(user)
        if self.door == "fifo":
            made.open()
        self.assertEqual(HELLO, made.hello())
        return made

    def finish(self, *connections) -> None:
        """Each answers still, and ends well."""
        for each in connections:
            self.assertEqual(HELLO, each.hello())
            each.close()
            self.assertEqual(["exit", "0"], each.end())


class TestUpgrade(UpgradeCase):
    """All that is asked of the service is answered for all processes of it."""

    scenarios = BY_DOOR

    def test_connections(self):
        self.start_service()
        first = self.open("alice")
        before, _ = self.upgrade()
        second = self.open("bob")
        self.assertEqual(["alice", "bob"], self.users("connections"))
        self.assertEqual({before: 1}, self.predecessors())
        self.finish(first)
        self.wait_alone()
        self.assertEqual(["alice"], self.users("history"))
        self.finish(second)
        self.wait_for_totals(ended=2)

    def test_twice(self):
        """A connection outlives two upgrades, and is ended by its user's name."""
        self.start_service()
        connections = [self.open("alice")]
        first, second = self.upgrade()
        connections.append(self.open("alice"))
        _, third = self.upgrade()
        connections.append(self.open("alice"))
        self.assertEqual({first: 1, second: 1}, self.predecessors())
        self.assertEqual(["alice"] * 3, self.users("connections"))
        self.assertEqual(["ok", "3"], self.ask("end", "alice"))
        for each in connections:
            self.assertEqual(["exit", "0"], each.end())
        self.wait_alone()
        # A worker tells its client that it leaves before it is reaped.
        wait_until(lambda: self.users("history") == ["alice"] * 3, "all are told of")
        self.assertEqual(third, self.status()["pid"])

    def test_shutdown(self):
        """It waits for connections of all, and ends them when told so."""
        service = self.start_service("--pid-file=pid")
        first = self.open("alice")
        _, after = self.upgrade()
        with open("pid") as file:
            self.assertEqual(after, int(file.read()))
        second = self.open("bob")
        service.send_signal(signal.SIGTERM)  # whoever has started it knows no other
        wait_until(lambda: self.status_of_stop() == "stopping", "it is stopping")
        self.finish(second)
        self.assertEqual(HELLO, first.hello())
        service.send_signal(signal.SIGTERM)
        self.assertEqual(["signal", "15"], first.end())
        first.close()
        self.assertEqual(0, service.wait(60))
        self.assertFalse(os.path.exists("pid"))

    def status_of_stop(self):
        return self.status()["state"]


class TestAgent(UpgradeCase):
    """A load balancer asks the service that has the doors."""

    door = "socket"

    def test_agent(self):
        port = free_port()
        self.configure(agent_listen=f"127.0.0.1:{port}")
        self.start_service()
        held = self.open("alice")
        for _ in range(2):
            self.upgrade()
            # At once: who finds nobody there may think that the host is down.
            with socket.create_connection(("127.0.0.1", port)) as link:
                self.assertEqual(b"ready up ", link.recv(100)[:9])
        self.assertNotContainsRe(self.log_text(), "ERROR")
        self.finish(held)


class TestFailed(UpgradeCase):
    """The new code does not come up: the old goes on, and says why."""

    door = "socket"

    def refused(self) -> str:
        """Why an upgrade fails; everything else is as before."""
        before = self.status()["pid"]
        held = self.open("alice")
        answer = self.ask("upgrade")
        self.assertEqual(["error", "failed"], answer[:2])
        self.assertEqual(before, self.status()["pid"])
        self.finish(held, self.open("bob"))
        return answer[2]

    def change(self, place: str, name: str, old: str, new: str) -> None:
        """Change a module of the service that is at *place*."""
        path = os.path.join(place, "lpserve", "service", name)
        with open(path) as file:
            text = file.read()
        self.assertContainsString(text, old)
        with open(path, "w") as file:
            file.write(text.replace(old, new))

    def test_broken(self):
        place = self.install()
        self.start_service()
        path = os.path.join(place, "lpserve", "service", "server.py")
        with open(path, "a") as file:
            file.write("\nraise ImportError('half installed')\n")
        self.assertContainsString(self.refused(), "the log says why")
        self.assertContainsString(self.log_text(), "half installed")
        self.configure(directory="relative", max_workers="many")
        self.refused()

    def test_settings(self):
        self.start_service()
        self.configure(access_log="relative")
        self.assertContainsString(self.refused(), "lpserve.access_log")

    def test_of_another_format(self):
        place = self.install()
        self.start_service()
        self.change(place, "takeover.py", "FORMAT = 1", "FORMAT = 99")
        self.assertContainsString(self.refused(), "format 1 of the document, not 99")

    def test_killed(self):
        """Killed when it is about to serve, it leaves the doors to the old one."""
        place = self.install()
        self.start_service()
        self.change(place, "takeover.py", "self._owner.go()", "os.kill(os.getpid(), 9)")
        self.refused()


class TestReload(UpgradeCase):
    """A reload is an upgrade where the code of lpserve has changed."""

    door = "socket"

    def test_reload(self):
        place = self.install()
        self.start_service()
        before = self.status()["pid"]
        self.assertEqual(["ok"], self.ask("reload"))
        self.assertEqual(before, self.status()["pid"])
        held = self.open("alice")
        path = os.path.join(place, "__init__.py")
        with open(path, "a") as file:
            file.write("\n__version__ = '99.0'\n")
        self.assertEqual(["ok", "99.0"], self.ask("reload"))
        status = self.status()
        self.assertNotEqual(before, status["pid"])
        self.assertEqual("99.0", status["version"])
        self.assertEqual({before: 1}, self.predecessors())
        self.finish(held)

    def reload_during_an_upgrade(self, then: str) -> int:
        """Reload when the successor, which does *then*, has begun; the pid before."""
        path = os.path.join(self.install(), "lpserve", "service", "server.py")
        with open(path) as file:
            code = file.read()
        self.start_service()
        before = self.status()["pid"]
        held = os.path.join(self.test_dir, "held")
        os.mkfifo(held)
        with open(path, "a") as file:
            file.write(f"\nopen({held!r}).read()\n{then}\n")
        self.write_control(b"upgrade\n")
        with open(held, "w"):  # it has this code, and waits
            with open(path, "w") as file:
                file.write(code)
            answer = self.ask("reload")
        why = "an upgrade is under way; a reload follows it"
        self.assertEqual(["error", "failed", why], answer)
        self.wait_for_log("reload, asked for by SIGHUP")
        return before

    def test_during_an_upgrade(self):
        """What is installed when a successor has begun already is served as well."""
        before = self.reload_during_an_upgrade("")
        wait_until(lambda: self.log_text().count("serves now") == 2, "it has again")
        self.assertNotContainsString(self.log_text(), "ERROR")
        self.assertNotEqual(before, self.status()["pid"])

    def test_during_one_that_fails(self):
        before = self.reload_during_an_upgrade("raise ImportError('half installed')")
        self.wait_for_log("serves now")
        self.assertNotEqual(before, self.status()["pid"])
        self.assertContainsString(self.log_text(), "cannot upgrade: it ended")


class TestWarm(WarmCase):
    """What is in memory is there after an upgrade."""

    def test_warm(self):
        self.make_branch("one")
        self.start_warm()
        self.wait_warm("one")
        start = len(self.log_text())
        answer = self.ask("upgrade")
        self.assertEqual("ok", answer[0])
        self.assertEqual("warm", self.entry("one")["state"])
        self.use("one")
        wait_until(lambda: self.entry("one")["hits"], "it is found")
        self.assertNotContainsRe(self.log_text(start), "warm: loaded|Traceback")
        self.assertContainsString(self.log_text(start), "is still in memory")
