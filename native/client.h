/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * The declarations that the files of lp-serve-client share. The program does the
 * same as the modules of ../lpserve/client, in C. doc/protocol.txt describes the
 * control protocol.
 */

#ifndef LPSERVE_CLIENT_H
#define LPSERVE_CLIENT_H

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

/* The status of a fault: there is no service, and the fallback may be tried. */
enum { NO_SERVICE = -1 };

/* Why a connection is not served: the exit status and one line of text. */
struct fault {
    int status;
    char *text;
    bool refused; /* no worker uses our stdio, now or later */
};

/* The names as in doc/protocol.txt; ANY: the socket, else the FIFO. */
enum door { ANY, FIFO, SOCKET };

/* The settings of breezy.conf; see read_configuration. */
struct settings {
    const char *runtime_dir; /* or NULL */
    const char *service_user; /* a name or uid, or NULL */
    const char *const *environment; /* names, then NULL */
    bool autostart, fallback;
    double connect_timeout; /* in seconds */
    char *text; /* of breezy.conf, into which the strings point, or NULL */
};

/* The signals that are forwarded, as a signalfd(2). */
struct signals {
    int descriptor;
    sigset_t before; /* the mask that we were started with */
};

/* One answer: COUNT words, one after the other, each with its NUL. COUNT is -1 if
 * the answer is invalid. WORDS is valid until the next answer is read. */
struct answer {
    int count;
    char *words;
};

enum arrival { ARRIVED, NOT_YET, NO_MORE };

/* One request to the service and the answers to it. */
struct conversation {
    const char *directory;
    const char *service_user; /* of the settings */
    const struct signals *signals; /* that interrupt a wait */
    bool by_socket;
    bool connected; /* to the socket; if not, connect again */
    int control; /* the FIFO, which has no reader once the service ends; or -1 */
    int answers; /* the reply FIFO or the socket */
    char *reply; /* path of the reply FIFO */
    size_t start, end; /* of the bytes that were read and not handled yet */
    char buffer[65536];
};

/* A request that is being composed. ROOM bytes are for the verb, its words and
 * variables; the rest is for the name of the reply FIFO and the newlines. */
enum { MAX_REQUEST = 4096, ROOM = 4000 };
struct line {
    size_t size;
    bool fits;
    char bytes[MAX_REQUEST];
};

/* What the first bytes of a client contain: a whole request, the beginning of one. */
enum request { NO_REQUEST, INCOMPLETE, REQUEST };

/* text.c: faults, memory and text. */
bool fail(struct fault *fault, int status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
bool refuse(struct fault *fault, int status, const char *text);
void tell(const char *text);
void *allocate(size_t size);
char *joined(const char *first, const char *second);
int character(const char *text, size_t left);
bool is_utf8(const char *text, size_t size);
size_t clean_utf8(const char *text, size_t size, char *out);
char *strip(char *text);
bool is_plain(char byte);
void add_bytes(struct line *line, const char *bytes, size_t size);
void add_quoted(struct line *line, const char *word);
int split_words(char *line);
bool number(const char *text, long least, long most, long *found);

/* config.c: breezy.conf and the runtime directory. */
bool read_configuration(struct settings *settings, struct fault *fault);
char *runtime_directory(const char *chosen, const char *configured);
bool is_trusted(uid_t uid, const char *service_user);

/* place.c: the name of a directory in messages. */
bool is_remote(void);
const char *at(const char *directory);
const char *place(const char *directory);

/* drained.c: whether the host is out of service. */
char *drained_message(const char *text, size_t size);
bool is_drained(const char *directory, const char *service_user, struct fault *fault);

/* refusal.c: the answer to a client that is refused. */
enum request find_request(const char *data, size_t size);
void compose_error(struct line *response, const char *text);
bool answer_request(const char *text, const struct signals *signals);

/* spawn.c: the request for a worker. */
bool compose(struct line *line, const char *user, const char *const *names,
             const char *reply, struct fault *fault);

/* command.c: checks USER and SSH_ORIGINAL_COMMAND. */
bool is_user(const char *text);
char *command_fault(void);

/* wait.c: signals and time. */
double now(void);
bool open_signals(struct signals *signals, struct fault *fault);
int next_signal(const struct signals *signals);
int poll_milliseconds(double deadline);

/* request.c: the two doors. */
bool open_door(struct conversation *conversation, const char *directory,
               enum door door, const char *service_user,
               const struct signals *signals, struct fault *fault);
void close_door(struct conversation *conversation);
bool ask_for_worker(struct conversation *conversation, const char *user,
                    const struct settings *settings, double deadline,
                    struct answer *answer, struct fault *fault);
enum arrival read_answer(struct conversation *conversation, struct answer *answer);
const char *word_of(const struct answer *answer, int number);
bool not_understood(const struct conversation *conversation, int status,
                    struct fault *fault);

/* relay.c: relays a connection, from the "ok" to its end. */
bool relay(struct conversation *conversation, const struct answer *ok,
           struct answer *last, bool *told, struct fault *fault);
bool follow(struct conversation *conversation, const struct answer *ok,
            struct answer *last, struct fault *fault);

/* start.c: starts the service; finds Breezy. */
char *find_breezy(void);
bool start_service(const char *directory, const struct signals *signals,
                   double deadline, struct fault *fault);

#endif
