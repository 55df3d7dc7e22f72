# SPDX-License-Identifier: GPL-2.0-or-later

"""Start bzr+ssh connections at once, from one process that has Breezy loaded.

Without lpserve, a server starts Breezy for each bzr+ssh connection, which
takes longer than the work of most connections. lpserve keeps one process that
has Breezy loaded, and forks a worker from it for each connection.

breezy.conf says what the service serves, and a client without a service::

    [DEFAULT]
    lpserve.directory = /srv/bzr
    lpserve.allow_writes = True

The service::

    brz lp-serve --fork-server

OpenSSH runs the client instead of 'bzr serve --inet'. A line for it in
~/.ssh/authorized_keys of the account that hosts the branches (if sshd's PATH
does not have the program, give its full path)::

    command="lp-serve-client alice",restrict ssh-ed25519 AAAA... alice

Without OpenSSH, or beside it, lpserve has an SSH server that asks the service
itself. Its users need no accounts on the system. It needs Twisted::

    brz lp-serve-ssh --listen=0.0.0.0:5022 --authorized-keys=/etc/lpserve/keys

The administrator sees the state of the service, and what is wrong with the
installation, with::

    brz lp-serve-control status
    brz lp-serve-setup check

and takes the host out of service, until 'resume', and while no service runs::

    brz lp-serve-control drain back at noon

All options can be set in breezy.conf of the account that runs the service;
clients read it, too, to find the service. Options on the command line take
precedence, also as in 'brz -Olpserve.max_workers=5 lp-serve --fork-server':

:lpserve.runtime_dir:
    Where service and clients meet. The default is $LPSERVE_RUNTIME_DIR, else
    $RUNTIME_DIRECTORY, else /run/lpserve for root, else
    $XDG_RUNTIME_DIR/lpserve, else ~/.cache/breezy/lpserve.
:lpserve.directory:
    What is served. %u stands for the user: /srv/bzr/%u.
:lpserve.allow_writes:
    Whether clients may change it (False).
:lpserve.access:
    A file of rules, as an absolute path: who may read what, who may write what
    (everybody may read everything, and write it if allow_writes says so). See
    below.
:lpserve.client_timeout:
    Seconds until an idle client is disconnected (serve.client_timeout: 300).
:lpserve.request_timeout:
    Seconds within a request without a byte from the client, or without room
    for its answer, until it is disconnected (60; 0 means never).
:lpserve.connect_timeout:
    Seconds that client and worker wait for each other (30).
:lpserve.shutdown_timeout:
    Seconds that a shutdown waits for running connections (300).
:lpserve.max_workers:
    Connections that may be open at once (2000; 0 means no limit).
:lpserve.max_workers_per_user:
    As many of one user (0: no limit).
:lpserve.max_workers_per_address:
    As many from one address of ssh clients (0: no limit).
:lpserve.queue_timeout:
    Seconds that one more connection waits for a place, until it is refused with
    "the server is full, try again later" (10). A free place goes to the user
    with the fewest connections.
:lpserve.spare_workers:
    Workers that wait for connections, already forked (2).
:lpserve.max_spare_workers:
    The most workers that wait when many connections arrive (16).
:lpserve.allowed_peers:
    Users whose processes may use the socket, besides root and the user of the
    service (none).
:lpserve.service_user:
    A user whose service a client trusts at the socket, besides root and its
    own user: a name in /etc/passwd, or a uid (none).
:lpserve.hangup_timeout:
    Seconds that a worker may go on after its client at the socket has gone
    (60).
:lpserve.worker_memory:
    MiB of memory of one connection, besides what all share (0: no limit).
:lpserve.sandbox:
    What the kernel denies workers (Landlock, Linux 5.19). "writes": to change
    files other than what is served and what a worker needs (brz.log, temporary
    files). "strict": also to read other files than these, programs, /etc and
    breezy.conf; with %u in lpserve.directory a worker reaches only the
    directory of its user. "off": nothing. The default, "auto", is "writes",
    but "off" with plug-ins that do not come with Breezy. In the sandbox setuid
    has no effect, so that a plug-in cannot send mail with sendmail (nor can
    Breezy's email plug-in, unless post_commit_mailer = smtplib). The sandbox
    does not restrict changes of the modes and times of files, the network, and
    sockets that have a path.
:lpserve.sandbox_paths:
    Further absolute paths that workers may use: the targets of links that
    leave lpserve.directory, files that plug-ins write. In
    "/srv/notes, /opt/hooks:ro" the first is writable, the second read-only
    (none).
:lpserve.warm_repositories:
    The number of repositories that are kept in memory, those used last (16; 0
    means none).
:lpserve.warm_memory:
    MiB of memory for all of them (256).
:lpserve.warm_preload:
    Repositories, as real absolute paths, that are kept from the start (none).
:lpserve.warm_network:
    Whether repositories on network file systems are kept in memory, too
    (False). See "Several hosts" in the manual.
:lpserve.stream_order:
    The order in which clients get revisions of a repository in their own
    format. "blocks", the default, sends each compressed block of the repository
    once; "breezy" is Breezy's order, which sends many of them again and again.
:lpserve.stream_cache:
    The directory in which streams of revisions that were asked for before are
    kept, so that they are made once: an absolute path, not inside what is
    served, or "off" (streams in $CACHE_DIRECTORY, which systemd sets, else
    lpserve/streams in $XDG_CACHE_HOME or ~/.cache).
:lpserve.stream_cache_size:
    MiB of disk for all of them (1024). Those not used for longest go first; at
    least 1 GiB of the disk, or 5 % of it, stays free.
:lpserve.stream_cache_occurrences:
    A stream is kept when it was asked for so often (2).
:lpserve.max_streams_at_once:
    Streams that are made at once (0: no limit). A place goes to the user for
    whom the fewest are made. Kept ones that are served are not counted.
:lpserve.warm_interval:
    Seconds between two rounds of loading repositories that were used or have
    changed (10).
:lpserve.warm_report_interval:
    Seconds between a worker's reports of the repositories that it uses (60).
:lpserve.history:
    How many ended connections "lp-serve-control history" shows (1000).
:lpserve.access_log:
    A file that gets a line of JSON for each connection at its end: times,
    user, address, door, repositories, verbs, bytes, CPU, memory and exit. An
    absolute path, not inside what is served. Lines for which there is no room
    are left out and counted. After the file was moved away,
    "lp-serve-control reopen", SIGUSR1 or a reload opens a new one (none).
:lpserve.environment:
    Variables that a request may set in its worker (BRZ_EMAIL, LANG, LC_ALL,
    LC_CTYPE, TZ, SSH_CLIENT, SSH_CONNECTION, SSH_ORIGINAL_COMMAND).
:lpserve.autostart:
    Whether a client starts the service if there is none (False).
:lpserve.fallback:
    Whether a client, and lp-serve-ssh, serve a connection themselves where
    there is no service (True); --no-fallback goes before it.
:lpserve.log_file:
    The log file of a service in the background (lpserve.log beside brz.log). A
    reload opens it again after it was moved away.

With systemd (the units are in deploy/), requests wait while the service
restarts, and repositories stay in memory.

In the file of lpserve.access, which is as that of bzr_access, a section is a
path below lpserve.directory, as it is in the file system::

    [groups]
    devels = beta, gamma
    [/]
    * = r
    [/project]
    @devels = rw
    mallory =
    [/home/%u]
    %u = rw

A line is about a user, a @group, * (everybody), or %u: whose name is in the
path, in a section with %u. It says rw, r, or nothing, which is no access. Of
the sections of a path and of the directories above it, the last one that has a
line for the user decides; in it the user's own line, else those of his groups
(the most generous), else that of *. Without a line there is no access. With
allow_writes = False nobody may write.

What a user may not read is not there for him; but a directory above something
that he may read is, with nothing else in it. What is in .bzr or .git has the
rules of the directory that it is in. To write to a branch whose revisions are
in a shared repository takes rw there too, and whoever may read that may read
all revisions in it. Links have the rules of the place inside that they lead to.

The file must belong to root or the account, be writable by nobody else, and not
be in lpserve.directory. An edit holds for the connections after it. If it is
wrong, the rules before it stay; at a start nobody is let in. What decides, and
what is wrong with a file, says::

    brz lp-serve-control access mallory /project/trunk
    brz lp-serve-control access --check=/etc/lpserve/access.conf

For hooks and plug-ins, LPSERVE_USER in the environment is the user of the
connection; no request can set it. BRZ_EMAIL, the author of commits, is USER
unless the request sets it; do not use it to grant access.

And for 'brz lp-serve-ssh':

:lpserve.listen:
    Where it listens (127.0.0.1:5022).
:lpserve.host_key:
    Its private key (lpserve/ssh_host_ed25519_key beside breezy.conf).
:lpserve.authorized_keys:
    A directory with an authorized_keys file for each user
    (lpserve/authorized_keys beside breezy.conf).
:lpserve.shared_account:
    The account as which every user may log in; the key tells which user it is
    (bzr).
:lpserve.ssh_processes:
    Processes that serve connections (1), or auto: one for each processor.
:lpserve.proxy_protocol_from:
    Addresses and networks of proxies, such as HAProxy, that send a header of
    the PROXY protocol, version 1 or 2 (none). Log, limits, penalties and
    SSH_CONNECTION then have the client's own address.
:lpserve.login_grace_time:
    Seconds that a client has to log in (60).
:lpserve.max_startups:
    Clients that may be logging in at once, as start:rate:full of sshd_config
    (10:30:500: from 10 on 30% of new ones are dropped, from 500 on all).
:lpserve.per_source_max_startups:
    The same from one source (one fewer than the start of max_startups).
:lpserve.per_source_netblock_size:
    Bits of an address of IPv4 and IPv6 that make a source (32:128).
:lpserve.per_source_penalties:
    How long a source whose clients do not log in is refused; words as in
    sshd_config (authfail:5s invaliduser:5s grace-exceeded:10s noauth:1s
    min:15s max:10m), or no.
:lpserve.per_source_penalty_exempt_list:
    Addresses and networks that get no penalties (none).
:lpserve.max_auth_tries:
    Failed logins after which a client is disconnected (6).
:lpserve.keepalive_interval:
    Seconds between two keepalive messages to a client (60).

And for 'brz lp-serve-exporter', which gives Prometheus metrics of all this, and
load balancers /healthz:

:lpserve.agent_listen:
    Where the service answers HAProxy's agent check: ADDRESS:PORT (nowhere).
:lpserve.exporter_listen:
    Where it listens (127.0.0.1:9852).
"""

from breezy import config
from breezy.commands import plugin_cmds

version_info = (0, 1, 0, "dev", 0)
__version__ = "0.1.0.dev0"

for _name, _module in (
    ("cmd_lp_serve", "serve"),
    ("cmd_lp_serve_client", "client"),
    ("cmd_lp_serve_control", "control"),
    ("cmd_lp_serve_setup", "setup"),
    ("cmd_lp_serve_ssh", "ssh"),
    ("cmd_lp_serve_exporter", "exporter"),
):
    plugin_cmds.register_lazy(_name, [], f"{__name__}.lpserve.cmds.{_module}")

#: The configuration options, without the "lpserve." before them.
OPTIONS = (
    "runtime_dir",
    "directory",
    "allow_writes",
    "access",
    "client_timeout",
    "request_timeout",
    "connect_timeout",
    "shutdown_timeout",
    "max_workers",
    "max_workers_per_user",
    "max_workers_per_address",
    "queue_timeout",
    "spare_workers",
    "max_spare_workers",
    "allowed_peers",
    "service_user",
    "hangup_timeout",
    "worker_memory",
    "sandbox",
    "sandbox_paths",
    "warm_repositories",
    "warm_memory",
    "warm_preload",
    "warm_network",
    "stream_order",
    "stream_cache",
    "stream_cache_size",
    "stream_cache_occurrences",
    "max_streams_at_once",
    "warm_interval",
    "warm_report_interval",
    "history",
    "access_log",
    "environment",
    "autostart",
    "fallback",
    "log_file",
    "listen",
    "host_key",
    "authorized_keys",
    "shared_account",
    "ssh_processes",
    "proxy_protocol_from",
    "login_grace_time",
    "max_startups",
    "per_source_max_startups",
    "per_source_netblock_size",
    "per_source_penalties",
    "per_source_penalty_exempt_list",
    "max_auth_tries",
    "keepalive_interval",
    "exporter_listen",
    "agent_listen",
)
for _name in OPTIONS:
    config.option_registry.register_lazy(
        "lpserve." + _name, __name__ + ".lpserve.options", _name
    )
del _name, _module


def load_tests(loader, basic_tests, pattern):
    """Add the tests of the plug-in to 'brz selftest'."""
    basic_tests.addTest(loader.loadTestsFromModuleNames([__name__ + ".tests"]))
    return basic_tests
