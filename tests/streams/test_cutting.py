# SPDX-License-Identifier: GPL-2.0-or-later

"""What is cut from a block."""

import random

from breezy.bzr.groupcompress import GroupCompressBlock, GroupCompressor
from breezy.tests import TestCase

from ...lpserve.streams.cutting import CannotCut, cut, gaps
from .streamcase import noise


def compressed(texts):
    """A content with *texts*, and the record of each."""
    compressor = GroupCompressor()
    records = []
    for number, text in enumerate(texts):
        key = (b"%d" % number,)
        _, start, end, _ = compressor.compress(key, [text], len(text), None)
        records.append((start, end, key, ()))
    block = compressor.flush()
    block._ensure_content()
    return block._content, records


class TestCut(TestCase):
    def test_some_of_many(self):
        """Each text that is wanted is as before; of the others nothing is left."""
        source = random.Random(3)
        for _ in range(30):
            texts = [noise("a", size=900)]
            for number in range(12):
                lines = texts[source.randrange(len(texts))].splitlines(True)
                lines[source.randrange(len(lines))] = noise(number, size=60)
                texts.append(b"".join(lines))
            content, records = compressed(texts)
            wanted = sorted(source.sample(range(13), source.randrange(1, 13)))
            chosen = [records[number] for number in wanted]
            made = cut(content, chosen)
            self.assertEqual(chosen[-1][1], len(made))
            block = GroupCompressBlock()
            block.set_content(made)
            kept = set()
            for number in wanted:
                start, end, key, _ = records[number]
                text = b"".join(block.extract(key, start, end))
                self.assertEqual(texts[number], text)
                kept.update(text.splitlines())
            for text in texts:
                for line in text.splitlines():
                    if line not in kept:
                        self.assertNotIn(line, made)

    def test_empty_text(self):
        content, records = compressed([noise(1), b"", noise(2)])
        self.assertEqual((0, 0), records[1][:2])
        start, end, _, _ = records[2]
        made = cut(content, [records[1], records[2]])
        self.assertEqual(bytes(start) + content[start:end], made)

    def test_rubbish(self):
        content, records = compressed([noise(1), noise(1) + b"more\n"])
        (start, end, _, _) = records[1]
        self.assertEqual(b"d", content[start : start + 1])
        for place, byte in ((0, b"x"), (1, b"\x01"), (2, b"\x01")):
            broken = bytearray(content)
            broken[start + place : start + place + 1] = byte
            self.assertRaises(CannotCut, cut, bytes(broken), [records[1]])
        self.assertTrue(end)


class TestGaps(TestCase):
    def gaps(self, *extents, length=10):
        return gaps([(*each, (b"k",), ()) for each in extents], length)

    def test_gaps(self):
        self.assertEqual([], self.gaps((0, 4), (4, 10)))
        self.assertEqual([(0, 2), (4, 5), (9, 10)], self.gaps((2, 4), (5, 9)))
        self.assertEqual([], self.gaps((0, 0), (0, 10)))
        self.assertEqual([(0, 10)], self.gaps())
