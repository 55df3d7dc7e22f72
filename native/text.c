/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Faults, memory, UTF-8, and quoting of words in requests and answers. */

#include "client.h"

#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <unistd.h>

static const char safe[] =
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789@%_-+=:,./~";

/* Whether BYTE needs no quotes in a word. */
bool is_plain(char byte)
{
    return byte != '\0' && strchr(safe, byte) != NULL;
}

/* Out of memory: exit. The service removes the reply FIFO of an ended client. */
static _Noreturn void out_of_memory(void)
{
    static const char line[] = "lp-serve-client: out of memory\n";
    if (write(STDERR_FILENO, line, sizeof line - 1) < 0) {
        /* There is nowhere to report it. */
    }
    _exit(EX_UNAVAILABLE);
}

/* Fill in FAULT; false, for the caller to return. */
bool fail(struct fault *fault, int status, const char *format, ...)
{
    char *text;
    va_list arguments;
    va_start(arguments, format);
    if (vasprintf(&text, format, arguments) < 0)
        out_of_memory();
    va_end(arguments);
    free(fault->text);
    *fault = (struct fault){status, text, false};
    return false;
}

/* The same for a connection that no worker serves, now or later. */
bool refuse(struct fault *fault, int status, const char *text)
{
    fail(fault, status, "%s", text);
    fault->refused = true;
    return false;
}

/* Write TEXT to standard error as one line. */
void tell(const char *text)
{
    char *line = joined("lp-serve-client: ", text);
    size_t size = strlen(line);
    for (size_t at = 0; at < size;) {
        int length = character(line + at, size - at);
        for (; length < 0; length++)
            line[at++] = '?';
        at += (size_t)length;
    }
    line[size] = '\n'; /* in place of the NUL */
    /* The reader of standard error may have gone. */
    signal(SIGPIPE, SIG_IGN);
    if (write(STDERR_FILENO, line, size + 1) < 0) {
        /* There is nowhere to report it. */
    }
    free(line);
}

void *allocate(size_t size)
{
    void *memory = malloc(size);
    if (memory == NULL)
        out_of_memory();
    return memory;
}

char *joined(const char *first, const char *second)
{
    size_t size = strlen(first), more = strlen(second);
    char *both = allocate(size + more + 1);
    memcpy(both, first, size);
    memcpy(both + size, second, more + 1);
    return both;
}

/* The number of bytes of the first character of TEXT. If it is not valid UTF-8, the
 * negative number of bytes to skip. LEFT is not 0. */
int character(const char *text, size_t left)
{
    const unsigned char *byte = (const unsigned char *)text;
    unsigned char least = 0x80, most = 0xbf; /* of the second byte */
    int length;
    if (byte[0] < 0x80)
        return 1;
    if (byte[0] < 0xc2 || byte[0] > 0xf4)
        return -1;
    length = byte[0] < 0xe0 ? 2 : byte[0] < 0xf0 ? 3 : 4;
    if (byte[0] == 0xe0)
        least = 0xa0; /* not overlong */
    else if (byte[0] == 0xed)
        most = 0x9f; /* no surrogates */
    else if (byte[0] == 0xf0)
        least = 0x90;
    else if (byte[0] == 0xf4)
        most = 0x8f; /* up to U+10FFFF */
    for (int at = 1; at < length; at++) {
        if ((size_t)at >= left || byte[at] < least || byte[at] > most)
            return -at;
        least = 0x80;
        most = 0xbf;
    }
    return length;
}

bool is_utf8(const char *text, size_t size)
{
    for (size_t at = 0; at < size;) {
        int length = character(text + at, size - at);
        if (length < 0)
            return false;
        at += (size_t)length;
    }
    return true;
}

/* Copy TEXT to OUT, with U+FFFD in place of invalid UTF-8 and NUL, and a NUL at the
 * end; the number of bytes without that. OUT has room for 3 * SIZE + 1 bytes. */
size_t clean_utf8(const char *text, size_t size, char *out)
{
    char *end = out;
    for (size_t at = 0; at < size;) {
        int length = character(text + at, size - at);
        if (length < 0 || text[at] == '\0') {
            end = stpcpy(end, "\357\277\275");
            at += (size_t)(length < 0 ? -length : 1);
        } else {
            end = mempcpy(end, text + at, (size_t)length);
            at += (size_t)length;
        }
    }
    *end = '\0';
    return (size_t)(end - out);
}

/* The length of the white space (as of str.strip) that TEXT begins with, or 0. */
static size_t blank(const char *text)
{
    static const char *const wide[] = {
        "\302\205",     "\302\240",     "\341\232\200", "\342\200\250",
        "\342\200\251", "\342\200\257", "\342\201\237", "\343\200\200",
    };
    unsigned char first = (unsigned char)text[0];
    if (first < 0x80)
        return first == ' ' || (first >= '\t' && first <= '\r')
            || (first >= 0x1c && first <= 0x1f);
    if (strncmp(text, "\342\200", 2) == 0) { /* U+2000 to U+200A */
        unsigned char last = (unsigned char)text[2];
        if (last >= 0x80 && last <= 0x8a)
            return 3;
    }
    for (size_t each = 0; each < sizeof wide / sizeof wide[0]; each++)
        if (strncmp(text, wide[each], strlen(wide[each])) == 0)
            return strlen(wide[each]);
    return 0;
}

/* TEXT, which is UTF-8, without white space around it; changed in place. */
char *strip(char *text)
{
    size_t length;
    while ((length = blank(text)) > 0)
        text += length;
    char *end = text;
    for (char *at = text; *at != '\0';) {
        length = blank(at);
        at += length > 0 ? length : 1;
        if (length == 0)
            end = at;
    }
    *end = '\0';
    return text;
}

void add_bytes(struct line *line, const char *bytes, size_t size)
{
    if (!line->fits || size > sizeof line->bytes - line->size) {
        line->fits = false;
        return;
    }
    memcpy(line->bytes + line->size, bytes, size);
    line->size += size;
}

/* Add WORD so that shlex.split gives it back. */
void add_quoted(struct line *line, const char *word)
{
    if (strchr(word, '\n') != NULL)
        line->fits = false;
    if (*word != '\0' && word[strspn(word, safe)] == '\0') {
        add_bytes(line, word, strlen(word));
        return;
    }
    add_bytes(line, "'", 1);
    for (;;) {
        size_t plain = strcspn(word, "'");
        add_bytes(line, word, plain);
        word += plain;
        if (*word++ == '\0')
            break;
        add_bytes(line, "'\"'\"'", 5);
    }
    add_bytes(line, "'", 1);
}

/* Copy a quoted text from IN to *OUT, up to QUOTE; its end, or NULL without one. */
static char *quoted(char *in, char quote, char **out)
{
    while (*in != quote) {
        if (*in == '\0')
            return NULL;
        /* In double quotes a backslash escapes only a backslash or a quote. */
        if (quote == '"' && *in == '\\' && (in[1] == '"' || in[1] == '\\'))
            in++;
        *(*out)++ = *in++;
    }
    return in + 1;
}

/* Split LINE in place as a POSIX shell does, into words with a NUL each; their
 * number, or -1 if a quotation is not closed. */
int split_words(char *line)
{
    char *in = line, *out = line;
    int count = 0;
    while (*(in += strspn(in, " \t\r\n")) != '\0') {
        while (*in != '\0' && strchr(" \t\r\n", *in) == NULL) {
            if (*in == '\'' || *in == '"') {
                char quote = *in;
                in = quoted(in + 1, quote, &out);
                if (in == NULL)
                    return -1;
                continue;
            }
            if (*in == '\\' && *++in == '\0')
                return -1;
            *out++ = *in++;
        }
        /* The NUL replaces the blank, or the NUL at the end. */
        bool more = *in != '\0';
        *out++ = '\0';
        in += more;
        count++;
        if (!more)
            break;
    }
    return count;
}

/* Whether TEXT is a decimal number from LEAST to MOST; set *FOUND to it. */
bool number(const char *text, long least, long most, long *found)
{
    size_t digits = strspn(text, "0123456789");
    if (digits == 0 || digits > 10 || text[digits] != '\0')
        return false;
    *found = strtol(text, NULL, 10);
    return *found >= least && *found <= most;
}
