# SPDX-License-Identifier: GPL-2.0-or-later

"""FAULT 26: whatever happens to a repository, a warm service answers as a cold one.

How many steps are walked is in LPSERVE_WARM_STEPS.
"""

import os

from .walkcase import WalkCase
from .walkchanges import ACTIONS

STEPS = os.environ.get("LPSERVE_WARM_STEPS")


class TestWalk(WalkCase):
    """One service."""

    steps = int(STEPS or "60")

    def test_walk(self):
        self.walk()


class TestThree(WalkCase):
    """Three services on one tree: what one changes is new to the others, too."""

    count = 3
    steps = int(STEPS or "36")
    actions = (*ACTIONS, *("push",) * 2)

    def test_walk(self):
        self.walk()
