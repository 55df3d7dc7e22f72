# SPDX-License-Identifier: GPL-2.0-or-later

"""Runs a loop of the service for as long as a test needs it."""


def turn(loop, done):
    """Run *loop* until *done* is true."""

    def look():
        if done():
            loop.stop()
        else:
            loop.call_later(0.002, look)

    if not done():
        loop.call_later(0, look)
        loop.run()
