/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Copies bytes between our stdio and the worker's FIFOs, or waits for the worker. */

#include "client.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sysexits.h>
#include <unistd.h>

enum { CHUNK = 1 << 20, TURNS = 16, BROKEN = POLLERR | POLLHUP | POLLNVAL };
/* The size of a pipe, and of one that was enlarged for a large transfer. */
enum { FULL = 1 << 16, LARGE = 1 << 18 };

/* How to write to a sink without blocking. */
enum writing {
    PLAIN,
    /* It may block, but a pipe that poll(2) calls writable takes PIPE_BUF bytes. */
    A_LITTLE,
    BY_SEND,
};

/* One direction: from SOURCE to SINK until end of file. A full sink does not stop
 * the other direction. */
struct flow {
    int source, sink;
    bool done;
    bool moved; /* whether any bytes were copied */
    bool room_wanted;
    bool splices;
    bool grown; /* whether the pipe was enlarged */
    enum writing writing;
    size_t start, end; /* of the bytes that were read and not written yet */
    char pending[65536];
};

static mode_t type_of(int descriptor)
{
    struct stat found;
    return fstat(descriptor, &found) == 0 ? found.st_mode & S_IFMT : 0;
}

static void begin_flow(struct flow *flow, int source, int sink)
{
    mode_t into = type_of(sink);
    flow->source = source;
    flow->sink = sink;
    flow->done = flow->moved = flow->room_wanted = flow->grown = false;
    flow->start = flow->end = 0;
    flow->writing = PLAIN;
    if (into == S_IFSOCK)
        flow->writing = BY_SEND;
    else if (into != S_IFREG && !(fcntl(sink, F_GETFL) & O_NONBLOCK))
        flow->writing = A_LITTLE;
    /* Into a socket or a terminal splice(2) blocks, with any flags. */
    flow->splices = into == S_IFIFO ? type_of(source) != S_IFCHR : into == S_IFREG;
}

/* Pass the end of file on and close both ends. */
static void finish(struct flow *flow)
{
    if (flow->done)
        return;
    flow->done = true;
    close(flow->source);
    /* close(2) alone may not end it: sshd passes one socket as stdin and stdout. */
    if (flow->writing == BY_SEND)
        shutdown(flow->sink, SHUT_WR);
    close(flow->sink);
}

static bool has_input(const struct flow *flow)
{
    struct pollfd source = {.fd = flow->source, .events = POLLIN};
    return poll(&source, 1, 0) > 0;
}

/* Enlarge the pipe, once a transfer has filled it: the pages of a user's pipes are
 * limited (pipe(7)). A failure is ignored. */
static void grow(struct flow *flow)
{
    flow->grown = true;
    fcntl(flow->source, F_SETPIPE_SZ, LARGE);
    fcntl(flow->sink, F_SETPIPE_SZ, LARGE);
}

/* Copy by splice(2); 0 or an errno. */
static int splice_some(struct flow *flow)
{
    flow->room_wanted = false;
    /* A bounded number: signals and the other direction have their turn. */
    for (int turn = 0; turn < TURNS; turn++) {
        ssize_t moved = splice(flow->source, NULL, flow->sink, NULL, CHUNK,
                               SPLICE_F_NONBLOCK | SPLICE_F_MOVE);
        if (moved < 0)
            return errno;
        if (moved == 0) {
            finish(flow);
            return 0;
        }
        flow->moved = true;
        if (moved >= FULL && !flow->grown)
            grow(flow);
    }
    return 0;
}

static ssize_t write_pending(const struct flow *flow)
{
    const char *bytes = flow->pending + flow->start;
    size_t size = flow->end - flow->start;
    if (flow->writing == BY_SEND)
        return send(flow->sink, bytes, size, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (flow->writing == A_LITTLE && size > PIPE_BUF)
        size = PIPE_BUF;
    return write(flow->sink, bytes, size);
}

/* Copy by read(2) and write(2); 0 or an errno. */
static int copy_some(struct flow *flow)
{
    if (flow->start == flow->end) {
        ssize_t got = read(flow->source, flow->pending, sizeof flow->pending);
        if (got < 0)
            return errno;
        if (got == 0) {
            finish(flow);
            return 0;
        }
        flow->start = 0;
        flow->end = (size_t)got;
    }
    flow->moved = true;
    ssize_t written = write_pending(flow);
    if (written < 0)
        return errno;
    flow->start += (size_t)written;
    flow->room_wanted = flow->start < flow->end;
    return 0;
}

/* Fill in what to poll for: two entries of POLLED. */
static void want(const struct flow *flow, struct pollfd *polled)
{
    polled[0] = polled[1] = (struct pollfd){.fd = -1};
    if (flow->done)
        return;
    polled[1].fd = flow->sink;
    if (flow->room_wanted) {
        polled[1].events = POLLOUT;
    } else {
        polled[0].fd = flow->source;
        polled[0].events = POLLIN;
    }
}

/* Copy what can be copied, by the result of poll(2). */
static void step(struct flow *flow, const struct pollfd *polled)
{
    int error = EINVAL;
    if (flow->done)
        return;
    if (polled[flow->room_wanted ? 1 : 0].revents == 0) {
        if (polled[1].revents & BROKEN)
            finish(flow);
        return;
    }
    if (flow->splices)
        error = splice_some(flow);
    if (error == EINVAL) { /* not for these kinds of file */
        flow->splices = false;
        error = copy_some(flow);
    }
    if (error == EAGAIN)
        flow->room_wanted = flow->start < flow->end || has_input(flow);
    else if (error != 0 && error != EINTR)
        finish(flow); /* a broken pipe or connection at either end */
}

/* Copy the bytes that the worker wrote before it ended, unless a signal arrives. */
static void drain(struct flow *flow, const struct signals *signals)
{
    while (!flow->done && (flow->start < flow->end || has_input(flow))) {
        struct pollfd polled[3] = {{.fd = signals->descriptor, .events = POLLIN}};
        struct pollfd source = {.fd = flow->source, .events = POLLIN};
        if (flow->start == flow->end && poll(&source, 1, 0) > 0
            && !(source.revents & POLLIN))
            break; /* an end of file */
        want(flow, polled + 1);
        if (poll(polled, 3, -1) < 0)
            continue;
        step(flow, polled + 1);
        if (polled[0].revents != 0 && next_signal(signals) != 0)
            break;
    }
    finish(flow);
}

/* -- the worker --------------------------------------------------------------- */

/* A pidfd of the worker; -1 if it has ended: the next answer tells how. */
static int open_worker(const struct answer *ok)
{
    long pid = 0;
    if (!number(word_of(ok, 1), 1, INT_MAX, &pid))
        return -1;
    return (int)syscall(SYS_pidfd_open, (pid_t)pid, 0);
}

/* A pidfd of the service that has DIRECTORY locked, or -1. Where systemd has made the
 * control FIFO, that has a reader without a service. */
static int open_service(const char *directory)
{
    char *path = joined(directory, "/lock"), text[32];
    int lock = open(path, O_RDONLY | O_CLOEXEC);
    free(path);
    ssize_t size = lock < 0 ? -1 : read(lock, text, sizeof text - 1);
    if (lock >= 0)
        close(lock);
    if (size <= 0)
        return -1;
    text[size] = '\0';
    text[strcspn(text, "\n")] = '\0';
    long pid = 0;
    if (!number(text, 1, INT_MAX, &pid))
        return -1;
    return (int)syscall(SYS_pidfd_open, (pid_t)pid, 0);
}

/* Forward the signals that have arrived; false with a fault if that is not allowed. */
static bool pass_on(const struct signals *signals, int worker, struct fault *fault)
{
    int signal;
    while ((signal = next_signal(signals)) != 0)
        if (worker >= 0
            && syscall(SYS_pidfd_send_signal, worker, signal, NULL, 0) < 0
            && errno == EPERM)
            return fail(fault, 128 + signal, "ended by signal %d", signal);
    return true;
}

/* Replace our standard input and output by /dev/null. */
static bool let_go(struct fault *fault)
{
    close(STDIN_FILENO);
    if (open("/dev/null", O_RDWR) == STDIN_FILENO
        && dup2(STDIN_FILENO, STDOUT_FILENO) == STDOUT_FILENO)
        return true;
    return fail(fault, EX_UNAVAILABLE, "cannot open /dev/null: %s", strerror(errno));
}

/* At the socket, where the worker has our stdio: wait for the last answer. */
bool follow(struct conversation *conversation, const struct answer *ok,
            struct answer *last, struct fault *fault)
{
    const struct signals *signals = conversation->signals;
    int worker = open_worker(ok);
    bool fine = let_go(fault);
    while (fine) {
        struct pollfd polled[] = {
            {.fd = conversation->answers, .events = POLLIN},
            {.fd = signals->descriptor, .events = POLLIN},
        };
        enum arrival arrival = read_answer(conversation, last);
        if (arrival == ARRIVED)
            break;
        if (arrival == NO_MORE)
            fine = fail(fault, EX_UNAVAILABLE,
                        "the service and the worker were killed");
        else if (poll(polled, 2, -1) > 0 && polled[1].revents != 0)
            fine = pass_on(signals, worker, fault);
    }
    if (worker >= 0)
        close(worker);
    return fine;
}

/* -- the relay ---------------------------------------------------------------- */

/* A new descriptor for the file of NUMBER, non-blocking if possible. O_NONBLOCK
 * belongs to the open file description, which other processes share. */
static int own_description(int number)
{
    mode_t type = type_of(number);
    if (type == S_IFIFO || type == S_IFCHR) {
        char path[32];
        snprintf(path, sizeof path, "/proc/self/fd/%d", number);
        int opened = open(path, O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
        if (opened >= 0)
            return opened;
    }
    return fcntl(number, F_DUPFD_CLOEXEC, 0);
}

/* Open the worker's FIFOs; false if it ended before it served. */
static bool open_fifos(const struct answer *ok, int *ends)
{
    /* The service opens the read end of stdin before it answers. */
    ends[0] = open(word_of(ok, 2), O_WRONLY | O_NONBLOCK | O_CLOEXEC);
    for (int each = 1; each < 3; each++)
        ends[each] = ends[each - 1] < 0
            ? -1
            : open(word_of(ok, 2 + each), O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    if (ends[2] >= 0)
        return true;
    for (int each = 0; each < 3; each++)
        if (ends[each] >= 0)
            close(ends[each]);
    return false;
}

/* Set up the flows between our stdio and ENDS. Only they keep stdio open from now
 * on, so that a close takes effect. */
static bool begin_flows(struct flow *flows, const int *ends, struct fault *fault)
{
    int ours[3] = {fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 0)};
    for (int each = 1; each < 3; each++)
        ours[each] = own_description(each);
    if (ours[0] < 0 || ours[1] < 0 || ours[2] < 0)
        return fail(fault, EX_UNAVAILABLE, "cannot relay: %s", strerror(errno));
    begin_flow(&flows[0], ours[0], ends[0]);
    begin_flow(&flows[1], ends[1], ours[1]);
    begin_flow(&flows[2], ends[2], ours[2]);
    return let_go(fault);
}

/* Relay until the worker has ended; set LAST to the last answer. */
static bool run(struct conversation *conversation, struct flow *flows, int worker,
                int service, struct answer *last, struct fault *fault)
{
    const struct signals *signals = conversation->signals;
    bool service_gone = false, look = true;
    for (;;) {
        if (look && read_answer(conversation, last) == ARRIVED)
            return true;
        struct pollfd polled[10] = {
            {.fd = conversation->answers, .events = POLLIN},
            {.fd = signals->descriptor, .events = POLLIN},
            {.fd = service_gone ? worker : conversation->control,
             .events = service_gone ? POLLIN : 0},
        };
        for (int each = 0; each < 3; each++)
            want(&flows[each], polled + 3 + 2 * each);
        polled[9] = (struct pollfd){.fd = service_gone ? -1 : service, .events = POLLIN};
        look = false;
        /* Service and worker have ended: no further answer will arrive. */
        if (poll(polled, 10, service_gone && worker < 0 ? 0 : -1) < 0)
            continue;
        look = polled[0].revents != 0;
        if (polled[1].revents != 0 && !pass_on(signals, worker, fault))
            return false;
        for (int each = 0; each < 3; each++)
            step(&flows[each], polled + 3 + 2 * each);
        if (service_gone && (worker < 0 || polled[2].revents != 0))
            return read_answer(conversation, last) == ARRIVED
                || fail(fault, EX_UNAVAILABLE,
                        "the service and the worker were killed");
        /* The worker goes on, and writes the last answer itself. */
        service_gone =
            service_gone || polled[2].revents != 0 || polled[9].revents != 0;
    }
}

/* Relay the FIFOs that the answer OK names. Set TOLD to whether the worker wrote to
 * its standard error. */
bool relay(struct conversation *conversation, const struct answer *ok,
           struct answer *last, bool *told, struct fault *fault)
{
    static struct flow flows[3]; /* static only for its size */
    int ends[3], worker = open_worker(ok);
    int service = open_service(conversation->directory);
    for (int each = 0; each < 3; each++)
        flows[each].done = true;
    bool fine = !open_fifos(ok, ends) || begin_flows(flows, ends, fault);
    fine = fine && run(conversation, flows, worker, service, last, fault);
    if (worker >= 0)
        close(worker);
    if (service >= 0)
        close(service);
    if (fine) {
        drain(&flows[1], conversation->signals);
        drain(&flows[2], conversation->signals);
        *told = flows[2].moved;
    }
    for (int each = 0; each < 3; each++)
        finish(&flows[each]);
    return fine;
}
