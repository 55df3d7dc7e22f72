# SPDX-License-Identifier: GPL-2.0-or-later

"""What workers hear from the service."""

import threading

from ...lpserve import channel
from .keptcase import DEADLINE, KeptCase, Service, to_follow, to_make


class TestInbox(KeptCase):
    def test_taken_meanwhile(self):
        """A signal handler takes what a program is about to receive."""
        service = Service()
        receive = channel.receive

        def interrupted(link, flags=0):
            self.overrideAttr(channel, "receive", receive)
            self.assertEqual("follow", service.inbox.find("stream")["do"])
            return receive(link, flags)

        service.say(to_follow())
        self.overrideAttr(channel, "receive", interrupted)
        found = []
        thread = threading.Thread(
            target=lambda: found.append(service.inbox.find("stream")), daemon=True
        )
        thread.start()
        thread.join(DEADLINE / 10)
        service.say(to_make())  # has it end in any case
        thread.join(DEADLINE)
        self.assertEqual([None], found)
        service.end()
