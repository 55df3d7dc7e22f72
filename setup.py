#!/usr/bin/env python3
# Copyright (C) 2026 The lpserve developers
#
# This program is free software; you can redistribute it and/or modify
# it under the terms of the GNU General Public License as published by
# the Free Software Foundation; either version 2 of the License, or
# (at your option) any later version.

"""Installs the plug-in as ``breezy.plugins.lpserve``."""

import os
import re


def _version():
    """The version that ``__init__.py`` states; it cannot be imported here."""
    here = os.path.dirname(os.path.abspath(__file__))
    with open(os.path.join(here, "__init__.py"), encoding="utf-8") as source:
        return re.search(r'^__version__ = "(.*)"', source.read(), re.M).group(1)


brz_plugin_name = "lpserve"
brz_plugin_version = _version()
brz_commands = ["lp-serve", "lp-serve-client", "lp-serve-control", "lp-serve-ssh"]
brz_minimum_version = (3, 3, 0)
brz_maximum_version = None

_package = "breezy.plugins.lpserve"

if __name__ == "__main__":
    from setuptools import setup

    setup(
        name="brz-lpserve",
        version=brz_plugin_version,
        description="Start bzr+ssh connections at once: a fork server for Breezy",
        author="The lpserve developers",
        license="GPL-2.0-or-later",
        platforms=["Linux"],
        python_requires=">=3.10",
        package_dir={_package: "."},
        packages=[
            _package,
            f"{_package}.lpserve",
            f"{_package}.tests",
            f"{_package}.tests.blackbox",
            f"{_package}.tests.live",
        ],
        scripts=["bin/lp-serve-client"],
        install_requires=["breezy>=3.3,<3.4"],
        extras_require={
            "ssh": ["Twisted[conch]>=24.3"],
            "test": [
                "testtools>=2.5",
                "python-subunit>=1.4",
                "paramiko>=3",
                "Twisted[conch]>=24.3",
                "ruff>=0.6",
                "mypy>=1.8",
            ],
            "bench": ["matplotlib>=3.7"],
        },
    )
