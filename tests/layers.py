# Copyright (C) 2026 The lpserve developers
#
# This program is free software; you can redistribute it and/or modify
# it under the terms of the GNU General Public License as published by
# the Free Software Foundation; either version 2 of the License, or
# (at your option) any later version.

"""The layers of the house; ``test_source.py`` checks that they are kept."""

#: Each module of the plug-in may import those above it, and none below.
LAYERS = (
    "errors",
    "location",
    "relay",
    "sshcommand",
    "conversation",
    "socketconversation",
    "autostart",
    "client",
    "wire",
    "loop",
    "channel",
    "paths",
    "descriptors",
    "logs",
    "pidfile",
    "system",
    "shortage",
    "oomscore",
    "children",
    "doors",
    "peers",
    "stdio",
    "socketdoor",
    "generation",
    "zygotes",
    "warmset",
    "warmer",
    "connection",
    "demand",
    "revisiongraph",
    "pool",
    "stuck",
    "loginrules",
    "sshlimits",
    "patience",
    "landlock",
    "report",
    "root",
    "brzlog",
    "options",
    "settings",
    "advice",
    "intake",
    "memorylimit",
    "containment",
    "answers",
    "plugins",
    "medium",
    "serving",
    "sandbox",
    "confine",
    "reset",
    "warm",
    "wrapping",
    "warmload",
    "worker",
    "rehearsal",
    "zygote",
    "reloads",
    "verbs",
    "housekeeping",
    "server",
    "start",
    "fifos",
    "pipes",
    "asking",
    "conch",
    "authorizedkeys",
    "keydirectory",
    "sshrecord",
    "sshkeys",
    "sshsession",
    "sshconnection",
    "sshpeer",
    "sshserver",
    "sshstart",
    "program",
    "cmds",
)

#: The Conch server and the transport for others: Twisted is an extra.
WITH_TWISTED = (
    "fifos",
    "pipes",
    "asking",
    "conch",
    "sshkeys",
    "sshsession",
    "sshconnection",
    "sshpeer",
    "sshserver",
    "sshstart",
)

#: They get along without Breezy: the service itself, and what it is made of.
WITHOUT_BREEZY = (
    *LAYERS[: LAYERS.index("root") + 1],
    "reloads",
    "verbs",
    "housekeeping",
    "server",
)

#: The stand-alone client: the standard library and each other.
CLIENT = (
    "client",
    "autostart",
    "conversation",
    "socketconversation",
    "relay",
    "location",
    "sshcommand",
)
