/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * Calls the target of fuzz.c with inputs that chance makes: where there is no
 * libFuzzer, which looks at what an input reaches.
 */

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* What has a meaning somewhere. */
static const char *const parts[] = {
    "ok ", "error ", "exit ", "signal ", "busy ", "\n", "'", "\"", "\\", " ", "\t",
    "1", "99999999999", "-", "[DEFAULT]\n", "\nlpserve.", "runtime_dir", "environment",
    "service_user", "connect_timeout", "autostart", "fallback", "=", " = ", "#", ",", "~", "~root",
    "/", "..", "1e5", "_", "yes", "bzr", "serve", "--inet", "lp-serve-client", "x",
    "\302\205", "\303\251", "\342\200\250", "\342\202", "\360\237\230\200", "\377",
    "\357\273\277", "\355\240\200", "\033[2J", "\177", "LANG", "C.UTF-8", "root",
    "oS", "oE", "e", "s", "b", "l4:pinge", "draining ",
};
enum { PARTS = sizeof parts / sizeof parts[0], MOST = 6000 };

static uint64_t state;

/* A number below MOST, by xorshift. */
static size_t chance(size_t most)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (size_t)(state % most);
}

static size_t make(uint8_t *input)
{
    size_t size = 1, count = chance(chance(20) == 0 ? 600 : 30);
    input[0] = (uint8_t)chance(256);
    for (; count > 0; count--) {
        size_t times = chance(8) == 0 ? chance(90) : 1, kind = chance(12);
        const char *part = kind == 0 ? "" : parts[chance(PARTS)];
        size_t length = strlen(part) + (kind == 0); /* or a NUL */
        for (; times > 0 && size + length < MOST; times--) {
            memcpy(input + size, part, length);
            size += length;
        }
        if (kind == 1 && size < MOST)
            input[size++] = (uint8_t)chance(256);
        else if (kind == 2)
            input[chance(size)] ^= (uint8_t)(1 << chance(8));
    }
    return size;
}

/* RUNS [SEED] */
int main(int argc, char **argv)
{
    unsigned long runs = argc > 1 ? strtoul(argv[1], NULL, 10) : 20000;
    state = argc > 2 ? strtoul(argv[2], NULL, 10) : 1;
    static uint8_t input[MOST + 8];
    for (unsigned long run = 0; run < runs; run++)
        LLVMFuzzerTestOneInput(input, make(input));
    printf("%lu inputs\n", runs);
    return 0;
}
