/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Signals and time: what ends the waiting. */

#include "client.h"

#include <errno.h>
#include <limits.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sysexits.h>
#include <time.h>
#include <unistd.h>

/* Seconds of a clock that only goes on. */
double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

/* How long poll(2) may wait: up, so that the deadline is over when it returns. */
int poll_milliseconds(double deadline)
{
    double left = (deadline - now()) * 1000;
    if (left <= 0)
        return 0;
    return left < INT_MAX - 1 ? (int)left + 1 : INT_MAX;
}

/* From now on HUP, TERM and INT do not end us, but can be read. One that was
 * ignored when we were started (nohup) stays ignored. */
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

/* The next signal that came, or 0. */
int next_signal(const struct signals *signals)
{
    struct signalfd_siginfo found;
    if (read(signals->descriptor, &found, sizeof found) != sizeof found)
        return 0;
    return (int)found.ssi_signo;
}
