# SPDX-License-Identifier: GPL-2.0-or-later

"""Which requests get blocks."""

from breezy.bzr.groupcompress_repo import GroupCHKStreamSource
from breezy.controldir import format_registry

from ...lpserve.streams import wrapping
from ...lpserve.streams.source import BlockSource
from .streamcase import StreamCase


class TestSourceOf(StreamCase):
    def source(self, repository, to_format):
        original = type(repository)._get_source
        return wrapping._source_of(original, repository, to_format)

    def test_to_client(self):
        self.repository._lpserve_to_client = True
        made = self.source(self.repository, self.repository._format)
        self.assertIsInstance(made, BlockSource)

    def test_to_repository(self):
        made = self.source(self.repository, self.repository._format)
        self.assertIs(GroupCHKStreamSource, type(made))

    def test_other_format(self):
        self.repository._lpserve_to_client = True
        for name in ("1.14", "pack-0.92"):
            other = format_registry.make_controldir(name).repository_format
            self.assertNotIsInstance(self.source(self.repository, other), BlockSource)

    def test_stacked(self):
        """What lies in another repository is sent in Breezy's order."""
        self.make_history(2)
        stacked = self.tree.branch.controldir.sprout("stacked", stacked=True)
        repository = stacked.open_branch().repository
        repository._lpserve_to_client = True
        made = self.source(repository, repository._format)
        self.assertIs(GroupCHKStreamSource, type(made))
