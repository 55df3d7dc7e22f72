/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Names a directory in messages; without its path if the reader is a remote user. */

#include "client.h"

#include <stdlib.h>

/* Whether a remote user of ssh, without a shell here, reads our standard error. A
 * user with a terminal has a shell (ssh(1)). */
bool is_remote(void)
{
    return getenv("SSH_ORIGINAL_COMMAND") != NULL
        || (getenv("SSH_CONNECTION") != NULL && getenv("SSH_TTY") == NULL);
}

/* " at DIRECTORY", or ""; valid until the next call. */
const char *at(const char *directory)
{
    static char *text;
    free(text);
    text = joined(is_remote() ? "" : " at ", is_remote() ? "" : directory);
    return text;
}

/* DIRECTORY, or "the runtime directory". */
const char *place(const char *directory)
{
    return is_remote() ? "the runtime directory" : directory;
}
