# SPDX-License-Identifier: GPL-2.0-or-later

"""Declares the configuration options ``lpserve.*``; `settings` reads their values."""

from __future__ import annotations

from typing import Any

from breezy import config

from .location import CONNECT_TIMEOUT, ENVIRONMENT
from .loginrules import (
    parse_max_startups,
    parse_netblock_size,
    parse_networks,
    parse_penalties,
    parse_per_source,
)
from .optionvalues import (
    absolute,
    count,
    positive,
    processes,
    sandbox_mode,
    seconds,
    stream_cache_place,
    stream_order_name,
)

#: The new names of options that were renamed.
RENAMED = {"max_unauthenticated": "max_startups"}


def _option(name: str, help: str, **keywords: Any) -> config.Option:
    return config.Option(f"lpserve.{name}", help=help, invalid="error", **keywords)


runtime_dir = _option(
    "runtime_dir",
    "The directory in which the fork service and its clients meet.",
)
directory = _option(
    "directory",
    "The directory that is served; %u in it stands for the user, %% for a %.",
)
allow_writes = _option(
    "allow_writes",
    "Whether clients may change what is served. The default is read-only.",
    default=False,
    from_unicode=config.bool_from_store,
)
access = _option(
    "access",
    "The file of rules that say who may read and write what, as an absolute path. "
    "Without it everybody who may connect may read all of it.",
    from_unicode=absolute,
)
client_timeout = _option(
    "client_timeout",
    "Seconds without a request until a client is given up. The default is that "
    "of 'brz serve' (serve.client_timeout).",
    from_unicode=seconds,
)
request_timeout = _option(
    "request_timeout",
    "Seconds without a byte from a client in the middle of its request, or without "
    "room for its answer, until it is given up. 0 means never.",
    default=60.0,
    from_unicode=seconds,
)
connect_timeout = _option(
    "connect_timeout",
    "Seconds until a client or a worker stops waiting for the other.",
    default=CONNECT_TIMEOUT,
    from_unicode=seconds,
)
shutdown_timeout = _option(
    "shutdown_timeout",
    "Seconds that a shutdown lets running connections finish before it ends them.",
    default=300.0,
    from_unicode=seconds,
)
max_workers = _option(
    "max_workers",
    "How many connections may be open at once; more wait for queue_timeout. 0 means no "
    "limit.",
    default=2000,
    from_unicode=count,
)
max_workers_per_user = _option(
    "max_workers_per_user",
    "How many of them may be of one user. 0 means no limit.",
    default=0,
    from_unicode=count,
)
max_workers_per_address = _option(
    "max_workers_per_address",
    "How many of them may come from one address, as sshd or lp-serve-ssh tells it. 0 "
    "means no limit.",
    default=0,
    from_unicode=count,
)
queue_timeout = _option(
    "queue_timeout",
    "Seconds that a connection waits for a place when there are max_workers, until it "
    "is refused. It should be less than connect_timeout, for which clients wait.",
    default=10.0,
    from_unicode=seconds,
)
spare_workers = _option(
    "spare_workers",
    "How many workers wait for the next connections, already forked, when there "
    "are few connections. With 0 a worker is forked when it is asked for.",
    default=2,
    from_unicode=count,
)
max_spare_workers = _option(
    "max_spare_workers",
    "How many workers may wait for the next connections when many arrive.",
    default=16,
    from_unicode=count,
)
allowed_peers = config.ListOption(
    "lpserve.allowed_peers",
    default="",
    help="The users, beside root and that of the service itself, whose processes "
    "may ask at the socket, for a worker for any USER and for all else.",
)
service_user = _option(
    "service_user",
    "Whose service a client trusts, beside root's and that of its own user: a name "
    "in /etc/passwd, or a uid.",
)
hangup_timeout = _option(
    "hangup_timeout",
    "Seconds that a worker may go on after the client that asked for it at the "
    "socket has gone.",
    default=60.0,
    from_unicode=seconds,
)
worker_memory = _option(
    "worker_memory",
    "How many MiB of memory one connection may take, beside what all workers share. "
    "0 means no limit.",
    default=0,
    from_unicode=count,
)
sandbox = _option(
    "sandbox",
    "What the kernel keeps workers from: 'writes' to anything but what is served, and "
    "'strict' from reading anything else either; 'off'; 'auto' is 'writes', but 'off' "
    "with plug-ins that do not come with Breezy.",
    default="auto",
    from_unicode=sandbox_mode,
)
sandbox_paths = config.ListOption(
    "lpserve.sandbox_paths",
    default="",
    help="Absolute paths that workers may also write to, or, with ':ro' after them, "
    "also read.",
)
warm_repositories = _option(
    "warm_repositories",
    "How many repositories, those used last, are kept in memory for later "
    "connections. 0 means none.",
    default=16,
    from_unicode=count,
)
warm_memory = _option(
    "warm_memory",
    "How many MiB of memory they may take in all.",
    default=256,
    from_unicode=count,
)
warm_preload = config.ListOption(
    "lpserve.warm_preload",
    default="",
    help="Repositories, as real absolute paths, that are kept in memory from the "
    "start, used or not.",
)
warm_network = _option(
    "warm_network",
    "Whether repositories on network file systems (NFS, CIFS, 9p, FUSE...) are kept in "
    "memory, too. Change times, by which changes are seen, may come late there.",
    default=False,
    from_unicode=config.bool_from_store,
)
stream_order = _option(
    "stream_order",
    "The order in which clients get revisions of a repository in their own format: "
    "'blocks' sends each block of the repository once; 'breezy' is Breezy's order.",
    default="blocks",
    from_unicode=stream_order_name,
)
stream_cache = _option(
    "stream_cache",
    "The directory of kept streams, as an absolute path; 'off': none are kept. The "
    "default is lpserve/streams in $XDG_CACHE_HOME or ~/.cache.",
    from_unicode=stream_cache_place,
)
stream_cache_size = _option(
    "stream_cache_size",
    "How many MiB of disk kept streams may take in all.",
    default=1024,
    from_unicode=count,
)
stream_cache_occurrences = _option(
    "stream_cache_occurrences",
    "How often the same stream must be asked for until it is kept.",
    default=2,
    from_unicode=positive,
)
max_streams_at_once = _option(
    "max_streams_at_once",
    "How many streams are made at once; who asks for one more waits. Kept ones that "
    "are served are not counted. 0 means no limit.",
    default=0,
    from_unicode=count,
)
warm_interval = _option(
    "warm_interval",
    "Seconds from one time that repositories are loaded into memory, because they "
    "were used or have changed, to the next.",
    default=10.0,
    from_unicode=seconds,
)
warm_report_interval = _option(
    "warm_report_interval",
    "Seconds between a worker's reports of the repositories that it uses, while "
    "its connection lasts.",
    default=60.0,
    from_unicode=seconds,
)
history = _option(
    "history",
    "How many connections that have ended 'lp-serve-control history' knows of.",
    default=1000,
    from_unicode=count,
)
access_log = _option(
    "access_log",
    "The file to which a line of JSON is written for each connection that has ended, "
    "as an absolute path outside of what is served. The default is none.",
)
environment = config.ListOption(
    "lpserve.environment",
    default=",".join(ENVIRONMENT),
    help="The environment variables that a request may set in its worker.",
)
autostart = _option(
    "autostart",
    "Whether a client starts the service if it is not running.",
    default=False,
    from_unicode=config.bool_from_store,
)
fallback = _option(
    "fallback",
    "Whether a client serves the connection itself where there is no service.",
    default=True,
    from_unicode=config.bool_from_store,
)
log_file = _option(
    "log_file",
    "Where 'lp-serve --fork-server --daemon' logs. The default is lpserve.log "
    "beside brz.log.",
)

listen = _option(
    "listen",
    "Where 'lp-serve-ssh' listens: HOST:PORT.",
    default="127.0.0.1:5022",
)
host_key = _option(
    "host_key",
    "The file with the private key of 'lp-serve-ssh', which is made if there is "
    "none. The default is lpserve/ssh_host_ed25519_key beside breezy.conf.",
)
authorized_keys = _option(
    "authorized_keys",
    "A directory with an authorized_keys file for each user, named like the user. "
    "The default is lpserve/authorized_keys beside breezy.conf.",
)
shared_account = _option(
    "shared_account",
    "The account as which every user may log in, to be known by the key.",
    default="bzr",
)
ssh_processes = _option(
    "ssh_processes",
    "How many processes of 'lp-serve-ssh' serve connections; 'auto': one for each "
    "processor that it may use.",
    default="1",
    from_unicode=processes,
)
proxy_protocol_from = _option(
    "proxy_protocol_from",
    "Addresses and networks, such as 192.0.2.7, of proxies whose connections to "
    "'lp-serve-ssh' begin with a header of the PROXY protocol (HAProxy's send-proxy or "
    "send-proxy-v2), which names the client.",
    default="",
    from_unicode=parse_networks,
)
login_grace_time = _option(
    "login_grace_time",
    "Seconds that a client of 'lp-serve-ssh' has to log in. 0 means for ever.",
    default=60.0,
    from_unicode=seconds,
)
max_startups = _option(
    "max_startups",
    "How many clients of 'lp-serve-ssh' may be about to log in at once. With "
    "start:rate:full, as in sshd_config, a client is dropped with a probability of "
    "rate/100 when there are start of them, and more probably the more there are; "
    "every one is when there are full.",
    default="10:30:500",
    from_unicode=parse_max_startups,
)
per_source_max_startups = _option(
    "per_source_max_startups",
    "How many of them may come from one source. The default is one fewer than the "
    "start of max_startups; 'none' means no limit.",
    from_unicode=parse_per_source,
)
per_source_netblock_size = _option(
    "per_source_netblock_size",
    "How many bits of a client's address, of IPv4 and of IPv6, make a source.",
    default="32:128",
    from_unicode=parse_netblock_size,
)
per_source_penalties = _option(
    "per_source_penalties",
    "For how long 'lp-serve-ssh' refuses a source that does not log in, as in "
    "sshd_config: words such as authfail:5s, invaliduser:5s, grace-exceeded:10s, "
    "noauth:1s, min:15s, max:10m, max-sources4:65536, max-sources6:65536 and "
    "overflow:permissive, which are the defaults, or 'no'.",
    default="yes",
    from_unicode=parse_penalties,
)
per_source_penalty_exempt_list = _option(
    "per_source_penalty_exempt_list",
    "Addresses and networks, such as 10.0.0.0/8, that get no penalties.",
    default="",
    from_unicode=parse_networks,
)
max_auth_tries = _option(
    "max_auth_tries",
    "How often a client of 'lp-serve-ssh' may fail to log in until it is disconnected.",
    default=6,
    from_unicode=positive,
)
keepalive_interval = _option(
    "keepalive_interval",
    "Seconds after which 'lp-serve-ssh' asks a client whether it is still there; "
    "three times without an answer, and it is disconnected. 0 means never.",
    default=60.0,
    from_unicode=seconds,
)

agent_listen = _option(
    "agent_listen",
    "Where the service answers HAProxy's agent check: ADDRESS:PORT. The answer is how "
    "the host is (up, drain, maint, down), and which part of max_workers is free.",
)

exporter_listen = _option(
    "exporter_listen",
    "Where 'lp-serve-exporter' listens: HOST:PORT.",
    default="127.0.0.1:9852",
)
