# SPDX-License-Identifier: GPL-2.0-or-later

"""The architecture, as ``test_source.py`` checks it."""

#: What each folder may import, beside what is in it. "shared" and "settings" are the
#: modules beside the folders: see below. Nothing imports "cmds".
ARROWS = {
    "shared": (),
    "settings": ("shared",),
    # Every connection waits for what it imports.
    "client": ("location", "drained"),
    "service": ("shared", "settings"),
    "serving": ("shared",),
    "sandbox": ("shared", "settings"),
    "warm": ("shared", "serving"),
    "streams": ("shared", "serving", "warm"),
    "zygote": ("shared", "settings", "serving", "sandbox", "warm", "streams"),
    "conch": ("shared", "client"),
    "ssh": ("shared", "settings", "client", "conch"),
    "exporter": ("shared", "client"),
    "installation": ("shared", "settings", "client", "sandbox", "ssh"),
    "cmds": (
        *("shared", "settings", "client", "service", "serving", "sandbox"),
        *("zygote", "ssh", "exporter", "installation"),
    ),
}

#: What processes share. It knows neither Breezy nor a loop.
SHARED = (
    *("access", "accessfile", "accesssyntax"),
    *("addresses", "channel", "codestamp", "descriptors", "drained", "errors"),
    *("filestamp", "filesystem", "handover", "location", "loginrules", "logs"),
    *("mapping", "outbox", "paths", "report", "reportconnections", "reportstreams"),
    *("root", "scoreboard", "sshstate", "streamdirectory", "succession", "system"),
    *("systemd", "wire"),
)
#: What Breezy is asked about itself: its configuration, plug-ins, log and program.
SETTINGS = (
    *("advice", "brzlog", "options", "optionvalues", "plugins", "program"),
    "settings",
)

#: In each folder a module imports only those before it.
ORDERED = {
    "cmds": ("base", "serve", "client", "control", "ssh", "exporter", "setup"),
    "client": (
        *("relay", "sshcommand", "conversation", "socketconversation", "autostart"),
        *("refusal", "client", "health"),
    ),
    "service": (
        *("moments", "histograms", "board", "accesslog"),
        *("loop", "pidfile", "shortage", "oomscore", "processes", "children", "door"),
        *("doors", "drain", "peers"),
        *("stdio", "socketreply", "socketdoor", "generation", "accesswatch"),
        *("zygotes", "warmset", "warmstore", "warmer", "activation"),
        *("connection", "usages", "records", "accounts", "turns", "admission"),
        *("streamfiles", "streamstore", "streams", "demand"),
        *("missed", "pool", "ending", "stuck", "shutdown", "takeover"),
        *("agent", "upgrades", "applying", "workerreports", "following"),
        *("reloads", "accountverbs", "verbs", "housekeeping"),
        *("status", "server", "start"),
    ),
    "serving": (
        *(
            "patience",
            "outlet",
            "memorylimit",
            "intake",
            "permits",
            "links",
            "containment",
        ),
        "answers",
        *("medium", "noting", "adaptation", "smartserver", "knowncode"),
    ),
    "sandbox": ("landlock", "sandbox", "confine"),
    "warm": ("revisiongraph", "memory", "wrapping", "loader"),
    "streams": (
        *("places", "cutting", "blocks", "pages", "source"),
        *("asking", "key", "keptfile", "progress", "kept", "wrapping"),
    ),
    "zygote": ("reset", "worker", "rehearsal", "zygote"),
    "conch": ("fifos", "pipes", "refusing", "asking", "transport"),
    "ssh": (
        *("limits", "figures", "authorizedkeys", "keydirectory", "arrivals", "record"),
        *("keys", "session", "connection", "transport", "server", "gate"),
        *("proxyheader", "listening", "reactorloop", "predecessor", "upgrades"),
        *("front", "posting", "process", "processes", "start"),
    ),
    "exporter": (
        *("processes", "asking", "families", "ofservice", "ofssh", "collector", "web"),
        "start",
    ),
    "installation": (
        *("findings", "programs", "modes", "unitfiles", "place", "publickeys"),
        *("editing", "stores", "sshdsettings", "users", "templates"),
        *("checkconfiguration", "checkdirectories", "checkaccess", "checkprograms"),
        *(
            "checkunits",
            "checkstreams",
            "checksshd",
            "checkssh",
            "checkdoors",
            "check",
            "asaccount",
        ),
    ),
}

#: Of the service, what imports Breezy: it reads the settings and begins.
WITH_BREEZY = ("service.start",)

#: The only modules that import Twisted, which is an extra.
WITH_TWISTED = (
    *("conch.fifos", "conch.pipes", "conch.asking", "conch.transport", "ssh.keys"),
    *("ssh.session", "ssh.connection", "ssh.transport", "ssh.server", "ssh.start"),
    *("ssh.process", "ssh.proxyheader"),
)

#: The only modules that import prometheus_client, which is an extra.
WITH_PROMETHEUS = (
    *("exporter.families", "exporter.ofservice", "exporter.ofssh"),
    "exporter.collector",
)
