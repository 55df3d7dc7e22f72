/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Starts the service, once for all clients that find none running; finds Breezy. */

#include "client.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

/* Milliseconds between two checks whether the service has been started. */
enum { PAUSE = 20 };

/* The path of "brz" beside this program if there is one, else "brz" for PATH. */
char *find_breezy(void)
{
    char self[PATH_MAX];
    ssize_t size = readlink("/proc/self/exe", self, sizeof self - 1);
    self[size > 0 ? size : 0] = '\0';
    char *slash = strrchr(self, '/');
    if (slash != NULL) {
        *slash = '\0';
        char *beside = joined(self, "/brz");
        if (access(beside, X_OK) == 0)
            return beside;
        free(beside);
    }
    return joined("brz", "");
}

/* Create DIRECTORY with mode 0700, and its missing parents; 0 or an errno. */
static int make_directory(const char *directory)
{
    struct stat found;
    char *path = joined(directory, "");
    int error = 0;
    for (char *at = path + 1; error == 0 && (at = strchr(at, '/')) != NULL; at++) {
        *at = '\0';
        if (stat(path, &found) < 0 && mkdir(path, 0777) < 0 && errno != EEXIST)
            error = errno;
        *at = '/';
    }
    if (error == 0 && mkdir(path, 0700) < 0) {
        error = errno;
        if (stat(path, &found) == 0 && S_ISDIR(found.st_mode))
            error = 0;
    }
    free(path);
    return error;
}

static bool take_lock(int descriptor)
{
    return flock(descriptor, LOCK_EX | LOCK_NB) == 0;
}

/* Whether a process has the lock file in DIRECTORY locked. */
static bool is_held(const char *directory)
{
    char *path = joined(directory, "/lock");
    int lock = open(path, O_RDONLY | O_CLOEXEC);
    free(path);
    if (lock < 0)
        return false;
    bool held = !take_lock(lock) && errno == EWOULDBLOCK;
    close(lock);
    return held;
}

static bool take_a_pause(double deadline, struct fault *fault)
{
    if (now() > deadline)
        return fail(fault, NO_SERVICE, "the service is still being started");
    poll(NULL, 0, PAUSE);
    return true;
}

/* The last line of SAID that is not blank, as UTF-8. */
static char *last_line(char *said, size_t size)
{
    char *clean = allocate(3 * size + 1);
    clean_utf8(said, size, clean);
    for (;;) {
        char *newline = strrchr(clean, '\n');
        char *line = newline != NULL ? newline + 1 : clean;
        char *text = joined(line, ""), *bare = strip(text);
        bool blank = *bare == '\0';
        free(text);
        if (!blank || newline == NULL) {
            char *found = joined(blank ? "no reason given" : line, "");
            free(clean);
            return found;
        }
        *newline = '\0';
    }
}

/* Read DESCRIPTOR to its end; the last part of the text, if it is long. */
static size_t read_last(int descriptor, char *said, size_t room)
{
    size_t size = 0;
    ssize_t got;
    while ((got = read(descriptor, said + size, room - size)) > 0
           || (got < 0 && errno == EINTR)) {
        size += got > 0 ? (size_t)got : 0;
        if (size == room) {
            memmove(said, said + room / 2, room / 2);
            size = room / 2;
        }
    }
    return size;
}

/* Start the command WORDS with ERRORS as standard error, and without our stdio; 0 or
 * an errno. */
static int launch(char *const *words, const struct signals *signals, int errors,
                  pid_t *pid)
{
    posix_spawn_file_actions_t files;
    posix_spawnattr_t attributes;
    int error = posix_spawn_file_actions_init(&files);
    if (error != 0)
        return error;
    error = posix_spawnattr_init(&attributes);
    if (error == 0) {
        posix_spawnattr_setsigmask(&attributes, &signals->before);
        posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK);
        error = posix_spawn_file_actions_addopen(&files, 0, "/dev/null", O_RDWR, 0);
        if (error == 0)
            error = posix_spawn_file_actions_adddup2(&files, 0, 1);
        if (error == 0)
            error = posix_spawn_file_actions_adddup2(&files, errors, 2);
        if (error == 0)
            error = posix_spawnp(pid, words[0], &files, &attributes, words, environ);
        posix_spawnattr_destroy(&attributes);
    }
    posix_spawn_file_actions_destroy(&files);
    return error;
}

/* Run the command that starts the service to its end; why it failed, or NULL. */
static char *run(const char *directory, const struct signals *signals)
{
    char *program = find_breezy(), *where = joined(directory, "");
    char *words[] = {program,    "lp-serve",      "--fork-server",
                     "--daemon", "--runtime-dir", where,
                     NULL};
    char said[8192];
    char *why = NULL;
    int errors[2], status = 0;
    pid_t pid;
    int error = pipe2(errors, O_CLOEXEC) < 0 ? errno : 0;
    if (error == 0) {
        error = launch(words, signals, errors[1], &pid);
        close(errors[1]);
        if (error == 0) {
            size_t size = read_last(errors[0], said, sizeof said);
            while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
                ;
            if (status != 0)
                why = last_line(said, size);
        }
        close(errors[0]);
    }
    if (error != 0) {
        struct fault fault = {0, NULL, false};
        fail(&fault, 0, "cannot run %s: %s", program, strerror(error));
        why = fault.text;
    }
    free(program);
    free(where);
    return why;
}

/* Start the service unless it is running; the caller holds the directory locked. */
static bool start_locked(const char *directory, const struct signals *signals,
                         double deadline, struct fault *fault)
{
    for (;;) {
        static struct conversation conversation; /* static only for its size */
        bool there = open_door(&conversation, directory, FIFO, NULL, signals, fault);
        close_door(&conversation);
        if (there)
            return true;
        if (!is_held(directory))
            break;
        /* A client that was killed meanwhile has started it; it is not ready. */
        if (!take_a_pause(deadline, fault))
            return false;
    }
    char *why = run(directory, signals);
    if (why == NULL)
        return true;
    /* The text may name any path, so it is not public. */
    fail(fault, NO_SERVICE, "the service cannot be started%s%s",
         is_remote() ? "" : ": ", is_remote() ? "" : why);
    free(why);
    return false;
}

/* Start the service unless another client does so; wait until it is ready. */
bool start_service(const char *directory, const struct signals *signals,
                   double deadline, struct fault *fault)
{
    int guard = -1, error = make_directory(directory);
    if (error == 0) {
        guard = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        error = guard < 0 ? errno : 0;
    }
    if (error != 0)
        return fail(fault, NO_SERVICE, "cannot make %s: %s", place(directory),
                    strerror(error));
    /* The first client holds the directory locked until the service is ready; the
     * others then find it running. */
    bool fine = true;
    while (fine && !take_lock(guard))
        fine = take_a_pause(deadline, fault);
    fine = fine && start_locked(directory, signals, deadline, fault);
    close(guard);
    return fine;
}
