# SPDX-License-Identifier: GPL-2.0-or-later

"""What a client makes of a stream of revisions."""

from breezy.bzr import versionedfile
from breezy.bzr.smart import repository as smart


def arrived(stream):
    """What is in *stream*, as kind -> key -> (parents, text).

    The text of a record is as it was sent where it is a delta to one that was not.

    :param stream: all bytes of it.
    :raises AssertionError: if a key comes twice.
    """
    found = {}
    _, kinds = smart._byte_stream_to_stream(iter([stream]))
    for kind, records in kinds:
        of_kind = found.setdefault(kind, {})
        for record in records:
            assert record.key not in of_kind, record.key
            parents = record.parents
            if parents is not None:
                parents = tuple(map(tuple, parents))
            try:
                text = record.get_bytes_as("fulltext")
            except versionedfile.UnavailableRepresentation:
                text = record.get_bytes_as(record.storage_kind)
            of_kind[tuple(record.key)] = (parents, text)
    # Of a kind of which nothing comes it makes no difference whether it is named.
    return {kind: of_kind for kind, of_kind in found.items() if of_kind}
