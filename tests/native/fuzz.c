/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * One input for a fuzzer: what a stranger may say to the parts of lp-serve-client
 * that take texts apart. The first byte says to which; what they promise is checked,
 * and the sanitizers see the rest.
 */

#include "client.h"

#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char *const names[] = {
    "BRZ_EMAIL", "LANG", "LC_ALL", "SSH_ORIGINAL_COMMAND", NULL,
};

static void check(bool fine, const char *what)
{
    if (!fine) {
        fprintf(stderr, "not so: %s\n", what);
        abort();
    }
}

/* A copy with a NUL behind it, and nothing of ours behind that. */
static char *text_of(const uint8_t *data, size_t size)
{
    char *text = allocate(size + 1);
    memcpy(text, data, size);
    text[size] = '\0';
    return text;
}

static void check_words(const char *words, int count)
{
    size_t total = 0;
    for (int each = 0; each < count; each++) {
        size_t size = strlen(words) + 1;
        total += size;
        words += size;
    }
    check(count >= -1 && total < SIZE_MAX, "words are counted");
}

static void split(char *text)
{
    check_words(text, split_words(text));
}

/* What is quoted is split into the same again. */
static void quote(const char *word)
{
    struct line line = {.fits = true};
    char again[MAX_REQUEST + 1];
    add_quoted(&line, word);
    if (!line.fits)
        return;
    memcpy(again, line.bytes, line.size);
    again[line.size] = '\0';
    check(split_words(again) == 1 && strcmp(again, word) == 0, "a word survives");
}

/* A whole conversation at the socket: all of TEXT is what the service says. */
static void answer(const uint8_t *data, size_t size)
{
    static struct conversation asked; /* static only for its size */
    static const struct settings settings = {.environment = names};
    const struct signals signals = {.descriptor = -1};
    struct fault fault = {0, NULL, false};
    struct answer ok, last;
    int ends[2];
    check(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, ends) == 0, "a pair");
    check(write(ends[1], data, size) == (ssize_t)size, "room");
    close(ends[1]);
    asked = (struct conversation){
        .directory = "/run",
        .signals = &signals,
        .by_socket = true,
        .connected = true,
        .control = -1,
        .answers = ends[0],
    };
    if (ask_for_worker(&asked, "alice", &settings, now() + 5, &ok, &fault)) {
        check(ok.count == 2 && strcmp(word_of(&ok, 0), "ok") == 0, "it is ok");
        while (read_answer(&asked, &last) == ARRIVED)
            check_words(last.words, last.count);
    } else {
        check(fault.text != NULL && fault.status != 0, "there is a reason");
    }
    free(fault.text);
    close_door(&asked);
}

/* breezy.conf. */
static void configure(const uint8_t *data, size_t size)
{
    static char *path;
    struct settings settings;
    struct fault fault = {0, NULL, false};
    if (path == NULL)
        path = joined(getenv("BRZ_HOME"), "/breezy/breezy.conf");
    int file = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    check(file >= 0 && write(file, data, size) == (ssize_t)size, "a file");
    close(file);
    if (read_configuration(&settings, &fault)) {
        for (const char *const *name = settings.environment; *name != NULL; name++)
            check(is_utf8(*name, strlen(*name)), "a name is text");
        check(settings.connect_timeout >= 0, "a time is one");
        is_trusted(12345, settings.service_user);
        free(runtime_directory(NULL, settings.runtime_dir));
    }
    free(fault.text);
    free(settings.text);
}

/* The environment that sshd passes on; the values are apart by NULs. */
static void request(const char *text, size_t size, const char *reply)
{
    struct fault fault = {0, NULL, false};
    struct line line;
    const char *end = text + size;
    for (const char *const *name = names; *name != NULL; name++) {
        if (text > end) {
            unsetenv(*name);
            continue;
        }
        setenv(*name, text, 1);
        text += strlen(text) + 1;
    }
    if (compose(&line, "alice", names, reply, &fault)) {
        size_t begin = reply != NULL;
        check(line.fits && line.size <= MAX_REQUEST, "it fits");
        check(is_utf8(line.bytes, line.size), "it is text");
        check(memchr(line.bytes + begin, '\n', line.size - begin)
                  == line.bytes + line.size - 1,
              "it is one line");
    }
    free(fault.text);
    for (const char *const *name = names; *name != NULL; name++)
        unsetenv(*name);
}

static void command(const char *text)
{
    setenv("SSH_ORIGINAL_COMMAND", text, 1);
    char *refusal = command_fault();
    for (const char *at = refusal; at != NULL && *at != '\0'; at++)
        check(*at >= ' ' && *at <= '~', "it can be shown");
    free(refusal);
    unsetenv("SSH_ORIGINAL_COMMAND");
}

static void clean(char *text, size_t size)
{
    char *out = allocate(3 * size + 1);
    check(is_utf8(out, clean_utf8(text, size, out)), "it is clean");
    strip(out);
    free(out);
    long found;
    check(!number(text, 1, 64, &found) || (found >= 1 && found <= 64), "a number");
    if (is_user(text))
        check(strchr(text, '/') == NULL && *text != '-', "a user");
    free(runtime_directory(text, NULL));
}

/* The first bytes of a client: more of them change nothing that is decided. */
static void first_request(const uint8_t *data, size_t size)
{
    static const char marker[] = "bzr message 3 (bzr 1.6)\n";
    size_t begin = sizeof marker - 1;
    char *text = allocate(begin + size + 1);
    memcpy(text, marker, begin);
    memcpy(text + begin, data, size);
    enum request found = find_request(text, begin + size);
    for (size_t less = 0; less <= begin + size; less += 1 + less / 8) {
        /* A copy, so that the sanitizers see what is read behind it. */
        char *part = text_of((const uint8_t *)text, less);
        enum request then = find_request(part, less);
        check(then == INCOMPLETE || then == found || less >= 4096, "it stays so");
        free(part);
    }
    check(size < 4096 || found != INCOMPLETE, "it is read no further");
    free(text);
}

static void refusal(const char *text, size_t size)
{
    struct line response;
    compose_error(&response, text);
    check(response.fits, "it fits");
    check(is_utf8(response.bytes + 64, response.size - 64), "it is text");
    char *message = drained_message(text, size);
    check(*message != '\0' && is_utf8(message, strlen(message)), "it is a message");
    check(strpbrk(message, "\n\033") == NULL, "it is one line");
    free(message);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0 || size > 60000)
        return 0;
    uint8_t which = *data++;
    char *text = text_of(data, --size);
    switch (which % 10) {
    case 0:
        split(text);
        break;
    case 1:
        quote(text);
        break;
    case 2:
        answer(data, size);
        break;
    case 3:
        configure(data, size);
        break;
    case 4:
        request(text, size, NULL);
        break;
    case 5:
        request(text, size, "client.2147483647.01234567");
        break;
    case 6:
        command(text);
        break;
    case 7:
        first_request(data, size);
        break;
    case 8:
        refusal(text, size);
        break;
    default:
        clean(text, size);
    }
    free(text);
    return 0;
}
