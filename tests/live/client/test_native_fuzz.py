# SPDX-License-Identifier: GPL-2.0-or-later

"""The parsers of the native client are fuzzed, under AddressSanitizer."""

import os
import subprocess

from breezy.tests import TestCaseInTempDir

from ...client.nativeclient import compiler, fuzzer, sanitizers

#: How many inputs by chance; 'make soak' has a million, and libFuzzer's besides.
RUNS = int(os.environ.get("LPSERVE_FUZZ_INPUTS", "20000"))
#: Seconds for libFuzzer; 0 where it is not wanted.
SECONDS = int(os.environ.get("LPSERVE_FUZZ_SECONDS", "0"))


class TestFuzz(TestCaseInTempDir):
    def setUp(self):
        super().setUp()
        self.requireFeature(compiler)
        self.requireFeature(sanitizers)
        os.mkdir("breezy")

    def run_fuzzer(self, *words):
        env = {
            **os.environ,
            "BRZ_HOME": self.test_dir,
            "ASAN_OPTIONS": "detect_leaks=0",
            "UBSAN_OPTIONS": "print_stacktrace=1",
        }
        done = subprocess.run(words, env=env, capture_output=True, check=False)
        said = done.stderr.decode("utf-8", "replace")
        self.assertEqual(0, done.returncode, said[-5000:])
        return done

    def test_by_chance(self):
        """FAULT 45: under AddressSanitizer nothing is found, and nothing is untrue."""
        done = self.run_fuzzer(fuzzer(), str(RUNS), str(os.getpid()))
        self.assertEqual(b"%d inputs\n" % RUNS, done.stdout)

    def test_by_coverage(self):
        """FAULT 45: the same with libFuzzer, where clang has it."""
        program = fuzzer(coverage=True) if SECONDS else None
        if program is not None:
            self.run_fuzzer(program, f"-max_total_time={SECONDS}", "-max_len=6000")
