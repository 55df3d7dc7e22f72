# SPDX-License-Identifier: GPL-2.0-or-later

"""A random walk that compares what is in memory with what is on disk.

Branches are changed in all the ways there are, and after each step a worker of a
service and a ``brz serve --inet`` are asked the same. LPSERVE_WARM_SEED repeats a walk.
"""

import bz2
import os
import random
import sys
from collections import Counter

from breezy import errors

from ...harness import DEADLINE
from .walkchanges import ACTIONS, NAMES, SPREADING, Changes
from .warmcase import NOTHING_SEEN, comparable

#: For how many steps one cold process is used.
COLD_LIFE = 20
#: A plug-in: a repository that was damaged is soon tried again.
HASTY = """
from breezy.plugins.lpserve.lpserve.service import warmset
warmset.ASIDE, warmset.ASIDE_AT_MOST = 0.1, 0.5
"""


class Cold:
    """A ``brz serve --inet`` that is asked a few times, then another."""

    def __init__(self, case):
        self._case = case
        self._left = 0
        self._asker = self._process = None

    def ask(self, questions):
        """The answers to *questions*, which are words and a body."""
        if not self._left:
            self.close()
            self._asker, self._process = self._case.cold_client()
            self._left = COLD_LIFE
        self._left -= 1
        return [self._asker.ask(*words, body=body) for words, body in questions]

    def close(self):
        """End the present one."""
        if self._asker is not None:
            self._asker.close()
            self._case.assertEqual(0, self._process.wait(DEADLINE))


class Warm:
    """A service: a new connection, or one that has been there for a while."""

    def __init__(self, case, source, runtime, log_path):
        self._case = case
        self._random = source
        self._held = None
        self.runtime = runtime
        self.log_path = log_path

    def ask(self, questions):
        """The answers to *questions*."""
        if self._held is not None and self._random.random() < 0.4:
            self.close()
        if self._held is None:
            self._held = self._case.warm_client()
        return [self._held[0].ask(*words, body=body) for words, body in questions]

    def close(self):
        """End the connection; a service that has come to rest."""
        if self._held is not None:
            self._case.finish(*self._held)
            self._held = None


class WalkCase(Changes):
    """A walk, with services that serve the same directory.

    The methods of `harness.LiveTestCase` are for one of them: see `choose`.

    :cvar count: how many services there are.
    :cvar steps: how many steps there are.
    :cvar actions: what is chosen from.
    """

    count = 1
    steps = 60
    actions = ACTIONS
    compared = 0

    def setUp(self):
        super().setUp()
        seed = int(os.environ.get("LPSERVE_WARM_SEED") or random.randrange(1 << 32))
        self.seed, self.random = seed, random.Random(seed)
        self.services = {}
        self.warm_sides = [
            Warm(self, self.random, f"{self.runtime}{number}", f"{number}.log")
            for number in range(self.count)
        ]
        self.choose(0)

    def choose(self, number):
        """Have all that is asked of the service be asked of this one."""
        self.warm_side = self.warm_sides[number]
        self.runtime = self.warm_side.runtime
        self.log_path = self.warm_side.log_path

    def each_service(self):
        """Choose one after the other."""
        for number in range(self.count):
            self.choose(number)
            yield number

    def stop_service(self, service=None):
        """Stop one; see `harness.LiveTestCase`."""
        if service in self.services:
            self.choose(self.services[service])
        return super().stop_service(service)

    def check_nothing_left(self):
        """See `leftovers.Leftovers`."""
        for _ in self.each_service():
            super().check_nothing_left()

    def walk(self):
        """Do it, and report what was done."""
        # Whoever changes a damaged branch may leave it locked.
        self.thisFailsStrictLockCheck()
        self._lock_check_thorough = False
        self.done = Counter()
        # Whatever goes wrong now is known by its seed.
        print(f"warm walk: seed {self.seed}", file=sys.stderr)
        for name in NAMES[:2]:
            self.ids.append(self.make_branch(name, 4))
        self.ids.append(self.make_branch("old", 4, "pack-0.92"))
        os.symlink("a", self.place("link"))
        self.add_plugin("hasty", HASTY)
        for number in self.each_service():
            self.start_warm()
            self.services[self.service] = number
        self.cold = Cold(self)
        try:
            for number in range(self.steps):
                # Changes are made through any of them.
                self.choose(self.random.randrange(self.count))
                self.step(f"seed {self.seed}, step {number}", number % self.count)
        finally:
            for each in self.warm_sides:
                each.close()
            self.cold.close()
        hits = [self.check_service() for _ in self.each_service()]
        print(
            f"warm walk: {self.steps} steps, {self.compared} answers, {hits} hits, "
            f"{dict(self.done)}",
            file=sys.stderr,
        )
        self.assertTrue(self.done["settle"] and all(hits), "nothing was warm")

    def check_service(self):
        """Nothing has gone wrong there; how often something was found in memory."""
        self.rest()
        status = self.status()
        self.assertEqual(0, status["totals"]["faults"])
        return sum(each["hits"] for each in status["warm"])

    def step(self, where, asked):
        """Change something, and compare with what the service *asked* says."""
        action = self.random.choice(self.actions)
        name = self.random.choice(NAMES)
        if self.damaged and action in SPREADING:
            action = "nothing"
        try:
            getattr(self, action)(name)
            self.done[action] += 1
        except Exception as error:
            # The branch may be damaged: that is what the question is about.
            if not self.damaged and not isinstance(error, errors.BzrError):
                raise
            self.done["failed"] += 1
        self.choose(asked)
        questions = [each for one in NAMES for each in self.questions(one)]
        self.random.shuffle(questions)
        for (words, body), warm, cold in zip(
            questions,
            self.warm_side.ask(questions),
            self.cold.ask(questions),
            strict=True,
        ):
            self.compared += 1
            if plain(words[0], warm) != plain(words[0], cold):
                self.fail(
                    f"{where}, after {action} {name}: {words} {body}:\n"
                    f"warm: {plain(words[0], warm)}\ncold: {plain(words[0], cold)}\n"
                    f"damaged: {self.damaged}"
                )
        if self.damaged and self.random.random() < 0.5:
            self.repair()

    def questions(self, name):
        """Some of what a client may ask of the branch *name*."""
        path = name.encode() + b"/"
        one, other = self.random.choice(self.ids), self.random.choice(self.ids)
        tip = self.tip(name)
        pairs = b"%s\n%s\n%d" % (one, other, self.random.randrange(4))
        asked = [
            ((b"Branch.last_revision_info", path), None),
            ((b"Branch.get_tags_bytes", path), None),
            ((b"BzrDir.find_repositoryV3", path), None),
            ((b"Repository.get_revision_graph", path, tip), None),
            ((b"Repository.get_revision_graph", path, one), None),
            ((b"Repository.get_revision_graph", path, b""), None),
            ((b"Repository.has_revision", path, one), None),
            ((b"Branch.revision_id_to_revno", path, one), None),
            ((b"Repository.gather_stats", path, tip, b"no"), None),
        ]
        parents = (b"Repository.get_parent_map", path)
        missing = (*parents, b"include-missing:")
        asked += [
            ((*missing, tip), NOTHING_SEEN),
            ((*missing, one, other), NOTHING_SEEN),
            ((*parents, one), NOTHING_SEEN),
            ((*missing, tip), b"%s\n%s\n1" % (tip, b"")),
            ((*missing, one), pairs),
        ]
        return self.random.sample(asked, 5) + [asked[3], asked[9]]

    def tip(self, name):
        try:
            with open(self.place(name) + "/.bzr/branch/last-revision", "rb") as file:
                return file.read().split()[1]
        except (OSError, IndexError):
            return b"null:"

    def settle(self, name):
        """Wait until all that can be is in the memory of all."""
        for _ in self.each_service():
            self.warm_side.close()
            if not self.damaged:
                for each in NAMES:
                    self.wait_warm(each)


def plain(verb, answer):
    """*answer*, but for the order of what has none."""
    words, body = comparable(answer)
    if words == (b"ok",) and verb == b"Repository.get_revision_graph":
        body = sorted(body.split(b"\n"))
    elif words == (b"ok",) and verb == b"Repository.get_parent_map":
        body = sorted(bz2.decompress(body).split(b"\n"))
    elif words == (b"ok",) and verb == b"Repository.gather_stats":
        # Where a history has two roots the first one found is not always the same.
        body = [each for each in body.split(b"\n") if not each.startswith(b"first")]
    return words, body
