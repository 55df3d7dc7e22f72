# SPDX-License-Identifier: GPL-2.0-or-later

"""A request, or several, for every verb of the smart protocol."""

from __future__ import annotations

from typing import Any

from .smartcase import Request

#: Stands for a path in the words of a request.
PATH = object()
#: Stands for the token of a lock, which nobody holds.
TOKEN = b"0123456789abcdefghij"
REVISION = b"a-revision"

DIRECTORY_FORMAT = b"Bazaar-NG meta directory, format 1\n"
BRANCH_FORMAT = b"Bazaar Branch Format 7 (needs bzr 1.6)\n"
REPOSITORY_FORMAT = b"Bazaar repository format 2a (needs bzr 1.16 or later)\n"
#: No records, in the format of the repositories: see Breezy's _byte_stream_to_stream.
STREAM = [
    b"Bazaar pack format 1 (introduced in 0.18)\n",
    b"B%d\n\n%sE" % (len(REPOSITORY_FORMAT), REPOSITORY_FORMAT),
]


def _of(*words: Any, body: Any = None) -> list[Request]:
    """One request, whose first word is a path."""
    return [Request((PATH, *words), body)]


LOCKS = (TOKEN, TOKEN)

#: Those that change something: what they do with a path.
CHANGES: dict[bytes, list[Request]] = {
    b"Branch.break_lock": _of(),
    b"Branch.lock_write": [*_of(), *_of(*LOCKS)],
    b"Branch.put_config_file": _of(*LOCKS, body=b"a = b\n"),
    b"Branch.set_config_option": _of(*LOCKS, b"value", b"name", b""),
    b"Branch.set_config_option_dict": _of(*LOCKS, b"d1:a1:be", b"name", b""),
    b"Branch.set_last_revision": [*_of(*LOCKS, REVISION), *_of(b"", b"", REVISION)],
    b"Branch.set_last_revision_ex": [
        *_of(*LOCKS, REVISION, b"0", b"0"),
        *_of(b"", b"", REVISION, b"0", b"0"),
    ],
    b"Branch.set_last_revision_info": [
        *_of(*LOCKS, b"1", REVISION),
        *_of(b"", b"", b"1", REVISION),
    ],
    b"Branch.set_parent_location": _of(*LOCKS, b"../elsewhere"),
    b"Branch.set_tags_bytes": _of(*LOCKS, body=b"de"),
    b"Branch.unlock": _of(*LOCKS),
    b"BzrDir.create_branch": _of(BRANCH_FORMAT),
    b"BzrDir.create_repository": _of(REPOSITORY_FORMAT, b"False"),
    b"BzrDir.destroy_branch": _of(),
    b"BzrDir.destroy_repository": _of(),
    b"BzrDirFormat.initialize": _of(),
    b"BzrDirFormat.initialize_ex_1.16": [
        Request(
            (DIRECTORY_FORMAT, PATH, b"True", b"True", b"True", b"", b"")
            + (REPOSITORY_FORMAT, b"True", b"False")
        )
    ],
    b"PackRepository.autopack": _of(),
    b"Repository.abort_write_group": _of(TOKEN, [b"token"]),
    b"Repository.add_signature_text": _of(TOKEN, REVISION, body=b"signed"),
    b"Repository.break_lock": _of(),
    b"Repository.commit_write_group": _of(TOKEN, [b"token"]),
    b"Repository.insert_stream": _of(b"", body=STREAM),
    b"Repository.insert_stream_1.19": [
        *_of(b"", body=STREAM),
        *_of(b"", TOKEN, body=STREAM),
    ],
    b"Repository.insert_stream_locked": _of(b"", TOKEN, body=STREAM),
    b"Repository.lock_write": [*_of(), *_of(TOKEN)],
    b"Repository.pack": _of(TOKEN, b"False", body=b""),
    b"Repository.reconcile": _of(TOKEN),
    b"Repository.set_make_working_trees": _of(b"False"),
    b"Repository.start_write_group": _of(TOKEN),
    b"Repository.unlock": _of(TOKEN),
    b"append": _of(b"", body=b"written"),
    b"delete": _of(),
    b"mkdir": _of(b""),
    b"move": [Request((PATH, b"taken")), Request((b"file", PATH))],
    b"put": _of(b"", body=b"written"),
    b"put_non_atomic": [
        *_of(b"", b"F", b"", body=b"written"),
        *_of(b"", b"T", b"", body=b"written"),
    ],
    b"rename": [Request((PATH, b"taken")), Request((b"file", PATH))],
    b"rmdir": _of(),
}

#: Those that only look.
LOOKS: dict[bytes, list[Request]] = {
    b"Branch.get_all_reference_info": _of(),
    b"Branch.get_config_file": _of(),
    b"Branch.get_parent": _of(),
    b"Branch.get_physical_lock_status": _of(),
    b"Branch.get_stacked_on_url": _of(),
    b"Branch.get_tags_bytes": _of(),
    b"Branch.heads_to_fetch": _of(),
    b"Branch.last_revision_info": _of(),
    b"Branch.revision_history": _of(),
    b"Branch.revision_id_to_revno": _of(REVISION),
    b"BzrDir.checkout_metadir": _of(),
    b"BzrDir.cloning_metadir": _of(b"False"),
    b"BzrDir.find_repository": _of(),
    b"BzrDir.find_repositoryV2": _of(),
    b"BzrDir.find_repositoryV3": _of(),
    b"BzrDir.get_branches": _of(),
    b"BzrDir.get_config_file": _of(),
    b"BzrDir.has_workingtree": _of(),
    b"BzrDir.open": _of(),
    b"BzrDir.open_2.1": _of(),
    b"BzrDir.open_branch": _of(),
    b"BzrDir.open_branchV2": _of(),
    b"BzrDir.open_branchV3": _of(),
    b"Repository.all_revision_ids": _of(),
    b"Repository.annotate_file_revision": _of(REVISION, b"file"),
    b"Repository.check_write_group": _of(TOKEN, [b"token"]),
    b"Repository.gather_stats": _of(REVISION, b"yes"),
    b"Repository.get_parent_map": _of(REVISION, body=b"\n\n0"),
    b"Repository.get_physical_lock_status": _of(),
    b"Repository.get_rev_id_for_revno": _of(1, [1, REVISION]),
    b"Repository.get_revision_graph": _of(REVISION),
    b"Repository.get_revision_signature_text": _of(REVISION),
    b"Repository.get_stream": _of(REPOSITORY_FORMAT, body=b"everything"),
    b"Repository.get_stream_1.19": _of(REPOSITORY_FORMAT, body=b"everything"),
    b"Repository.get_stream_for_missing_keys": _of(
        REPOSITORY_FORMAT, body=b"revisions\t" + REVISION
    ),
    b"Repository.has_revision": _of(REVISION),
    b"Repository.has_signature_for_revision_id": _of(REVISION),
    b"Repository.is_shared": _of(),
    b"Repository.iter_files_bytes": _of(body=b"file\0" + REVISION),
    b"Repository.iter_revisions": _of(body=REVISION),
    b"Repository.make_working_trees": _of(),
    b"Repository.revision_archive": _of(REVISION, b"tar", b"name", b"root"),
    b"Repository.tarball": _of(b""),
    b"VersionedFileRepository.get_inventories": _of(b"unordered", body=REVISION),
    b"VersionedFileRepository.get_serializer_format": _of(),
    b"get": _of(),
    b"get_bundle": _of(REVISION),
    b"has": _of(),
    b"iter_files_recursive": _of(),
    b"list_dir": _of(),
    b"readv": _of(body=b"0,4\n"),
    b"stat": _of(),
}

#: Those without a path.
OTHERS: dict[bytes, list[Request]] = {
    b"Transport.is_readonly": [Request(())],
    b"hello": [Request(())],
}

#: Every verb.
VERBS = {**CHANGES, **LOOKS, **OTHERS}


def requests(verb: bytes, path: bytes) -> list[Request]:
    """The requests for *verb* with this path."""
    return [
        Request((verb, *(path if each is PATH else each for each in made.words)), body)
        for made in VERBS[verb]
        for body in [made.body]
    ]
