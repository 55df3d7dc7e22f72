# SPDX-License-Identifier: GPL-2.0-or-later

"""Where the files of packaging/ are, which are not installed."""

import os

from breezy.tests import features

from ..harness import PLUGIN

PACKAGING = os.path.join(PLUGIN, "packaging")


class _PackagingFeature(features.Feature):
    def _probe(self):
        return os.path.isdir(PACKAGING)

    def feature_name(self):
        return "the source of lpserve"


packaging = _PackagingFeature()


def read(*names):
    """The text of a file of the project."""
    with open(os.path.join(PLUGIN, *names), encoding="utf-8") as file:
        return file.read()
