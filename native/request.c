/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Sends one request to the service, through either door, and reads the answers. */

#include "client.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sysexits.h>
#include <unistd.h>

static bool no_service(const char *directory, struct fault *fault)
{
    return fail(fault, NO_SERVICE, "no service%s (%s)", at(directory),
                strerror(errno));
}

static bool no_answer(const struct conversation *conversation, struct fault *fault)
{
    return fail(fault, NO_SERVICE, "the service%s does not answer",
                at(conversation->directory));
}

static bool ended(const struct conversation *conversation, struct fault *fault)
{
    return fail(fault, NO_SERVICE, "the service%s ended", at(conversation->directory));
}

bool not_understood(const struct conversation *conversation, int status,
                    struct fault *fault)
{
    return fail(fault, status,
                "the service%s gives an answer that this client does not understand",
                at(conversation->directory));
}

/* Whether DIRECTORY can be trusted: only OWNER can write to it. */
static bool is_safe(const char *directory, uid_t owner, struct fault *fault)
{
    struct stat found;
    if (stat(directory, &found) < 0)
        return no_service(directory, fault);
    if (!S_ISDIR(found.st_mode))
        return fail(fault, NO_SERVICE, "%s is not a directory", place(directory));
    if (found.st_uid != owner)
        return fail(fault, NO_SERVICE, "%s is owned by uid %u, not by uid %u",
                    place(directory), found.st_uid, owner);
    if (found.st_mode & (S_IWGRP | S_IWOTH))
        return fail(fault, NO_SERVICE,
                    "%s is writable by others (mode %04o); chmod it to 0700",
                    place(directory), found.st_mode & 07777);
    return true;
}

/* Poll for EVENTS at DESCRIPTOR; set *READY to the result of poll(2). False with a
 * fault after a signal, or when the service has ended. */
static bool poll_for(const struct conversation *conversation, int descriptor,
                     short events, int milliseconds, int *ready, struct fault *fault)
{
    const struct signals *signals = conversation->signals;
    struct pollfd wanted[] = {
        {.fd = descriptor, .events = events},
        {.fd = signals->descriptor, .events = POLLIN},
        {.fd = conversation->control},
    };
    *ready = poll(wanted, 3, milliseconds);
    if (*ready < 0)
        return errno == EINTR || errno == EAGAIN
            || fail(fault, EX_UNAVAILABLE, "cannot wait: %s", strerror(errno));
    if (wanted[0].revents != 0)
        return true; /* the answer first: a signal may be for the worker */
    int signal = wanted[1].revents != 0 ? next_signal(signals) : 0;
    if (signal != 0)
        return fail(fault, 128 + signal, "ended by signal %d", signal);
    return wanted[2].revents == 0 || ended(conversation, fault);
}

/* Wait for EVENTS at DESCRIPTOR; false with a fault at the DEADLINE, too. */
static bool wait_for(const struct conversation *conversation, int descriptor,
                     short events, double deadline, struct fault *fault)
{
    int ready, milliseconds = poll_milliseconds(deadline);
    return poll_for(conversation, descriptor, events, milliseconds, &ready, fault)
        && (ready != 0 || milliseconds > 0 || no_answer(conversation, fault));
}

/* -- the socket --------------------------------------------------------------- */

/* The address of the socket in DIRECTORY; by way of the descriptor *OPENED if its
 * path is too long. */
static int find_socket(const char *directory, struct sockaddr_un *address, int *opened)
{
    const size_t room = sizeof address->sun_path;
    int size = snprintf(address->sun_path, room, "%s/socket", directory);
    address->sun_family = AF_UNIX;
    if (size > 0 && (size_t)size < room)
        return 0;
    *opened = open(directory, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (*opened < 0)
        return errno;
    snprintf(address->sun_path, room, "/proc/self/fd/%d/socket", *opened);
    return 0;
}

/* Connect to the socket; 0 or an errno. */
static int connect_to(const struct conversation *conversation)
{
    struct sockaddr_un address;
    int opened = -1, error = find_socket(conversation->directory, &address, &opened);
    const struct sockaddr *where = (const struct sockaddr *)&address;
    if (error == 0 && connect(conversation->answers, where, sizeof address) < 0)
        error = errno;
    if (opened >= 0)
        close(opened);
    return error;
}

/* Connect to the socket, unless its backlog is full. */
static bool try_to_connect(struct conversation *conversation, struct fault *fault)
{
    struct ucred peer;
    socklen_t size = sizeof peer;
    int error = connect_to(conversation);
    if (error == EAGAIN)
        return true;
    if (error == 0
        && getsockopt(conversation->answers, SOL_SOCKET, SO_PEERCRED, &peer, &size) < 0)
        error = errno;
    errno = error;
    conversation->connected = error == 0;
    if (error != 0)
        return no_service(conversation->directory, fault);
    if (!is_trusted(peer.uid, conversation->service_user))
        return fail(fault, NO_SERVICE,
                    "the service%s is run by uid %u: not ours, root's or "
                    "lpserve.service_user's",
                    at(conversation->directory), peer.uid);
    return is_safe(conversation->directory, peer.uid, fault);
}

static bool open_socket(struct conversation *conversation, struct fault *fault)
{
    conversation->connected = false;
    conversation->answers =
        socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    return conversation->answers >= 0 ? try_to_connect(conversation, fault)
                                      : no_service(conversation->directory, fault);
}

/* Retry to connect while the backlog is full; nothing reports when it is not. */
static bool be_connected(struct conversation *conversation, double deadline,
                         struct fault *fault)
{
    int ready;
    while (!conversation->connected) {
        if (now() > deadline)
            return no_answer(conversation, fault);
        if (!poll_for(conversation, -1, 0, 10, &ready, fault)
            || !try_to_connect(conversation, fault))
            return false;
    }
    return true;
}

/* Send LINE and our standard input, output and error. */
static bool send_descriptors(struct conversation *conversation, struct line *line,
                             struct fault *fault)
{
    const int ours[] = {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO};
    _Alignas(struct cmsghdr) char control[CMSG_SPACE(sizeof ours)] = {0};
    struct iovec text = {line->bytes, line->size};
    struct msghdr message = {
        .msg_iov = &text,
        .msg_iovlen = 1,
        .msg_control = control,
        .msg_controllen = sizeof control,
    };
    struct cmsghdr *attached = CMSG_FIRSTHDR(&message);
    attached->cmsg_level = SOL_SOCKET;
    attached->cmsg_type = SCM_RIGHTS;
    attached->cmsg_len = CMSG_LEN(sizeof ours);
    memcpy(CMSG_DATA(attached), ours, sizeof ours);
    ssize_t sent = sendmsg(conversation->answers, &message, MSG_NOSIGNAL);
    /* The service may have closed after an answer, which can still be read. */
    if (sent == (ssize_t)line->size || (sent < 0 && errno == EPIPE))
        return true;
    return fail(fault, NO_SERVICE, "%s: %s", place(conversation->directory),
                sent < 0 ? strerror(errno) : "only a part could be sent");
}

/* -- the FIFO ----------------------------------------------------------------- */

static bool open_fifo(struct conversation *conversation, struct fault *fault)
{
    const char *directory = conversation->directory;
    struct stat found;
    if (!is_safe(directory, geteuid(), fault))
        return false;
    char *path = joined(directory, "/control");
    conversation->control = open(path, O_WRONLY | O_NONBLOCK | O_CLOEXEC);
    free(path);
    if (conversation->control < 0 || fstat(conversation->control, &found) < 0)
        return no_service(directory, fault);
    /* Nobody else can create a FIFO that belongs to our user. */
    if (!S_ISFIFO(found.st_mode) || found.st_uid != geteuid())
        return fail(fault, NO_SERVICE, "control in %s is not a FIFO of ours",
                    place(directory));
    return true;
}

/* A name for a reply FIFO; the service removes those whose process has ended. */
static bool name_reply(char *name, size_t size, struct fault *fault)
{
    unsigned char bytes[4];
    if (getrandom(bytes, sizeof bytes, 0) != sizeof bytes)
        return fail(fault, NO_SERVICE, "no random numbers: %s", strerror(errno));
    snprintf(name, size, "client.%ld.%02x%02x%02x%02x", (long)getpid(), bytes[0],
             bytes[1], bytes[2], bytes[3]);
    return true;
}

static bool make_reply(struct conversation *conversation, const char *name,
                       struct fault *fault)
{
    char *replies = joined(conversation->directory, "/replies/");
    char *path = joined(replies, name);
    free(replies);
    if (mkfifo(path, 0600) < 0) {
        free(path);
    } else {
        conversation->reply = path;
        /* For reading and writing: with a writer open there is no end of file. */
        conversation->answers = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
    }
    return conversation->answers >= 0
        || fail(fault, NO_SERVICE, "%s: %s", place(conversation->directory),
                strerror(errno));
}

static bool write_request(struct conversation *conversation, const struct line *line,
                          double deadline, struct fault *fault)
{
    signal(SIGPIPE, SIG_IGN); /* the service may end now */
    while (write(conversation->control, line->bytes, line->size) < 0) {
        if (errno != EAGAIN)
            return fail(fault, NO_SERVICE, "%s: %s", place(conversation->directory),
                        strerror(errno));
        if (!wait_for(conversation, conversation->control, POLLOUT, deadline, fault))
            return false;
    }
    return true;
}

/* -- both --------------------------------------------------------------------- */

/* Open the door for a request; close_door has to be called, also after a failure. */
bool open_door(struct conversation *conversation, const char *directory,
               enum door door, const char *service_user,
               const struct signals *signals, struct fault *fault)
{
    conversation->directory = directory;
    conversation->service_user = service_user;
    conversation->signals = signals;
    conversation->control = conversation->answers = -1;
    conversation->reply = NULL;
    conversation->start = conversation->end = 0;
    conversation->by_socket = door != FIFO;
    if (conversation->by_socket) {
        if (open_socket(conversation, fault))
            return true;
        if (door == SOCKET || fault->status != NO_SERVICE)
            return false;
        close_door(conversation);
        conversation->by_socket = false;
    }
    return open_fifo(conversation, fault);
}

/* Close the conversation and remove its reply FIFO. */
void close_door(struct conversation *conversation)
{
    if (conversation->control >= 0)
        close(conversation->control);
    if (conversation->answers >= 0)
        close(conversation->answers);
    if (conversation->reply != NULL)
        unlink(conversation->reply);
    free(conversation->reply);
    conversation->control = conversation->answers = -1;
    conversation->reply = NULL;
}

static bool send_request(struct conversation *conversation, const char *user,
                         const struct settings *settings, double deadline,
                         struct fault *fault)
{
    struct line line;
    char name[64];
    if (!conversation->by_socket && !name_reply(name, sizeof name, fault))
        return false;
    if (!compose(&line, user, settings->environment,
                 conversation->by_socket ? NULL : name, fault))
        return false;
    if (conversation->by_socket)
        return be_connected(conversation, deadline, fault)
            && send_descriptors(conversation, &line, fault);
    return make_reply(conversation, name, fault)
        && write_request(conversation, &line, deadline, fault);
}

/* The next complete line, or NULL. */
static char *next_line(struct conversation *conversation, size_t *size)
{
    char *line = conversation->buffer + conversation->start;
    char *end = memchr(line, '\n', conversation->end - conversation->start);
    if (end == NULL)
        return NULL;
    *end = '\0';
    *size = (size_t)(end - line);
    conversation->start += *size + 1;
    return line;
}

/* Read the next answer, without waiting. */
enum arrival read_answer(struct conversation *conversation, struct answer *answer)
{
    size_t size;
    char *line;
    while ((line = next_line(conversation, &size)) == NULL) {
        size_t left = conversation->end - conversation->start;
        memmove(conversation->buffer, conversation->buffer + conversation->start, left);
        conversation->start = 0;
        conversation->end = left;
        if (left == sizeof conversation->buffer) {
            *answer = (struct answer){-1, NULL};
            return ARRIVED;
        }
        ssize_t got = read(conversation->answers, conversation->buffer + left,
                           sizeof conversation->buffer - left);
        if (got > 0)
            conversation->end += (size_t)got;
        else if (got < 0 && errno == EAGAIN)
            return NOT_YET;
        else if (got == 0 || errno != EINTR)
            return NO_MORE;
    }
    answer->words = line;
    answer->count = memchr(line, '\0', size) == NULL ? split_words(line) : -1;
    return ARRIVED;
}

/* Word NUMBER of ANSWER, from 0. */
const char *word_of(const struct answer *answer, int number)
{
    const char *word = answer->words;
    while (number-- > 0)
        word += strlen(word) + 1;
    return word;
}

/* Wait for the answer to the request; false with a fault if there is none. */
static bool wait_answer(struct conversation *conversation, double deadline,
                        struct answer *answer, struct fault *fault)
{
    while (wait_for(conversation, conversation->answers, POLLIN, deadline, fault)) {
        enum arrival arrival = read_answer(conversation, answer);
        if (arrival == ARRIVED)
            return true;
        if (arrival == NO_MORE)
            return ended(conversation, fault);
    }
    return false;
}

/* Whether ANSWER is a valid "ok" of this door. */
static bool is_ok(const struct conversation *conversation, const struct answer *answer)
{
    long pid;
    return answer->count == (conversation->by_socket ? 2 : 5)
        && strcmp(word_of(answer, 0), "ok") == 0
        && number(word_of(answer, 1), 1, INT_MAX, &pid);
}

/* Set the fault for an answer "error CODE TEXT". */
static bool refused(const struct conversation *conversation,
                    const struct answer *answer, struct fault *fault)
{
    static const struct {
        const char *code;
        int status;
    } codes[] = {
        {"denied", EX_NOPERM}, {"bad-request", EX_USAGE},
    };
    const char *first = answer->count > 0 ? word_of(answer, 0) : "";
    if (strcmp(first, "exit") == 0 || strcmp(first, "signal") == 0)
        return fail(fault, NO_SERVICE, "the worker ended before it had the connection");
    if (answer->count < 3 || strcmp(first, "error") != 0)
        return not_understood(conversation, NO_SERVICE, fault);
    const char *code = word_of(answer, 1), *said = word_of(answer, 2);
    /* Join the remaining words of the answer. */
    char *text = answer->words + (said - answer->words);
    for (int each = answer->count - 3; each > 0; each--)
        text[strlen(text)] = ' ';
    if (strcmp(code, "busy") == 0 || strcmp(code, "draining") == 0)
        return refuse(fault, EX_TEMPFAIL, said);
    for (size_t each = 0; each < sizeof codes / sizeof codes[0]; each++)
        if (strcmp(code, codes[each].code) == 0)
            return fail(fault, codes[each].status, "%s: %s", code, said);
    return fail(fault, NO_SERVICE, "the service%s says %s: %s",
                at(conversation->directory), code, said);
}

/* Stop waiting for an answer: a worker that cannot write its "ok" does not use our
 * stdio. An "ok" may have arrived just before. */
static bool stop_waiting(struct conversation *conversation, struct fault *fault)
{
    struct answer late;
    shutdown(conversation->answers, SHUT_RD);
    if (read_answer(conversation, &late) == ARRIVED
        && (late.count < 1 || strcmp(late.words, "error") != 0))
        fail(fault, EX_UNAVAILABLE, "the service%s answered too late; try again",
             at(conversation->directory));
    return false;
}

/* Ask for a worker that serves USER; set ANSWER to the "ok". */
bool ask_for_worker(struct conversation *conversation, const char *user,
                    const struct settings *settings, double deadline,
                    struct answer *answer, struct fault *fault)
{
    if (!send_request(conversation, user, settings, deadline, fault))
        return false;
    if (!wait_answer(conversation, deadline, answer, fault))
        return conversation->by_socket && fault->status == NO_SERVICE
            && stop_waiting(conversation, fault);
    return is_ok(conversation, answer) || refused(conversation, answer, fault);
}
