/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Finds out whether the host is out of service: the file RUNTIME_DIR/drained. */

#include "client.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sysexits.h>
#include <unistd.h>

/* The longest message, in bytes. */
enum { LONGEST = 512 };

/* Whether a terminal does nothing but show the character of LENGTH bytes at TEXT; the
 * ranges are those of ../lpserve/drained.py. */
static bool is_shown(const char *text, int length)
{
    static const unsigned char bits[] = {0, 0x7f, 0x1f, 0x0f, 0x07};
    static const unsigned int hidden[][2] = {
        {0, 0x1f},        {0x7f, 0x9f},     {0x200b, 0x200f}, {0x2028, 0x202e},
        {0x2060, 0x206f}, {0xfeff, 0xfeff}, {0xfff9, 0xfffb},
    };
    unsigned int code = (unsigned char)*text & bits[length];
    for (int at = 1; at < length; at++)
        code = code << 6 | ((unsigned char)text[at] & 0x3f);
    for (size_t each = 0; each < sizeof hidden / sizeof hidden[0]; each++)
        if (code >= hidden[each][0] && code <= hidden[each][1])
            return false;
    return true;
}

/* The message in SIZE bytes of the file: its first line; not NULL. */
char *drained_message(const char *text, size_t size)
{
    char *message = allocate(3 * size + 1), *end = message;
    for (size_t at = 0; at < size && text[at] != '\n';) {
        int length = character(text + at, size - at);
        if (length < 0)
            end = stpcpy(end, "\357\277\275");
        else if (is_shown(text + at, length))
            end = mempcpy(end, text + at, (size_t)length);
        else
            *end++ = '?';
        at += (size_t)abs(length);
    }
    *end = '\0';
    if (end != message)
        return message;
    free(message);
    return joined("the server is out of service, try again later", "");
}

/* Whether connections to DIRECTORY are refused; then FAULT has the message. A directory
 * that is not trusted says nothing. */
bool is_drained(const char *directory, const char *service_user, struct fault *fault)
{
    struct stat found;
    char text[LONGEST];
    if (stat(directory, &found) < 0 || !S_ISDIR(found.st_mode)
        || found.st_mode & (S_IWGRP | S_IWOTH)
        || !is_trusted(found.st_uid, service_user))
        return false;
    char *path = joined(directory, "/drained");
    int file = open(path, O_RDONLY | O_NONBLOCK | O_NOFOLLOW | O_CLOEXEC);
    free(path);
    /* A link, or what may not be read, is there all the same. */
    if (file < 0 && errno != ELOOP && errno != EACCES)
        return false;
    ssize_t got = file < 0 ? 0 : read(file, text, sizeof text);
    if (file >= 0)
        close(file);
    char *message = drained_message(text, got > 0 ? (size_t)got : 0);
    refuse(fault, EX_TEMPFAIL, message);
    free(message);
    return true;
}
