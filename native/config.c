/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Reads what the client needs of breezy.conf, and finds the runtime directory. */

#include "client.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <math.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sysexits.h>
#include <unistd.h>

static const char *const environment[] = {
    "BRZ_EMAIL", "LANG",       "LC_ALL",         "LC_CTYPE",
    "TZ",        "SSH_CLIENT", "SSH_CONNECTION", "SSH_ORIGINAL_COMMAND",
    NULL,
};

/* The options that are read, and their texts; NULL if not set. */
enum {
    RUNTIME_DIR,
    SERVICE_USER,
    ENVIRONMENT,
    AUTOSTART,
    FALLBACK,
    CONNECT_TIMEOUT,
    OPTIONS,
};
static const char *const names[OPTIONS] = {
    "runtime_dir", "service_user", "environment",
    "autostart",   "fallback",     "connect_timeout",
};

static char *copied(const char *text)
{
    return joined(text, "");
}

/* The account NAME, or our own for NULL; NULL if there is none. It reads /etc/passwd,
 * because a static program cannot load other sources (nsswitch.conf(5)). Valid until
 * the next call. */
static const struct passwd *account(const char *name)
{
    FILE *accounts = fopen("/etc/passwd", "re");
    const struct passwd *each;
    if (accounts == NULL)
        return NULL;
    while ((each = fgetpwent(accounts)) != NULL)
        if (name != NULL ? strcmp(each->pw_name, name) == 0 : each->pw_uid == getuid())
            break;
    fclose(accounts);
    return each;
}

/* The home of the account NAME, or of our own for NULL; NULL if there is none. */
static char *home_of(const char *name)
{
    const struct passwd *found = account(name);
    return found != NULL ? copied(found->pw_dir) : NULL;
}

/* Whether a service that runs as UID is trusted with our stdio. SERVICE_USER is a
 * name or a number, or NULL. */
bool is_trusted(uid_t uid, const char *service_user)
{
    const struct passwd *found;
    if (uid == 0 || uid == geteuid())
        return true;
    if (service_user == NULL || *service_user == '\0')
        return false;
    if (service_user[strspn(service_user, "0123456789")] == '\0') {
        long chosen;
        return number(service_user, 0, UINT_MAX, &chosen) && (uid_t)chosen == uid;
    }
    found = account(service_user);
    return found != NULL && found->pw_uid == uid;
}

/* PATH with ~ or ~NAME at its beginning replaced, as os.path.expanduser does. */
static char *expanded(const char *path)
{
    if (*path != '~')
        return copied(path);
    size_t size = strcspn(path, "/");
    char *name = strndup(path + 1, size - 1), *home;
    if (name != NULL && *name != '\0')
        home = home_of(name);
    else
        home = getenv("HOME") != NULL ? copied(getenv("HOME")) : home_of(NULL);
    free(name);
    if (home == NULL)
        return copied(path);
    for (size_t end = strlen(home); end > 0 && home[end - 1] == '/'; end--)
        home[end - 1] = '\0';
    char *whole = joined(home, path + size);
    free(home);
    if (*whole == '\0') {
        free(whole);
        return copied("/");
    }
    return whole;
}

/* PATH as os.path.abspath returns it; NULL if getcwd(3) fails. */
static char *absolute(const char *path)
{
    char *whole;
    if (*path == '/') {
        whole = copied(path);
    } else {
        char *here = getcwd(NULL, 0);
        if (here == NULL)
            return NULL;
        char *below = joined("/", path);
        whole = joined(here, below);
        free(below);
        free(here);
    }
    /* Exactly two slashes in front have a special meaning in POSIX. */
    char *root = whole + (whole[1] == '/' && whole[2] != '/');
    char *in = root, *out = root;
    while (*(in += strspn(in, "/")) != '\0') {
        size_t size = strcspn(in, "/");
        if (size == 2 && in[0] == '.' && in[1] == '.') {
            while (out > root && *--out != '/')
                ;
        } else if (size != 1 || *in != '.') {
            *out++ = '/';
            memmove(out, in, size);
            out += size;
        }
        in += size;
    }
    if (out == root)
        *out++ = '/';
    *out = '\0';
    return whole;
}

/* The first value in TEXT: quoted, or up to a comment; changed in place. */
static char *value(char *text)
{
    char *end = NULL;
    if (*text == '\'' || *text == '"')
        end = strchr(text + 1, *text);
    if (end != NULL) {
        *end = '\0';
        return text + 1;
    }
    text[strcspn(text, "#")] = '\0';
    return strip(text);
}

/* The values in TEXT, which commas separate; changed in place. */
static const char *const *values(char *text)
{
    /* Each value but the last takes two bytes at least, with its comma. */
    const char **found = allocate((strlen(text) / 2 + 2) * sizeof *found);
    size_t count = 0;
    while (*text != '\0' && *text != '#') {
        char *quote = *text == '\'' || *text == '"' ? strchr(text + 1, *text) : NULL;
        char *comma = strchr(quote != NULL ? quote + 1 : text, ',');
        char *each = text;
        text += strlen(text);
        if (comma != NULL) {
            *comma = '\0';
            text = strip(comma + 1);
        }
        each = value(quote != NULL ? each : strip(each));
        if (*each != '\0')
            found[count++] = each;
    }
    found[count] = NULL;
    return found;
}

/* The end and the length of the first line of TEXT, as str.splitlines has it. */
static char *line_end(char *text, size_t *length)
{
    static const char *const wide[] = {"\302\205", "\342\200\250", "\342\200\251"};
    for (;; text++) {
        text += strcspn(text, "\n\r\v\f\034\035\036\302\342");
        *length = *text != '\0';
        if ((unsigned char)*text < 0x80)
            return text;
        for (size_t each = 0; each < sizeof wide / sizeof wide[0]; each++) {
            *length = strlen(wide[each]);
            if (strncmp(text, wide[each], *length) == 0)
                return text;
        }
    }
}

/* Parse one line of breezy.conf; *OURS is whether it is in the section [DEFAULT]. */
static void read_line(char *line, bool *ours, char **options)
{
    line = strip(line);
    if (*line == '[') {
        line[strcspn(line, "]")] = '\0';
        *ours = strcmp(value(strip(line + 1)), "DEFAULT") == 0;
        return;
    }
    if (!*ours || strncmp(line, "lpserve.", strlen("lpserve.")) != 0)
        return;
    char *text = strchr(line, '=');
    if (text != NULL)
        *text++ = '\0';
    else
        text = line + strlen(line);
    const char *name = strip(line) + strlen("lpserve.");
    for (int each = 0; each < OPTIONS; each++)
        if (strcmp(name, names[each]) == 0)
            options[each] = strip(text);
}

/* The content of the file PATH, as valid UTF-8; NULL if it cannot be read. */
static char *read_file(const char *path)
{
    size_t room = 8192, size = 0;
    ssize_t got = -1;
    int file = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    if (file < 0)
        return NULL;
    char *text = allocate(room);
    while ((got = read(file, text + size, room - size)) > 0) {
        size += (size_t)got;
        if (size == room) {
            char *larger = allocate(room *= 2);
            memcpy(larger, text, size);
            free(text);
            text = larger;
        }
    }
    close(file);
    if (got < 0) {
        free(text);
        return NULL;
    }
    if (is_utf8(text, size) && memchr(text, '\0', size) == NULL) {
        text[size] = '\0';
        return text;
    }
    char *clean = allocate(3 * size + 1);
    clean_utf8(text, size, clean);
    free(text);
    return clean;
}

/* Read the texts of our options from breezy.conf, which is looked for where Breezy
 * does. They point into the result, which is NULL if there is no file. */
static char *read_options(char **options)
{
    const char *base = getenv("BRZ_HOME");
    if (base == NULL || *base == '\0')
        base = getenv("XDG_CONFIG_HOME");
    if (base == NULL || *base == '\0')
        base = "~/.config";
    char *directory = expanded(base);
    char *path = joined(directory, "/breezy/breezy.conf");
    char *text = read_file(path);
    free(path);
    free(directory);
    if (text == NULL)
        return NULL;
    char *line = strncmp(text, "\357\273\277", 3) == 0 ? text + 3 : text;
    bool ours = false;
    for (size_t length = 1; length > 0;) {
        char *end = line_end(line, &length);
        *end = '\0';
        read_line(line, &ours, options);
        line = end + length;
    }
    return text;
}

static bool is_one_of(const char *text, const char *const *words)
{
    while (*words != NULL && strcasecmp(text, *words) != 0)
        words++;
    return *words != NULL;
}

/* The end of the digits that TEXT begins with; underscores may separate them. */
static char *take_digits(char *text, char **out)
{
    char *first = *out;
    for (; (*text >= '0' && *text <= '9') || (*text == '_' && *out > first); text++) {
        if (*text != '_')
            *(*out)++ = *text;
        else if (text[1] < '0' || text[1] > '9')
            break;
    }
    return text;
}

/* Parse seconds, as float() does; TEXT is changed in place. -1 if it is invalid. */
static double seconds(char *text)
{
    char *in = text, *out = text;
    if (*in == '+' || *in == '-')
        *out++ = *in++;
    char *first = out;
    in = take_digits(in, &out);
    bool any = out > first;
    if (*in == '.') {
        *out++ = *in++;
        first = out;
        in = take_digits(in, &out);
        any = any || out > first;
    }
    if (any && (*in == 'e' || *in == 'E')) {
        *out++ = *in++;
        if (*in == '+' || *in == '-')
            *out++ = *in++;
        first = out;
        in = take_digits(in, &out);
        any = out > first;
    }
    if (!any || *in != '\0')
        return -1;
    *out = '\0';
    double found = strtod(text, NULL);
    return found >= 0 && !isinf(found) ? found : -1;
}

/* Set *FOUND to the value of an option that is True or False; not if it is unset. */
static bool read_boolean(char **options, int option, bool *found, struct fault *fault)
{
    static const char *const yes[] = {"1", "true", "yes", "on", "y", NULL};
    static const char *const no[] = {"0", "false", "no", "off", "n", NULL};
    if (options[option] == NULL)
        return true;
    const char *text = value(options[option]);
    *found = is_one_of(text, yes);
    return *found || is_one_of(text, no)
        || fail(fault, EX_USAGE, "breezy.conf: lpserve.%s must be True or False",
                names[option]);
}

/* Read the settings of breezy.conf, or the defaults. */
bool read_configuration(struct settings *settings, struct fault *fault)
{
    char *options[OPTIONS] = {NULL};
    *settings = (struct settings){
        .environment = environment, .fallback = true, .connect_timeout = 30};
    settings->text = read_options(options);
    if (!read_boolean(options, AUTOSTART, &settings->autostart, fault)
        || !read_boolean(options, FALLBACK, &settings->fallback, fault))
        return false;
    if (options[CONNECT_TIMEOUT] != NULL)
        settings->connect_timeout = seconds(value(options[CONNECT_TIMEOUT]));
    if (settings->connect_timeout < 0)
        return fail(fault, EX_USAGE,
                    "breezy.conf: lpserve.connect_timeout must be a number of seconds");
    if (options[RUNTIME_DIR] != NULL)
        settings->runtime_dir = value(options[RUNTIME_DIR]);
    if (options[SERVICE_USER] != NULL)
        settings->service_user = value(options[SERVICE_USER]);
    if (options[ENVIRONMENT] != NULL)
        settings->environment = values(options[ENVIRONMENT]);
    return true;
}

static bool given(const char *text)
{
    return text != NULL && *text != '\0';
}

/* The absolute path of the runtime directory; see doc/protocol.txt. NULL with errno
 * if getcwd(3) fails. CHOSEN and CONFIGURED may be NULL. */
char *runtime_directory(const char *chosen, const char *configured)
{
    char *path = NULL;
    const char *systemd = getenv("RUNTIME_DIRECTORY");
    const char *login = getenv("XDG_RUNTIME_DIR");
    if (!given(chosen))
        chosen = configured;
    if (!given(chosen))
        chosen = getenv("LPSERVE_RUNTIME_DIR");
    if (given(chosen))
        path = copied(chosen);
    else if (given(systemd) && *systemd != ':')
        path = strndup(systemd, strcspn(systemd, ":")); /* systemd.exec(5): a list */
    else if (geteuid() == 0)
        path = copied("/run/lpserve");
    else if (given(login))
        path = joined(login, "/lpserve");
    else
        path = copied("~/.cache/breezy/lpserve");
    if (path == NULL)
        return NULL;
    char *whole = expanded(path);
    char *found = absolute(whole);
    free(whole);
    free(path);
    return found;
}
