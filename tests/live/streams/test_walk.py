# SPDX-License-Identifier: GPL-2.0-or-later

"""Whatever happens to repositories, makers and followers, clients get what is right.

How many steps are walked is in LPSERVE_STREAM_STEPS.
"""

import os

from .walkcase import StreamWalkCase


class TestWalk(StreamWalkCase):
    steps = int(os.environ.get("LPSERVE_STREAM_STEPS") or "150")

    def test_walk(self):
        self.walk()
