# SPDX-License-Identifier: GPL-2.0-or-later

"""Start bzr+ssh connections at once, from one process that has Breezy loaded.

Every bzr+ssh connection makes its server start Breezy anew, which takes longer
than what most connections are for. lpserve keeps one process that has it
loaded and forks a worker for each connection.

What is served is said in breezy.conf, for the service, and for a client that
has to do without one::

    [DEFAULT]
    lpserve.directory = /srv/bzr
    lpserve.allow_writes = True

The service::

    brz lp-serve --fork-server

The client, which OpenSSH runs instead of 'bzr serve --inet'; a line of
~/.ssh/authorized_keys of the account that hosts the branches (with the full
path of the program: sshd looks for it in few places)::

    command="lp-serve-client alice",restrict ssh-ed25519 AAAA... alice

Without OpenSSH, or beside it, there is an SSH server that asks the service
itself, for users that need no account of their own (it needs Twisted)::

    brz lp-serve-ssh --listen=0.0.0.0:5022 --authorized-keys=/etc/lpserve/keys

And the administrator's view of it::

    brz lp-serve-control status

Everything can be set in breezy.conf of the account that runs it, which is also
how the client finds the service. Command-line options go before it, and so do
settings as in 'brz -Olpserve.max_workers=5 lp-serve --fork-server':

:lpserve.runtime_dir:
    Where service and clients meet. The default is $LPSERVE_RUNTIME_DIR, else
    $RUNTIME_DIRECTORY, else /run/lpserve for root, else
    $XDG_RUNTIME_DIR/lpserve, else ~/.cache/breezy/lpserve.
:lpserve.directory:
    What is served. %u stands for the user: /srv/bzr/%u.
:lpserve.allow_writes:
    Whether clients may change it (False).
:lpserve.client_timeout:
    Seconds until an idle client is given up (serve.client_timeout: 300).
:lpserve.request_timeout:
    Seconds in the middle of a request without a byte from the client, or
    without room for its answer, until it is given up (60; 0 means never).
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
    As many at most when many connections arrive (16).
:lpserve.allowed_peers:
    Users whose processes may ask at the socket, beside root and the service's
    own (none).
:lpserve.service_user:
    Whose service a client trusts at the socket, beside root's and its own
    user's: a name in /etc/passwd, or a uid (none).
:lpserve.hangup_timeout:
    Seconds that a worker may go on without its client at the socket (60).
:lpserve.worker_memory:
    MiB that one connection may take beside what all share (0: no limit).
:lpserve.sandbox:
    What the kernel (Landlock, Linux 5.19) keeps workers from. "writes": from
    changing anything but what is served, and what a worker needs (brz.log,
    temporary files). "strict": from reading anything else, too, but programs,
    /etc and breezy.conf; with %u in lpserve.directory each reaches its user's
    only. "off". The default, "auto", is "writes", but "off" with plug-ins that
    do not come with Breezy: what they run gets no privileges as setuid, and a
    mail sent with sendmail needs them (so does one of Breezy's own email
    plug-in, unless post_commit_mailer = smtplib). The modes and times of
    files, the network and sockets that have a path are not the kernel's
    business here.
:lpserve.sandbox_paths:
    Absolute paths that they may use besides: where links lead that leave
    lpserve.directory, where plug-ins write. "/srv/notes, /opt/hooks:ro": the
    first may be written, the second only read (none).
:lpserve.warm_repositories:
    Repositories that are kept in memory, those used last (16; 0 means none).
:lpserve.warm_memory:
    MiB that they may take in all (256).
:lpserve.warm_preload:
    Repositories, as real absolute paths, that are kept from the start (none).
:lpserve.warm_interval:
    Seconds from one loading of what was used or has changed to the next (10).
:lpserve.warm_report_interval:
    Seconds between a worker's reports of what it uses (60).
:lpserve.environment:
    Variables that a request may set in its worker (BRZ_EMAIL, LANG, LC_ALL,
    LC_CTYPE, TZ, SSH_CLIENT, SSH_CONNECTION, SSH_ORIGINAL_COMMAND).
:lpserve.autostart:
    Whether a client starts the service if there is none (False).
:lpserve.fallback:
    Whether a client serves the connection itself where there is no service
    (True); --no-fallback goes before it.
:lpserve.log_file:
    Where a service in the background logs (lpserve.log beside brz.log). One
    that was moved away is made anew at a reload.

Hooks and plug-ins find out for whom they run from LPSERVE_USER in the
environment, which no request can set. BRZ_EMAIL is what a commit is labelled
with: USER unless the request says something else, so nothing should be allowed
because of it.

And for 'brz lp-serve-ssh':

:lpserve.listen:
    Where it listens (127.0.0.1:5022).
:lpserve.host_key:
    Its private key (lpserve/ssh_host_ed25519_key beside breezy.conf).
:lpserve.authorized_keys:
    A directory with an authorized_keys file for each user
    (lpserve/authorized_keys beside breezy.conf).
:lpserve.shared_account:
    The account as which everybody may log in, to be known by the key (bzr).
:lpserve.login_grace_time:
    Seconds that a client has to log in (60).
:lpserve.max_startups:
    Clients that may be about to log in at once; start:rate:full as in
    sshd_config (10:30:500: of more than 10 about every third is dropped, of 500
    everyone).
:lpserve.per_source_max_startups:
    Of these from one source (one fewer than the start of max_startups).
:lpserve.per_source_netblock_size:
    Bits of an address of IPv4 and IPv6 that make a source (32:128).
:lpserve.per_source_penalties:
    How long a source is refused that does not log in; words as in sshd_config
    (authfail:5s invaliduser:5s grace-exceeded:10s noauth:1s min:15s max:10m),
    or no.
:lpserve.per_source_penalty_exempt_list:
    Addresses and networks that get no penalties (none).
:lpserve.max_auth_tries:
    How often a client may fail to log in until it is disconnected (6).
:lpserve.keepalive_interval:
    Seconds between two questions whether a client is still there (60).
"""

from breezy import config
from breezy.commands import plugin_cmds

version_info = (0, 1, 0, "dev", 0)
__version__ = "0.1.0.dev0"

for _name, _module in (
    ("cmd_lp_serve", "serve"),
    ("cmd_lp_serve_client", "client"),
    ("cmd_lp_serve_control", "control"),
    ("cmd_lp_serve_ssh", "ssh"),
):
    plugin_cmds.register_lazy(_name, [], f"{__name__}.lpserve.cmds.{_module}")

#: The configuration options, without the "lpserve." before them.
OPTIONS = (
    "runtime_dir",
    "directory",
    "allow_writes",
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
    "warm_interval",
    "warm_report_interval",
    "environment",
    "autostart",
    "fallback",
    "log_file",
    "listen",
    "host_key",
    "authorized_keys",
    "shared_account",
    "login_grace_time",
    "max_startups",
    "per_source_max_startups",
    "per_source_netblock_size",
    "per_source_penalties",
    "per_source_penalty_exempt_list",
    "max_auth_tries",
    "keepalive_interval",
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
