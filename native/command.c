/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Checks USER, and accepts only the commands of Bazaar clients. */

#include "client.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LETTERS "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
#define DIGITS "0123456789"

/* Whether TEXT can be a USER. */
bool is_user(const char *text)
{
    size_t size = strspn(text, LETTERS DIGITS "._@+~-");
    return text[size] == '\0' && size > 0 && size <= 64
        && strchr("-.@+", *text) == NULL;
}

static bool is_word(const char *text, size_t size, const char *word)
{
    return strlen(word) == size && strncmp(text, word, size) == 0;
}

/* Whether WORD is one of the words of COMMAND, which single spaces separate. */
static bool has_word(const char *command, const char *word)
{
    for (;; command++) {
        size_t size = strcspn(command, " ");
        if (is_word(command, size, word))
            return true;
        command += size;
        if (*command == '\0')
            return false;
    }
}

/* Whether COMMAND is one that a Bazaar client sends. */
static bool is_bazaar(const char *command)
{
    if (command[strspn(command, LETTERS DIGITS "@%_-+=:,./~ ")] != '\0')
        return false;
    size_t size = strcspn(command, " ");
    const char *slash = memrchr(command, '/', size);
    const char *program = slash == NULL ? command : slash + 1;
    size -= (size_t)(program - command);
    if (is_word(program, size, "bzr") || is_word(program, size, "brz")) {
        if (program[size] == '\0')
            return false;
        program += size + 1;
        size = strcspn(program, " ");
        if (is_word(program, size, "serve"))
            return has_word(command, "--inet");
    }
    if (is_word(program, size, "lp-serve"))
        return has_word(command, "--inet");
    return is_word(program, size, "lp-serve-client");
}

/* Why the command of an ssh client is refused, or NULL. With a forced command, sshd
 * puts it into SSH_ORIGINAL_COMMAND; it is never executed. */
char *command_fault(void)
{
    const char *command = getenv("SSH_ORIGINAL_COMMAND");
    if (command == NULL) {
        const char *terminal = getenv("SSH_TTY");
        if (terminal != NULL && *terminal != '\0' && isatty(STDIN_FILENO))
            return joined("this account serves Bazaar, not a shell", "");
        return NULL;
    }
    if (is_bazaar(command))
        return NULL;
    /* The first 80 characters, without control characters for a terminal. */
    char shown[81];
    size_t size = 0, left = strlen(command);
    for (; size < 80 && left > 0; size++) {
        int length = character(command, left);
        size_t taken = length < 0 ? 1 : (size_t)length;
        shown[size] = *command >= ' ' && *command <= '~' ? *command : '?';
        command += taken;
        left -= taken;
    }
    shown[size] = '\0';
    return joined("only 'bzr serve --inet' is allowed, not: ", shown);
}
