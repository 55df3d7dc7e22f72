/* SPDX-License-Identifier: GPL-2.0-or-later */

/* How a directory of this host is called before those who may not know its path. */

#include "client.h"

#include <stdlib.h>

/* Whether whoever reads our standard error is a user of ssh, not of this host.
 * Somebody with a terminal has a shell here (ssh(1)). */
bool is_remote(void)
{
    return getenv("SSH_ORIGINAL_COMMAND") != NULL
        || (getenv("SSH_CONNECTION") != NULL && getenv("SSH_TTY") == NULL);
}

/* " at DIRECTORY"; valid until the next call. */
const char *at(const char *directory)
{
    static char *text;
    free(text);
    text = joined(is_remote() ? "" : " at ", is_remote() ? "" : directory);
    return text;
}

/* DIRECTORY, as what a sentence is about. */
const char *place(const char *directory)
{
    return is_remote() ? "the runtime directory" : directory;
}
