# SPDX-License-Identifier: GPL-2.0-or-later

"""Answers requests for streams of revisions: with blocks, and from what is kept."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from breezy.bzr import (
    chk_map,
    groupcompress,
    groupcompress_repo,
    index,
    inventory,
    pack,
    pack_repo,
    vf_repository,
)
from breezy.bzr.smart import protocol
from breezy.bzr.smart import repository as smart

from ..root import is_shared
from ..serving import knowncode, outlet
from .asking import Inbox
from .kept import KeptAnswer
from .key import key_of
from .source import BlockSource

_GetStream = smart.SmartServerRepositoryGetStream
_Repository = groupcompress_repo.CHKInventoryRepository
_Source = groupcompress_repo.GroupCHKStreamSource
_Difference = chk_map.CHKMapDifference
_Manager = groupcompress._LazyGroupContentManager
_Block = groupcompress.GroupCompressBlock
_Files = groupcompress.GroupCompressVersionedFiles
_Access = pack_repo._DirectPackAccess
_Encoder = protocol._ProtocolThreeEncoder

#: The functions that are wrapped (see `_WRAPPERS`), replaced or relied on.
EXPECTED: tuple[knowncode.Expected, ...] = (
    (_GetStream, "do_body", ("7705664455d4264c",)),
    (_GetStream, "body_stream", ("36454860da864c6a",)),
    (smart, "_stream_to_byte_stream", ("99e022ccc7899b7b",)),
    (_Repository, "_get_source", ("94ccb8b2a1b16994",)),
    (
        _Repository,
        "_find_present_inventory_keys",
        (
            "93dbc8c76c57c5de",
            "d5f41123ad88b655",
        ),
    ),
    (_Source, "__init__", ("6d6237f452983330",)),
    (_Source, "get_stream", ("e9acf4115b015bdc",)),
    (_Source, "_get_inventory_stream", ("477d2c2fa523b75c",)),
    (
        _Source,
        "_get_filtered_chk_streams",
        (
            "8586722e2b965732",
            "29c42d0789a4cdb4",
        ),
    ),
    (_Source, "_get_text_stream", ("dc3f378d0c845d90",)),
    (groupcompress_repo, "_filter_text_keys", ("65e30e6d55406ef7",)),
    (vf_repository.StreamSource, "_fetch_revision_texts", ("0c05b574225a5208",)),
    (
        vf_repository.VersionedFileRepository,
        "_find_parent_keys_of_revisions",
        ("6fb60b9b4e7ce5e0",),
    ),
    (_Difference, "__init__", ("6467366d023fdff4",)),
    (
        _Difference,
        "_read_nodes_from_store",
        (
            "36961dfa328604d5",
            "b203046efc87f72b",
        ),
    ),
    (
        _Difference,
        "_read_old_roots",
        (
            "5d35efeffee803e1",
            "35811ac496e7db84",
        ),
    ),
    (_Difference, "_enqueue_old", ("0f477c84d6b8a8cf",)),
    (
        _Difference,
        "_read_all_roots",
        (
            "5836a8c62bbc9abb",
            "a5f604df72ad37e3",
        ),
    ),
    (_Difference, "_flush_new_queue", ("1dabca03385e85bc",)),
    (
        _Difference,
        "_process_next_old",
        (
            "0a7f1b62053e129c",
            "1bac27d6ee06ed20",
        ),
    ),
    (_Difference, "_process_queues", ("c2d0dfe0972c2f64",)),
    (_Difference, "process", ("9d9b2cd01bf8ef6f",)),
    (chk_map, "iter_interesting_nodes", ("2a7aee9bd4d5a491",)),
    (chk_map, "_deserialise", ("b21af2f20d743858",)),
    (
        inventory.CHKInventory,
        "deserialise",
        (
            "16798afa94834d72",
            "63a7d258b7de251f",
            "cf09e24eae069a06",
        ),
    ),
    (_Manager, "add_factory", ("94556fe36db0c3a2",)),
    (
        _Manager,
        "_rebuild_block",
        (
            "2213d21e7dbf712a",
            "3e6083e0ace1daaa",
        ),
    ),
    (_Manager, "_check_rebuild_action", ("ed1fb53afb26f526",)),
    (_Manager, "_wire_bytes", ("d00fa661689b4654",)),
    (_Manager, "from_bytes", ("dcf237e4f87eddc6",)),
    (
        _Block,
        "from_bytes",
        (
            "7db836e633ab8613",
            "a72307e24449802f",
        ),
    ),
    (
        _Block,
        "_parse_bytes",
        (
            "db4e010258eb1d55",
            "775aaf6873e65dfb",
        ),
    ),
    (
        _Block,
        "_ensure_content",
        (
            "38abd6b0a6015d61",
            "19dd90d9f87175e8",
        ),
    ),
    (
        _Block,
        "extract",
        (
            "72c0f6e1fdc4466f",
            "0e1fa530fff6a187",
        ),
    ),
    (_Block, "to_chunks", ("eaca1b39afe495ec",)),
    (_Files, "_get_blocks", ("bd0c56f320b3632c",)),
    (
        _Files,
        "_get_compressor_settings",
        (
            "6b198297e84f9f19",
            "7b9928e99ad926a6",
        ),
    ),
    (_Files, "get_record_stream", ("969e89be97629ecb",)),
    (groupcompress._GCGraphIndex, "_node_to_position", ("6ea09f40bd0b5e1b",)),
    (groupcompress._GCGraphIndex, "_get_entries", ("300fa561688bd667",)),
    (
        _Access,
        "get_raw_records",
        (
            "d4a6867859cbe55f",
            "4283ee5a9df4b5de",
        ),
    ),
    (_Access, "reload_or_raise", ("a5462f58d9a7e962",)),
    (index.CombinedGraphIndex, "_try_reload", ("fdef8d1148efd759",)),
    # What is kept is what these write, and follows what they have flushed.
    (
        protocol.ProtocolThreeResponder,
        "send_response",
        (
            "94ba4e3550ba9a25",
            "a96b74ef9475baf0",
        ),
    ),
    (protocol, "_iter_with_errors", ("836aae4f002eaca7",)),
    (_Encoder, "_write_func", ("fe995cc15ea7669a",)),
    (_Encoder, "flush", ("0aa8850ee8a14dc3",)),
    (_Encoder, "_write_prefixed_body", ("2c6574b068829d80",)),
)


#: How each stream begins: the first chunk of Breezy's encoder.
_BEGINNING = pack.ContainerSerialiser().begin()


class Keeping:
    """How streams are kept in this process.

    :ivar directory: where; "" means nowhere.
    :ivar network: whether those of network file systems are, too.
    :ivar inbox: what the service tells this worker.
    """

    directory = ""
    network = False
    inbox: Inbox | None = None


keeping = Keeping()


def install(settings: dict[str, Any]) -> None:
    """Wrap the functions; to be called once in a process.

    :param settings: the result of `settings.Settings.for_worker`.
    :raises UnexpectedBreezy: if this Breezy differs; nothing is wrapped then.
    """
    knowncode.check(EXPECTED)
    knowncode.wrap(_WRAPPERS)
    # Workers of one user are kept from what others may have written.
    if settings["directory"] and is_shared(settings["directory"]):
        keeping.directory = settings["stream_directory"]
        keeping.network = settings["warm_network"]


def _answer(original: Any, request: Any, body: bytes) -> Any:
    """``Repository.get_stream`` and ``Repository.get_stream_1.19``."""
    repository = request._repository
    repository._lpserve_to_client = True
    response = original(request, body)
    if (
        keeping.directory
        and outlet.current.output is not None
        and getattr(repository, "_lpserve_blocks", False)
        and response.body_stream is not None
    ):
        key = _key_of(request, body)
        if key is not None:
            response.body_stream = _kept(request, body, key, response.body_stream)
    return response


def _key_of(request: Any, body: bytes) -> str | None:
    with contextlib.suppress(Exception):  # in doubt it is not kept
        return key_of(request, request._repository, body, keeping.network)
    return None


def _is_still(request: Any, body: bytes, key: str) -> bool:
    """Whether the repository, which *stream* has unlocked, is that of *key*."""
    with request._repository.lock_read():
        return _key_of(request, body) == key


def _kept(request: Any, body: bytes, key: str, stream: Any) -> Iterator[Any]:
    """The chunks of *stream*, as far as the encoder has to write them."""
    begun = False

    def make() -> Iterator[Any]:
        nonlocal begun
        begun = True
        next(stream)  # _BEGINNING
        return stream  # type: ignore[no-any-return]

    output = outlet.current.output
    assert output is not None
    try:
        yield _BEGINNING
        output.flush()
        answer = KeptAnswer(
            *(keeping.directory, key, output, keeping.inbox, make),
            lambda: _is_still(request, body, key),
        )
        yield from answer.chunks()
    finally:
        if not begun:
            request._repository.unlock()  # else *stream* does


def _source_of(original: Any, repository: Any, to_format: Any) -> Any:
    """The source of a stream, which goes to a client or to a repository here."""
    source = original(repository, to_format)
    if (
        type(source) is _Source
        and getattr(repository, "_lpserve_to_client", False)
        and not repository._fallback_repositories
    ):
        repository._lpserve_blocks = True
        return BlockSource(repository, to_format)
    return source


_WRAPPERS: tuple[knowncode.Wrapper, ...] = (
    (_GetStream, "do_body", _answer),
    (_Repository, "_get_source", _source_of),
)
