/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * Answers the first request of a connection that is refused. Breezy shows an answer
 * of the smart protocol as its one line. To a closed connection it adds an error of
 * its own.
 */

#include "client.h"

#include <arpa/inet.h>
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* Seconds for the request to arrive and for the answer to be written. */
enum { SECONDS = 2 };
/* The longest request that is answered, and the most of the text, in bytes. */
enum { LONGEST = 4096, LONGEST_TEXT = 2048 };

/* What messages of version 3 of the smart protocol begin with. */
static const char marker[] = "bzr message 3 (bzr 1.6)\n";
enum { MARKER = sizeof marker - 1 };

/* Whether DATA, the first SIZE bytes of a client, contain a request of version 3. */
enum request find_request(const char *data, size_t size)
{
    const enum request more = size < LONGEST ? INCOMPLETE : NO_REQUEST;
    if (size < MARKER)
        return memcmp(data, marker, size) == 0 ? INCOMPLETE : NO_REQUEST;
    if (memcmp(data, marker, MARKER) != 0)
        return NO_REQUEST;
    size_t at = MARKER;
    /* The headers are a part without a kind. */
    for (char kind = 's'; kind != 'e'; kind = data[at++]) {
        if (kind == 'o') {
            at++;
        } else if (kind == 's' || kind == 'b') {
            uint32_t length;
            if (size - at < sizeof length)
                return more;
            memcpy(&length, data + at, sizeof length);
            length = ntohl(length);
            if (length > LONGEST)
                return NO_REQUEST;
            at += sizeof length + length;
        } else {
            return NO_REQUEST;
        }
        if (at >= LONGEST)
            return NO_REQUEST;
        if (at >= size)
            return more;
    }
    return REQUEST;
}

/* Add BYTES after their length, in the form of a part. */
static void add_part(struct line *line, const char *bytes, size_t size)
{
    uint32_t length = htonl((uint32_t)size);
    add_bytes(line, (const char *)&length, sizeof length);
    add_bytes(line, bytes, size);
}

/* Compose in RESPONSE the answer of version 3 that has Breezy show TEXT: "Cannot lock
 * a place on the server: TEXT". */
void compose_error(struct line *response, const char *text)
{
    char line[LONGEST_TEXT], words[LONGEST_TEXT + 128];
    size_t size = 0, left = strlen(text);
    while (left > 0 && size < sizeof line) {
        int length = character(text, left);
        size_t bytes = length > 0 ? (size_t)length : 1;
        if (bytes > sizeof line - size)
            break;
        memcpy(line + size, length > 0 ? text : "?", bytes);
        size += bytes;
        text += bytes;
        left -= bytes;
    }
    int begin = snprintf(words, sizeof words,
                         "l10:LockFailed21:a place on the server%zu:", size);
    memcpy(words + begin, line, size);
    words[(size_t)begin + size] = 'e';
    response->size = 0;
    response->fits = true;
    add_bytes(response, marker, MARKER);
    add_part(response, "de", 2);
    add_bytes(response, "oEs", 3);
    add_part(response, words, (size_t)begin + size + 1);
    add_bytes(response, "e", 1);
}

/* Wait until DESCRIPTOR is ready; false at the DEADLINE or after a signal. */
static bool is_ready(int descriptor, short events, const struct signals *signals,
                     double deadline)
{
    struct pollfd wanted[] = {
        {.fd = descriptor, .events = events},
        {.fd = signals->descriptor, .events = POLLIN},
    };
    int ready;
    do
        ready = poll(wanted, 2, poll_milliseconds(deadline));
    while (ready < 0 && errno == EINTR);
    return ready > 0 && wanted[0].revents != 0;
}

/* Read the first request; whether there is one. */
static bool read_request(const struct signals *signals, double deadline)
{
    char data[2 * LONGEST];
    size_t size = 0;
    enum request found = INCOMPLETE;
    while (found == INCOMPLETE) {
        if (!is_ready(STDIN_FILENO, POLLIN, signals, deadline))
            return false;
        /* There is room: what is incomplete is shorter than LONGEST. */
        ssize_t got = read(STDIN_FILENO, data + size, LONGEST);
        if (got <= 0)
            return false;
        size += (size_t)got;
        found = find_request(data, size);
    }
    return found == REQUEST;
}

/* Answer the request on standard input with an error that has TEXT; whether it is
 * answered. No other process may use our stdio. A terminal is not answered. */
bool answer_request(const char *text, const struct signals *signals)
{
    double deadline = now() + SECONDS;
    struct line response;
    if (isatty(STDIN_FILENO) || isatty(STDOUT_FILENO)
        || !read_request(signals, deadline)
        || !is_ready(STDOUT_FILENO, POLLOUT, signals, deadline))
        return false;
    compose_error(&response, text);
    ssize_t sent = send(STDOUT_FILENO, response.bytes, response.size,
                        MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent < 0 && errno == ENOTSOCK) {
        signal(SIGPIPE, SIG_IGN);
        /* A pipe that poll(2) calls writable takes PIPE_BUF bytes. */
        sent = write(STDOUT_FILENO, response.bytes, response.size);
    }
    return sent == (ssize_t)response.size;
}
