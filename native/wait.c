/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Signals and deadlines. */

#include "client.h"

#include <errno.h>
#include <limits.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sysexits.h>
#include <time.h>
#include <unistd.h>

/* Seconds of a monotonic clock. */
double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

/* The time-out for poll(2), rounded up, so that the deadline has passed after it. */
int poll_milliseconds(double deadline)
{
    double left = (deadline - now()) * 1000;
    if (left <= 0)
        return 0;
    return left < INT_MAX - 1 ? (int)left + 1 : INT_MAX;
}

/* Block HUP, TERM and INT, and read them from a descriptor. A signal that was ignored
 * at the start (nohup) stays ignored. */
bool open_signals(struct signals *signals, struct fault *fault)
{
    static const int passed_on[] = {SIGHUP, SIGTERM, SIGINT};
    sigset_t wanted;
    sigemptyset(&wanted);
    for (size_t each = 0; each < sizeof passed_on / sizeof passed_on[0]; each++) {
        struct sigaction action;
        if (sigaction(passed_on[each], NULL, &action) == 0
            && action.sa_handler != SIG_IGN)
            sigaddset(&wanted, passed_on[each]);
    }
    signals->descriptor = signalfd(-1, &wanted, SFD_NONBLOCK | SFD_CLOEXEC);
    if (signals->descriptor < 0 || sigprocmask(SIG_BLOCK, &wanted, &signals->before))
        return fail(fault, EX_UNAVAILABLE, "cannot watch for signals: %s",
                    strerror(errno));
    return true;
}

/* The next signal that has arrived, or 0. */
int next_signal(const struct signals *signals)
{
    struct signalfd_siginfo found;
    if (read(signals->descriptor, &found, sizeof found) != sizeof found)
        return 0;
    return (int)found.ssi_signo;
}
