# SPDX-License-Identifier: GPL-2.0-or-later

"""How Sphinx builds the manual: "make html", "make man"."""

import os
import re
import sys

_here = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(_here, "_ext"))

with open(os.path.join(_here, "..", "__init__.py"), encoding="utf-8") as _file:
    release = re.search(r'^__version__ = "(.*)"', _file.read(), re.M)[1]

project = "lpserve"
author = "The lpserve developers"
copyright = f"2026 {author}"
version = release
extensions = ["lpserve_manual"]
exclude_patterns = ["_build"]
highlight_language = "none"
smartquotes = False
# The dates in what is built are those of the source.
today_fmt = "%Y-%m-%d"

html_theme = "alabaster"
html_theme_options = {"description": "bzr+ssh connections that start at once"}
html_show_sphinx = False
html_copy_source = False

_pages = (
    ("lp-serve-client", "serve a bzr+ssh connection by a worker of lpserve", 1),
    ("brz-lp-serve", "serve bzr+ssh connections, or be the fork service", 1),
    ("brz-lp-serve-client", "serve a connection by a worker of the service", 1),
    ("brz-lp-serve-control", "ask the fork service, or tell it something", 1),
    ("brz-lp-serve-setup", "check an installation, let users in", 1),
    ("brz-lp-serve-ssh", "SSH server in front of the fork service", 1),
    ("brz-lp-serve-exporter", "metrics of the fork service for Prometheus", 1),
    ("lpserve.conf", "settings and access rules of lpserve", 5),
    ("brz-lpserve", "start bzr+ssh connections at once", 7),
)
man_pages = [(f"man/{name}", name, text, [], section) for name, text, section in _pages]
