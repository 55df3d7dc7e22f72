/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * lp-serve-client: asks the lpserve fork service for a worker, and relays stdio to it.
 *
 * 'brz help lp-serve-client' describes it; ../lpserve/client/client.py does the same.
 */

#include "client.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <unistd.h>

static const char usage[] =
    "usage: lp-serve-client [OPTIONS] USER\n"
    "\n"
    "Ask the lpserve fork service for a worker that serves USER and relay standard\n"
    "input and output to it.\n"
    "\n"
    "  --runtime-dir DIR   where the service is (default: see 'brz help lpserve')\n"
    "  --door fifo|socket  ask there only (default: the socket, else the FIFO)\n"
    "  --no-fallback       fail instead of serving the connection without the service\n"
    "  --version           show the version\n"
    "  --help              show this text\n";

struct options {
    const char *user;
    const char *runtime_dir; /* or NULL */
    bool fallback;
    enum door door;
};

/* Open descriptors 0 to 2 on /dev/null if they are closed. */
static void open_stdio(void)
{
    struct pollfd each[3] = {{.fd = 0}, {.fd = 1}, {.fd = 2}};
    poll(each, 3, 0);
    for (int number = 0; number < 3; number++)
        /* open() uses the lowest free number, which is this one. */
        if ((each[number].revents & POLLNVAL) && open("/dev/null", O_RDWR) != number)
            _exit(EX_UNAVAILABLE);
}

/* Write TEXT to standard output, and exit. */
static void show(const char *text)
{
    _exit(write(STDOUT_FILENO, text, strlen(text)) < 0 ? 1 : 0);
}

static bool has_word(char **words, const char *word)
{
    while (*words != NULL && strcmp(*words, word) != 0)
        words++;
    return *words != NULL;
}

static bool read_door(const char *name, enum door *door, struct fault *fault)
{
    *door = ANY;
    if (name == NULL)
        return true;
    *door = strcmp(name, "fifo") == 0 ? FIFO : SOCKET;
    return *door == FIFO || strcmp(name, "socket") == 0
        || fail(fault, EX_USAGE, "--door must be fifo or socket, not %s", name);
}

/* The value of the option NAME if *WORDS is that option, else NULL. The value is
 * --NAME=VALUE or the next word; *WORDS is advanced to the last word of the option. */
static const char *option(char ***words, const char *name)
{
    size_t size = strlen(name);
    if (strncmp(**words, name, size) != 0)
        return NULL;
    if ((**words)[size] == '=')
        return **words + size + 1;
    return (**words)[size] == '\0' && (*words)[1] != NULL ? *++*words : NULL;
}

static bool parse(char **words, struct options *options, struct fault *fault)
{
    int users = 0;
    const char *value, *door = NULL;
    *options = (struct options){.fallback = true};
    for (; *words != NULL; words++) {
        if (strcmp(*words, "--no-fallback") == 0) {
            options->fallback = false;
        } else if ((value = option(&words, "--runtime-dir")) != NULL) {
            options->runtime_dir = value;
        } else if ((value = option(&words, "--door")) != NULL) {
            door = value;
        } else if (**words == '-') {
            return fail(fault, EX_USAGE, "unknown option %s; try --help", *words);
        } else {
            options->user = *words;
            users++;
        }
    }
    if (users != 1)
        return fail(fault, EX_USAGE, "expected one USER, not %d; try --help", users);
    return read_door(door, &options->door, fault);
}

/* The exit status for the LAST answer; -1 with a fault if a message is due. */
static int conclude(const struct conversation *conversation, const struct answer *last,
                    bool told, struct fault *fault)
{
    long status;
    if (last->count == 2 && strcmp(word_of(last, 0), "signal") == 0
        && number(word_of(last, 1), 1, 64, &status)) {
        fail(fault, 128 + (int)status, "the worker was ended by signal %ld", status);
        return -1;
    }
    if (last->count != 2 || strcmp(word_of(last, 0), "exit") != 0
        || !number(word_of(last, 1), 0, 255, &status)) {
        not_understood(conversation, EX_UNAVAILABLE, fault);
        return -1;
    }
    /* With 3 and 4 the worker has written an error itself. At the FIFO we know. */
    if (status == 0 || (conversation->by_socket ? status == 3 || status == 4 : told))
        return (int)status;
    fail(fault, (int)status,
         "the worker ended with status %ld; the service's log says why", status);
    return -1;
}

/* Serve one connection with a worker; the exit status, or -1 with a fault. */
static int ask_service(const struct options *options, const struct settings *settings,
                       const char *directory, const struct signals *signals,
                       double deadline, struct fault *fault)
{
    static struct conversation asked; /* static only for its size */
    struct answer ok, last;
    bool told = false;
    int status = -1;
    if (open_door(&asked, directory, options->door, settings->service_user, signals,
                  fault)
        && ask_for_worker(&asked, options->user, settings, deadline, &ok, fault)
        && (asked.by_socket ? follow(&asked, &ok, &last, fault)
                            : relay(&asked, &ok, &last, &told, fault)))
        status = conclude(&asked, &last, told, fault);
    close_door(&asked);
    return status;
}

/* Execute "brz lp-serve --inet", which serves the connection without the service. */
static void fall_back(const char *user, const struct signals *signals,
                      struct fault *fault)
{
    char *program = find_breezy(), *whom = joined(user, "");
    char *line = joined(fault->text, "; serving this connection without it");
    char *words[] = {program, "lp-serve", "--inet", "--", whom, NULL};
    tell(line);
    sigprocmask(SIG_SETMASK, &signals->before, NULL);
    execvp(program, words);
    fail(fault, EX_UNAVAILABLE, "cannot run %s: %s", is_remote() ? "Breezy" : program,
         strerror(errno));
    free(line);
    free(whom);
    free(program);
}

/* Whether USER and the command of the client may be served. */
static bool is_served(const char *user, struct fault *fault)
{
    if (!is_user(user))
        return fail(fault, EX_USAGE, "USER must be letters, digits and ._@+~-");
    char *refusal = command_fault();
    if (refusal == NULL)
        return true;
    fail(fault, EX_USAGE, "%s", refusal);
    free(refusal);
    return false;
}

/* Serve one connection with the service in DIRECTORY, after an autostart if that is
 * set, or without it; the exit status, or -1 with a fault. */
static int serve(const struct options *options, const struct settings *settings,
                 const char *directory, struct fault *fault)
{
    struct signals signals;
    if (!is_served(options->user, fault) || !open_signals(&signals, fault))
        return -1;
    double deadline = now() + settings->connect_timeout;
    int status = ask_service(options, settings, directory, &signals, deadline, fault);
    if (status < 0 && fault->status == NO_SERVICE
        && !is_drained(directory, settings->service_user, fault) && settings->autostart
        && start_service(directory, &signals, deadline, fault))
        status = ask_service(options, settings, directory, &signals, deadline, fault);
    if (status < 0 && fault->status == NO_SERVICE) {
        fault->status = EX_UNAVAILABLE;
        fault->refused = !options->fallback || !settings->fallback;
        if (!fault->refused)
            fall_back(options->user, &signals, fault);
    }
    if (status < 0 && fault->refused && answer_request(fault->text, &signals))
        return fault->status;
    return status;
}

int main(int argc, char **argv)
{
    struct fault fault = {0, NULL, false};
    struct options options;
    struct settings settings;
    char **words = argv + (argc > 0);
    int status = -1;
    open_stdio();
    if (has_word(words, "--help"))
        show(usage);
    if (has_word(words, "--version"))
        show("lp-serve-client " VERSION " (native)\n");
    if (parse(words, &options, &fault) && read_configuration(&settings, &fault)) {
        char *directory = runtime_directory(options.runtime_dir, settings.runtime_dir);
        if (directory != NULL)
            status = serve(&options, &settings, directory, &fault);
        else
            fail(&fault, EX_UNAVAILABLE, "cannot tell where we are: %s",
                 strerror(errno));
        free(directory);
    }
    if (status < 0) {
        tell(fault.text);
        status = fault.status;
    }
    _exit(status);
}
