# SPDX-License-Identifier: GPL-2.0-or-later

"""The doors: where requests arrive.

A door is the control FIFO (`doors`) or the socket (`socketdoor`).
"""

from __future__ import annotations

import contextlib
import os


class Door:
    """A FIFO or socket at which requests arrive.

    The service creates it, or systemd has created it (systemd.socket(5)) and passed
    it, or another service that this one takes over from (`handover`). A door of
    systemd's lasts: it is not removed, and the requests in it that the service has not
    read are for the next service. So is one that is handed over.

    :ivar given: the descriptor that was passed, or None.
    :ivar lasting: whether the door is for another service when this one ends.
    """

    #: The name of the door in the answer to ``status``.
    name = ""

    def __init__(self, path: str, given: int | None = None, lasting: bool = True):
        self.path = path
        self.given = given
        #: Whether systemd has made it.
        self.systemd = lasting and given is not None
        self.lasting = self.systemd
        self._identity: tuple[int, int] | None = None

    def put_in_place(self, temporary: str) -> None:
        """Rename what was created at *temporary* to `path`, unless systemd made it.

        :raises OSError: if that fails; *temporary* is removed then.
        """
        found = os.stat(temporary if self.given is None else self.path)
        self._identity = (found.st_dev, found.st_ino)
        if self.given is not None:
            return
        try:
            os.rename(temporary, self.path)
        except OSError:
            self._identity = None
            os.unlink(temporary)
            raise

    @property
    def is_open(self) -> bool:
        """Whether `put_in_place` has succeeded."""
        return self._identity is not None

    @property
    def in_place(self) -> bool:
        """Whether `path` still names what `put_in_place` has found or renamed."""
        try:
            found = os.stat(self.path)
        except OSError:
            return False
        return (found.st_dev, found.st_ino) == self._identity

    def open(self) -> None:
        """Create the door and watch it.

        :raises OSError: if that fails.
        """

    def close(self) -> None:
        """Answer the requests that have arrived, then remove the door."""

    def admit(self) -> None:
        """Set its permissions as `Settings.allowed_peers` requires."""

    def leave(self) -> bool:
        """Read nothing more from a door that another service reads on.

        :returns: whether a client has connected and sent no request yet.
        """
        return False

    @property
    def descriptor(self) -> int:
        """What it is read by."""
        return -1

    @property
    def unasked(self) -> bool:
        """Whether a client has connected and sent no request yet."""
        return False

    def read_on(self) -> None:
        """Read again after `leave`."""

    def sweep(self) -> None:
        """Drop clients that have not sent their request in time."""

    def remove(self) -> None:
        """Remove the file, unless systemd made it or another one has replaced it."""
        if self.lasting:
            self.leave()
        elif self.in_place:
            with contextlib.suppress(OSError):
                os.unlink(self.path)
        self._identity = None


class Doors:
    """All the doors of a service."""

    def __init__(self, *doors: Door):
        self._doors = doors

    @property
    def names(self) -> list[str]:
        """The names of the open doors."""
        return [door.name for door in self._doors if door.is_open]

    @property
    def lasting(self) -> list[str]:
        """The paths of the doors that systemd made."""
        return [door.path for door in self._doors if door.lasting]

    def open(self) -> None:
        """Open all doors.

        :raises OSError: if one cannot be opened.
        """
        for door in self._doors:
            door.open()

    def admit(self) -> None:
        """Call `Door.admit` of the open doors."""
        for door in self._doors:
            if door.is_open:
                door.admit()

    def sweep(self) -> str | None:
        """Call `Door.sweep`; the path of a door that was replaced, or None."""
        for door in self._doors:
            if door.is_open and not door.in_place:
                return door.path
            door.sweep()
        return None

    def leave(self) -> bool:
        """Call `Door.leave` of the doors that last."""
        unasked = False
        for door in self._doors:
            if door.lasting and door.is_open and door.leave():
                unasked = True
        return unasked

    @property
    def unasked(self) -> bool:
        """Whether a client has connected and sent no request yet."""
        return any(door.unasked for door in self._doors)

    def copies(self) -> list[int]:
        """Copies of the descriptors of all doors.

        :raises OSError: if there is no room for them.
        """
        return [os.dup(door.descriptor) for door in self._doors]

    def hand_over(self) -> None:
        """Leave all doors to another service."""
        for door in self._doors:
            door.lasting = True
            door.leave()

    def take_again(self) -> None:
        """Read on: nobody has taken them over."""
        for door in self._doors:
            door.lasting = door.systemd
            door.read_on()

    def close(self) -> None:
        """Close all doors."""
        for door in self._doors:
            door.close()
