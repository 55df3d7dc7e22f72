# SPDX-License-Identifier: GPL-2.0-or-later

"""Where records lie."""

from ...lpserve.streams.places import count, in_order, keys_in, look_up
from .streamcase import StreamCase, noise


class TestLookUp(StreamCase):
    def test_few_and_many(self):
        """One key, or all: each is where Breezy finds it."""
        self.make_history(8)
        self.commit(f1=noise("x"))
        with self.repository.lock_read():
            files = self.repository.texts
            keys = sorted(files.keys())
            details = files._index.get_build_details(keys)
            for wanted in (keys[:1], keys[3:5], keys):
                places = look_up(files, set(wanted))
                self.assertEqual(len(wanted), count(places))
                self.assertEqual(set(wanted), keys_in(places))
                for (index, where), records in places.items():
                    start, length = map(int, where.split())
                    for begin, end, key, parents in records:
                        memo = (index, start, length, begin, end)
                        self.assertEqual(memo, details[key].index_memo)
                        self.assertEqual(details[key]._parents, parents)

    def test_absent(self):
        self.make_history(2)
        with self.repository.lock_read():
            files = self.repository.texts
            keys = {(b"no such file", b"no such revision")}
            self.assertEqual({}, look_up(files, keys))
            both = keys | set(files.keys())
            self.assertEqual(len(both) - 1, count(look_up(files, both)))

    def test_order(self):
        """Pack after pack, and in each from its start."""
        self.make_history(3)
        for number in range(3):
            self.commit(f1=noise("x", number), f2=noise("y", number))
        with self.repository.lock_read():
            files = self.repository.texts
            order = in_order(files, look_up(files, set(files.keys())))
            packs = sorted(files._index._graph_index._indices, key=lambda i: i._name)
            found = [
                (packs.index(index), int(where.split()[0])) for index, where in order
            ]
        self.assertEqual(sorted(found), found)
        self.assertLess(3, len(found))
