# SPDX-License-Identifier: GPL-2.0-or-later

"""Reads the values of the configuration options."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from breezy import config, errors

from .. import OPTIONS
from .addresses import parse_ip_address
from .errors import ConfigurationError
from .location import CONNECT_TIMEOUT, runtime_directory
from .loginrules import NetBlockSize, Network, Penalties, Rules, Startups


@dataclass(frozen=True)
class Settings:
    """The values of the options; their help describes them."""

    runtime_dir: str | None
    directory: str | None
    allow_writes: bool
    access: str | None
    client_timeout: float | None
    request_timeout: float
    connect_timeout: float
    shutdown_timeout: float
    max_workers: int
    max_workers_per_user: int
    max_workers_per_address: int
    queue_timeout: float
    spare_workers: int
    max_spare_workers: int
    allowed_peers: tuple[str, ...]
    service_user: str | None
    hangup_timeout: float
    worker_memory: int
    sandbox: str
    sandbox_paths: tuple[str, ...]
    warm_repositories: int
    warm_memory: int
    warm_preload: tuple[str, ...]
    warm_network: bool
    stream_order: str
    stream_cache: str | None
    stream_cache_size: int
    stream_cache_occurrences: int
    max_streams_at_once: int
    warm_interval: float
    warm_report_interval: float
    history: int
    access_log: str | None
    environment: tuple[str, ...]
    autostart: bool
    fallback: bool
    log_file: str | None
    listen: str
    host_key: str | None
    authorized_keys: str | None
    shared_account: str
    ssh_processes: int
    proxy_protocol_from: tuple[Network, ...]
    login_grace_time: float
    max_startups: Startups
    per_source_max_startups: int | None
    per_source_netblock_size: NetBlockSize
    per_source_penalties: Penalties
    per_source_penalty_exempt_list: tuple[Network, ...]
    max_auth_tries: int
    keepalive_interval: float
    exporter_listen: str
    agent_listen: str | None

    @property
    def allowed_uids(self) -> frozenset[int]:
        """The uids of `allowed_peers`."""
        return _uids(self.allowed_peers)

    @property
    def agent_address(self) -> tuple[str, int] | None:
        """Where `agent_listen` says; None if it says nothing.

        :raises ConfigurationError: if it is no IP address and a port.
        """
        return parse_ip_address(self.agent_listen, "lpserve.agent_listen", 5023)

    @property
    def login_rules(self) -> Rules:
        """The limits on clients of the SSH server that have not logged in."""
        return Rules(
            self.max_startups,
            self.per_source_max_startups,
            self.per_source_netblock_size,
            self.per_source_penalties,
            self.per_source_penalty_exempt_list,
        )

    def for_worker(self) -> dict[str, Any]:
        """The settings that a worker needs; for the ``start`` message of a zygote."""
        return {
            "directory": self.directory,
            "allow_writes": self.allow_writes,
            "access": self.access,
            "client_timeout": self.client_timeout,
            "request_timeout": self.request_timeout,
            "worker_memory": self.worker_memory,
            "connect_timeout": self.connect_timeout,
            "environment": self.environment,
            "warm_report_interval": self.warm_report_interval,
            "warm_network": self.warm_network,
            "stream_order": self.stream_order,
            "stream_directory": "",  # none, unless a service has prepared it
            "sandbox": self.sandbox,
            "sandbox_paths": self.sandbox_paths,
        }


def read_settings(**overrides: Any) -> Settings:
    """Read the configuration; *overrides* that are not None take precedence.

    :raises ConfigurationError: for an invalid value.
    """
    values = _values(OPTIONS)
    for name in ("environment", "allowed_peers", "sandbox_paths", "warm_preload"):
        values[name] = tuple(values[name])
    return _override(Settings(**values), overrides.items())


def invalid_options() -> list[str]:
    """A line for each option with an invalid value; one if breezy.conf is."""
    found = []
    for name in OPTIONS:
        try:
            _values([name])
        except ConfigurationError as error:
            found.append(str(error))
    return list(dict.fromkeys(found))


def read_meeting_place(chosen: str | None) -> tuple[str, float, str | None]:
    """Read what "lp-serve-control" needs, even if other options are invalid.

    :param chosen: the value of ``--runtime-dir``, or None.
    :returns: the runtime directory, ``connect_timeout`` and ``service_user``.
    :raises ConfigurationError: if *chosen* is None and breezy.conf cannot be read.
    """
    timeout, service_user = CONNECT_TIMEOUT, None
    with contextlib.suppress(ConfigurationError):
        service_user = _values(["service_user"])["service_user"]
        timeout = _values(["connect_timeout"])["connect_timeout"]
    configured = None if chosen else _values(["runtime_dir"])["runtime_dir"]
    return runtime_directory(chosen, configured), timeout, service_user


def read_exporter_listen() -> str:
    """Read ``exporter_listen``, even if other options are invalid.

    :raises ConfigurationError: if breezy.conf cannot be read.
    """
    text: str = _values(["exporter_listen"])["exporter_listen"]
    return text


def _values(names: Iterable[str]) -> dict[str, Any]:
    """Read the options *names*.

    :raises ConfigurationError: for an invalid value.
    """
    stack = config.GlobalStack()
    # The store caches the file, which may have changed.
    stack.store.unload()
    try:
        return {name: stack.get(f"lpserve.{name}") for name in names}
    except config.ConfigOptionValueError as error:
        why = str(error)
    except config.ParseConfigError as error:
        # Its text may be very long. `errors` is one error, or a list.
        found = [error.errors] if isinstance(error.errors, str) else error.errors
        why = f"breezy.conf cannot be parsed: {str(found[0]).splitlines()[0]}"
    except config.ConfigContentError:
        why = "breezy.conf is not UTF-8"
    except (errors.BzrError, OSError) as error:
        why = f"breezy.conf cannot be read: {error}"
    raise ConfigurationError(" ".join(why.split()))


@functools.lru_cache(maxsize=8)
def _uids(names: tuple[str, ...]) -> frozenset[int]:
    """The uids of users, each given by name or number.

    :raises ConfigurationError: if there is no such user.
    """
    import pwd  # which Windows, where --inet works, does not have

    try:
        return frozenset(
            int(name) if name.isdigit() else pwd.getpwnam(name).pw_uid for name in names
        )
    except KeyError as error:
        raise ConfigurationError(f"lpserve.allowed_peers: {error.args[0]}") from None


def _override(settings: Settings, items: Iterable[tuple[str, Any]]) -> Settings:
    given = {name: value for name, value in items if value is not None}
    return replace(settings, **given)
