/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * Composes the request for a worker. A remote user chooses the values of some
 * variables, and must not be able to make the request too long. If they do not fit,
 * locale and time zone are left out, and the command is cut.
 */

#include "client.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

/* The longest name of a locale or a time zone, in bytes. */
enum { LONGEST_LABEL = 255 };
/* Kinds of variables, in the order in which they are added. */
enum kind { NEEDED, LABEL, COMMAND, KINDS };

static enum kind kind_of(const char *name)
{
    if (strcmp(name, "LANG") == 0 || strcmp(name, "LANGUAGE") == 0
        || strcmp(name, "TZ") == 0 || strncmp(name, "LC_", 3) == 0)
        return LABEL;
    return strcmp(name, "SSH_ORIGINAL_COMMAND") == 0 ? COMMAND : NEEDED;
}

/* Whether VALUE can be the name of a locale or a time zone. */
static bool is_label(const char *value)
{
    size_t size = 0;
    while (size <= LONGEST_LABEL && (unsigned char)value[size] >= ' '
           && value[size] != '\177')
        size++;
    return value[size] == '\0' && size <= LONGEST_LABEL;
}

/* Add a variable; false, with nothing added, if it does not fit. */
static bool add_variable(struct line *line, const char *name, const char *value,
                         size_t limit)
{
    char word[MAX_REQUEST];
    size_t before = line->size;
    int size = snprintf(word, sizeof word, "env.%s=%s", name, value);
    line->fits = size >= 0 && (size_t)size < sizeof word
        && is_utf8(word, (size_t)size);
    if (line->fits) {
        add_bytes(line, " ", 1);
        add_quoted(line, word);
    }
    if (line->fits && line->size <= limit)
        return true;
    line->size = before;
    line->fits = true;
    return false;
}

/* Add a variable, or as much of its beginning as fits. */
static void add_beginning(struct line *line, const char *name, const char *value,
                          size_t limit)
{
    char kept[MAX_REQUEST];
    size_t size = 0, left = strlen(value), quotes = 0;
    size_t needed = line->size + strlen(" env.=") + strlen(name);
    if (needed > limit)
        return;
    while (left > 0 && value[size] != '\n') {
        int length = character(value + size, left);
        if (length < 0)
            break;
        needed += value[size] == '\'' ? 5 : (size_t)length;
        if (!is_plain(value[size]))
            quotes = 2;
        if (needed + quotes > limit)
            break;
        size += (size_t)length;
        left -= (size_t)length;
    }
    memcpy(kept, value, size);
    kept[size] = '\0';
    add_variable(line, name, kept, limit);
}

/* Compose "spawn USER env.NAME=VALUE..." in LINE, with the variables NAMES of our
 * environment. REPLY is the name of the reply FIFO, or NULL at the socket. False with
 * a fault if the request does not fit. */
bool compose(struct line *line, const char *user, const char *const *names,
             const char *reply, struct fault *fault)
{
    size_t limit = ROOM + (reply != NULL);
    line->size = 0;
    line->fits = true;
    /* The newline in front ends an incomplete line of another writer. */
    if (reply != NULL)
        add_bytes(line, "\n", 1);
    add_bytes(line, "spawn ", 6);
    add_quoted(line, user);
    for (enum kind kind = NEEDED; kind < KINDS; kind++) {
        for (const char *const *name = names; *name != NULL; name++) {
            const char *value = strchr(*name, '=') == NULL ? getenv(*name) : NULL;
            /* The worker sets it for hooks; no request can. */
            if (value == NULL || strcmp(*name, "LPSERVE_USER") == 0
                || kind_of(*name) != kind || (kind == LABEL && !is_label(value))
                || add_variable(line, *name, value, limit))
                continue;
            if (kind == COMMAND)
                add_beginning(line, *name, value, limit);
            else if (kind == NEEDED)
                return fail(fault, EX_USAGE,
                            "%s does not fit into a request (4096 bytes of UTF-8 "
                            "without a newline)",
                            *name);
        }
    }
    if (reply != NULL) {
        add_bytes(line, " reply=", 7);
        add_bytes(line, reply, strlen(reply));
    }
    add_bytes(line, "\n", 1);
    return true;
}
