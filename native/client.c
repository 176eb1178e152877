/* The programs that people and programs start to send: sendmail, mailq, newaliases, qmail-inject, qmail-queue.

   One plain program, told apart by the name it is called by. It knows nothing of mail: it takes its arguments, a few
   environment variables and its input to the inject service and exits with the code that comes back. It needs no
   privilege of any kind, so it works under NoNewPrivileges=yes and DynamicUser=yes.

   Input is read first and the connection made when it ends (or no longer fits): a caller that writes for hours holds
   nothing open. What cannot be read whole is never sent as if it were: no end is said, and the service drops it.

   The frames are those of qmaild/protocol/frames.py: netstrings of a letter, a head (integers, and lengths of bytes) and bytes.
       v VERSION ROLE       I TAG PROGRAM ARGUMENTS ENVIRONMENT       + TAG BYTES       . TAG       (ours)
       v VERSION ROLE       > TAG STREAM BYTES                        x TAG CODE                    (the service's)

   Build: cc -O2 -Wall -Wextra -Werror -std=c11 $(CPPFLAGS) $(CFLAGS) $(LDFLAGS) -o client client.c
   That line is all it takes: one file, which is whole wherever it is read, built or fuzzed. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#define VERSION 3                 /* frames.VERSION */
#define HELLO "v3,10:sendclient"  /* the same, and who we are */
#define INVOKE_LIMIT (1u << 20)   /* arguments and variables together; the service takes no larger frame of them */
#define CHUNK (64u << 10)         /* one Data frame */
#define HELD (4 * CHUNK)          /* input kept before the connection is made */
#define ANSWER_LIMIT (72u << 10)  /* the service sends output in pieces of at most 64 KiB */
#define ANSWER_SECONDS 600        /* disk trouble and a full service included; then the caller tries again */
#ifndef GREETING_SECONDS
#define GREETING_SECONDS 60       /* until somebody serves: a service says so at once, whenever it is our turn; it is started in one */
#endif
#define RUN_DIRECTORY "/run/qmaild"

/* Variables that change what is sent: qmail-inject's. QMAILMFTFILE is not among them, its file goes in its place. */
static const char *const variables[] = {
    "QMAILUSER", "QMAILHOST", "QMAILNAME", "QMAILSUSER", "QMAILSHOST", "QMAILINJECT", "QMAILDEFAULTDOMAIN",
    "QMAILDEFAULTHOST", "QMAILPLUSDOMAIN", "QMAILIDHOST", "MAILUSER", "MAILHOST", "MAILNAME", "USER", "LOGNAME", "NAME",
};

/* Exit codes for what goes wrong here, by program. The service has the same table for what goes wrong there. */
struct program {
    const char *name;
    int usage, unreachable, lost, unreadable, memory;
};
static const struct program programs[] = {
    {"sendmail", 64, 75, 75, 75, 75}, {"mailq", 64, 75, 75, 75, 75},         {"newaliases", 64, 75, 75, 75, 75},
    {"qmail-inject", 100, 111, 111, 111, 111}, {"qmail-queue", 100, 56, 74, 54, 51},
};
static const struct program *self = &programs[0];

enum input { NO_INPUT, WHOLE_INPUT, LIVE_INPUT }; /* mailq; a message; an SMTP dialogue */

static int service = -1;         /* the connection */
static int patience = GREETING_SECONDS;
static char held[HELD + 4096];   /* frames that wait to be sent */
static size_t held_used;
static char answer[ANSWER_LIMIT];
static size_t answer_used;

/* End with this code after saying why. qmail-queue prints nothing, ever: its callers read codes. */
static _Noreturn void fail(int code, const char *format, ...) {
    if (strcmp(self->name, "qmail-queue") != 0) {
        va_list arguments;
        va_start(arguments, format);
        fprintf(stderr, "%s: ", self->name);
        vfprintf(stderr, format, arguments);
        fputc('\n', stderr);
        va_end(arguments);
    }
    exit(code);
}

/* Write it all, or as much as the other side takes: output that nobody reads changes nothing. */
static void print(int stream, const char *bytes, size_t length) {
    while (length > 0) {
        ssize_t written = write(stream, bytes, length);
        if (written < 0 && errno == EINTR)
            continue;
        if (written <= 0)
            return;
        bytes += written;
        length -= (size_t)written;
    }
}

/* The netstring at *place (before end). After: *place stands behind it, *length is its content's. NULL: there is none. */
static const char *netstring(const char **place, const char *end, size_t *length) {
    size_t size = 0, digits = 0;
    const char *at = *place;
    for (; at < end && *at >= '0' && *at <= '9' && digits < 9; at++, digits++)
        size = size * 10 + (size_t)(*at - '0');
    if (digits == 0 || at >= end || *at != ':' || size >= (size_t)(end - at - 1) || at[1 + size] != ',')
        return NULL;
    *place = at + size + 2;
    *length = size;
    return at + 1;
}

/* The head of a frame at `at`, behind the letter: three numbers at most. The answer is how many, 0 if it is no head; *bytes is
   what stands behind it. A number that is too large for any frame of ours is refused, not cut. */
static int head(const char *at, const char *end, long number[3], const char **bytes) {
    for (int n = 0; n < 3; n++, at++) {
        const char *begin = at;
        for (number[n] = 0; at < end && *at >= '0' && *at <= '9' && at - begin < 9; at++)
            number[n] = number[n] * 10 + (*at - '0');
        if (at == begin || at == end)
            return 0;
        if (*at == ':') {
            *bytes = at + 1;
            return n + 1;
        }
        if (*at != ',')
            return 0;
    }
    return 0;
}

/* Wait no longer than this for the service to say or take anything. */
static void wait_at_most(int seconds) {
    struct timeval limit = {.tv_sec = seconds};
    patience = seconds;
    setsockopt(service, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    setsockopt(service, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
}

/* Act on one frame of the service: print output, or end with its code. */
static void obey(const char *frame, const char *end) {
    const char *bytes = NULL;
    long number[3] = {0, 0, 0};
    int numbers = head(frame + 1, end, number, &bytes);
    if (*frame == 'x' && numbers == 2 && number[1] <= 255 && bytes == end)
        exit((int)number[1]);
    if (*frame == 'v' && numbers == 2 && number[0] == VERSION && number[1] == end - bytes) {
        wait_at_most(ANSWER_SECONDS);
        return;
    }
    if (*frame == 'v')
        fail(self->lost, "the mail service is of another version than this program");
    if (*frame != '>' || numbers != 3 || number[2] != end - bytes)
        fail(self->lost, "the mail service answered with something that is no frame");
    print(number[1] == 2 ? 2 : 1, bytes, (size_t)number[2]);
}

/* Read what the service has to say (waiting for it if nothing is there) and obey it. */
static void listen_to_service(void) {
    ssize_t got = recv(service, answer + answer_used, sizeof answer - answer_used, 0);
    if (got < 0 && errno == EINTR)
        return;
    if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
        fail(self->lost, "no answer from the mail service in %d seconds; try again later", patience);
    if (got <= 0)
        fail(self->lost, "the connection to the mail service was lost; try again later");
    answer_used += (size_t)got;
    const char *place = answer, *end = answer + answer_used, *frame;
    size_t length;
    while ((frame = netstring(&place, end, &length)) != NULL)
        if (length > 0)
            obey(frame, frame + length);
    answer_used = (size_t)(end - place);
    if (answer_used >= sizeof answer)
        fail(self->lost, "the mail service answered with something that is no frame");
    memmove(answer, place, answer_used);
}

/* Connect to the inject service. A full backlog is waited for. Ends the program when there is no service. */
static void reach_service(void) {
    const char *directory = getenv("QMAILD_RUN");
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int size = snprintf(address.sun_path, sizeof address.sun_path, "%s/inject.sock",
                        directory && *directory ? directory : RUN_DIRECTORY);
    if (size < 0 || (size_t)size >= sizeof address.sun_path)
        fail(self->usage, "QMAILD_RUN is too long for the path of a socket");
    service = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (service < 0)
        fail(self->unreachable, "no socket can be made: %s", strerror(errno));
    wait_at_most(GREETING_SECONDS);
    while (connect(service, (const struct sockaddr *)&address, sizeof address) < 0)
        if (errno != EINTR)
            fail(self->unreachable, "the mail service at %s cannot be reached: %s; try again later", address.sun_path,
                 strerror(errno));
}

/* Whether something of the service lies unread. While we send, its greeting may. */
static int has_spoken(void) {
    struct pollfd said = {.fd = service, .events = POLLIN};
    return poll(&said, 1, 0) > 0;
}

/* Send these bytes. When the service has closed, what it said before that decides. */
static void send_bytes(const char *bytes, size_t length) {
    if (service < 0)
        reach_service();
    while (length > 0) {
        ssize_t sent = send(service, bytes, length, MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR)
            continue;
        if (sent < 0 && (errno == EPIPE || errno == ECONNRESET))
            for (;;)
                listen_to_service();
        if (sent < 0 && (errno == EAGAIN || errno == EWOULDBLOCK) && patience == GREETING_SECONDS && has_spoken()) {
            listen_to_service();
            continue;
        }
        if (sent <= 0)
            fail(self->lost, "the mail service takes nothing: %s; try again later", strerror(errno));
        bytes += sent;
        length -= (size_t)sent;
    }
}

static void flush(void) {
    send_bytes(held, held_used);
    held_used = 0;
}

/* Add a frame of letter, tag and (if not NULL) one field of bytes; what is held is sent when this has no room. */
static void put(char letter, int tag, const char *bytes, size_t length) {
    char head[40], start[64];
    int before = bytes ? snprintf(head, sizeof head, "%c%d,%zu:", letter, tag, length)
                       : snprintf(head, sizeof head, "%c%d:", letter, tag);
    int size = snprintf(start, sizeof start, "%zu:%s", (size_t)before + length, head);
    if (held_used + (size_t)size + length + 1 > sizeof held)
        flush();
    memcpy(held + held_used, start, (size_t)size);
    held_used += (size_t)size;
    if (length)
        memcpy(held + held_used, bytes, length);
    held_used += length;
    held[held_used++] = ',';
}

/* Wait until this descriptor can be read; meanwhile the service may end the program. */
static void wait_for_input(int descriptor) {
    for (;;) {
        struct pollfd both[2] = {{.fd = descriptor, .events = POLLIN}, {.fd = service, .events = POLLIN}};
        if (poll(both, 2, -1) < 0 && errno != EINTR)
            fail(self->unreadable, "input cannot be waited for: %s", strerror(errno));
        if (service >= 0 && both[1].revents)
            listen_to_service();
        else if (both[0].revents)
            return;
    }
}

/* Send everything from this descriptor as Data frames of this tag, then EndOfInput. live: as it comes. */
static void ship(int descriptor, int tag, int live) {
    static char chunk[CHUNK];
    size_t used = 0;
    for (;;) {
        if (service >= 0)
            wait_for_input(descriptor);
        ssize_t got = read(descriptor, chunk + used, sizeof chunk - used);
        if (got < 0 && (errno == EINTR || errno == EAGAIN)) {
            struct pollfd input = {.fd = descriptor, .events = POLLIN};
            poll(&input, 1, -1);
            continue;
        }
        if (got < 0)
            fail(self->unreadable, "input cannot be read: %s", strerror(errno));
        used += (size_t)got;
        if (used > 0 && (got == 0 || live || used == sizeof chunk)) {
            put('+', tag, chunk, used);
            used = 0;
            if (live)
                flush();
        }
        if (got == 0)
            break;
    }
    put('.', tag, NULL, 0);
}

/* A string of bytes that grows; its total is bounded by INVOKE_LIMIT. */
struct run {
    char *bytes;
    size_t used, room;
};

static void append(struct run *run, const char *bytes, size_t length) {
    if (length == 0)
        return;
    if (run->used + length > run->room) {
        size_t room = (run->used + length) * 2 + 1024;
        char *larger = realloc(run->bytes, room);
        if (!larger)
            fail(self->memory, "out of memory");
        run->bytes = larger;
        run->room = room;
    }
    memcpy(run->bytes + run->used, bytes, length);
    run->used += length;
}

static void append_netstring(struct run *run, const char *bytes, size_t length) {
    char head[24];
    if (length > INVOKE_LIMIT || run->used > INVOKE_LIMIT)
        fail(self->usage, "the arguments and variables are longer than %u bytes together; recipients can also stand in "
             "the message's header section (-t)", INVOKE_LIMIT);
    append(run, head, (size_t)snprintf(head, sizeof head, "%zu:", length));
    append(run, bytes, length);
    append(run, ",", 1);
}

/* The file that QMAILMFTFILE names, as a variable: only the caller can read it. A missing file is no list. */
static void append_list_file(struct run *run) {
    static const char name[] = "QMAILMFTFILE=";
    static char text[16 + CHUNK];
    const char *path = getenv("QMAILMFTFILE");
    size_t used = strlen(name);
    ssize_t got = 1;
    if (!path || !*path)
        return;
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0 && errno == ENOENT)
        return;
    memcpy(text, name, used);
    while (file >= 0 && used < sizeof text && (got = read(file, text + used, sizeof text - used)) > 0)
        used += (size_t)got;
    if (file < 0 || got < 0)
        fail(self->unreadable, "%s (QMAILMFTFILE) cannot be read: %s", path, strerror(errno));
    if (used == sizeof text)
        fail(self->usage, "%s (QMAILMFTFILE) is longer than %u bytes", path, CHUNK);
    close(file);
    append_netstring(run, text, used);
}

/* Hello and Invoke into what is held (or, if they are large, out). */
static void introduce(int argc, char **argv) {
    struct run arguments = {0}, environment = {0}, body = {0}, frame = {0};
    char head[96];
    for (int n = 1; n < argc; n++)
        append_netstring(&arguments, argv[n], strlen(argv[n]));
    for (size_t n = 0; n < sizeof variables / sizeof *variables; n++) {
        const char *value = getenv(variables[n]);
        struct run text = {0};
        if (!value)
            continue;
        append(&text, variables[n], strlen(variables[n]));
        append(&text, "=", 1);
        append(&text, value, strlen(value));
        append_netstring(&environment, text.bytes, text.used);
        free(text.bytes);
    }
    append_list_file(&environment);
    append(&body, head, (size_t)snprintf(head, sizeof head, "I1,%zu,%zu,%zu:%s", strlen(self->name), arguments.used,
                                         environment.used, self->name));
    append(&body, arguments.bytes, arguments.used);
    append(&body, environment.bytes, environment.used);
    append_netstring(&frame, HELLO, strlen(HELLO));
    append_netstring(&frame, body.bytes, body.used);
    if (frame.used <= 4096) {
        memcpy(held, frame.bytes, frame.used);
        held_used = frame.used;
    } else {
        send_bytes(frame.bytes, frame.used);
    }
    free(arguments.bytes), free(environment.bytes), free(body.bytes), free(frame.bytes);
}

/* What input this call has: sendmail's -bp and its kin have none, -bs is a dialogue, all else is a message.
   Options stand before the first other argument; the service reads them properly. */
static enum input kind_of_input(int argc, char **argv) {
    if (self == &programs[1] || self == &programs[2])
        return NO_INPUT;
    for (int n = 1; self == &programs[0] && n < argc && argv[n][0] == '-' && strcmp(argv[n], "--") != 0; n++) {
        if (argv[n][1] == 'b' && argv[n][2] && argv[n][2] != 'm')
            return argv[n][2] == 's' ? LIVE_INPUT : NO_INPUT;
        if (argv[n][1] == 'q' || argv[n][1] == 'I')
            return NO_INPUT;
        if (argv[n][1] && argv[n][2] == '\0' && strchr("fFrBNRVXOohLCDpMe", argv[n][1]))
            n++; /* its argument is the next word */
    }
    return WHOLE_INPUT;
}

/* Closed standard descriptors become /dev/null: no file or socket of ours may take their numbers. Returns which were closed. */
static unsigned fill_descriptors(void) {
    unsigned closed = 0;
    for (int n = 0; n < 3; n++)
        if (fcntl(n, F_GETFD) < 0 && open("/dev/null", O_RDWR) == n)
            closed |= 1u << n;
    return closed;
}

int main(int argc, char **argv) {
    unsigned closed = fill_descriptors();
    const char *slash = argc > 0 ? strrchr(argv[0], '/') : NULL;
    const char *name = slash ? slash + 1 : (argc > 0 ? argv[0] : "");
    for (size_t n = 0; n < sizeof programs / sizeof *programs; n++)
        if (strcmp(name, programs[n].name) == 0)
            self = &programs[n];
    signal(SIGPIPE, SIG_IGN);
    int is_queue = strcmp(self->name, "qmail-queue") == 0;
    if (is_queue && (closed & 3))
        fail(self->unreadable, "descriptor 0 or 1 is closed");
    enum input input = kind_of_input(argc, argv);
    introduce(argc, argv);
    if (input == LIVE_INPUT)
        flush();
    if (input != NO_INPUT)
        ship(0, 1, input == LIVE_INPUT);
    else
        put('.', 1, NULL, 0);
    if (is_queue)
        ship(1, 2, 0);
    flush();
    for (;;)
        listen_to_service();
}
