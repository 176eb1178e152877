/* The far ends of the benchmark, small enough not to matter: an SMTP server that takes and forgets every
 * message, and a reader of /dev/log that forgets every line.
 *
 *   sink smtp PORT COUNTERS   serve on 127.0.0.1:PORT; COUNTERS is a file that holds three native uint64:
 *                             connections, messages, recipients of those messages
 *   sink log PATH             read datagrams from a UNIX socket at PATH
 *
 * Both print one line when they are ready, and run until they are killed. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

enum { ROOM = 65536, OUT_ROOM = 65536, EVENTS = 64 };

struct counters {
    uint64_t connections, messages, recipients;
};

struct session {
    int fd, in_data, closing;
    uint64_t recipients;
    size_t in_length, out_length;
    char in[ROOM], out[OUT_ROOM];
};

static volatile struct counters *counters;

static void reply(struct session *s, const char *text) {
    size_t length = strlen(text);
    if (s->out_length + length > OUT_ROOM) {
        s->closing = 1; /* more commands in one read than their replies fit: nobody we measure does that */
        return;
    }
    memcpy(s->out + s->out_length, text, length);
    s->out_length += length;
}

static void command(struct session *s, const char *line) {
    if (strncasecmp(line, "EHLO", 4) == 0) {
        reply(s, "250-sink\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250 SIZE\r\n");
    } else if (strncasecmp(line, "RCPT", 4) == 0) {
        s->recipients++;
        reply(s, "250 ok\r\n");
    } else if (strncasecmp(line, "DATA", 4) == 0) {
        s->in_data = 1;
        reply(s, "354 go on\r\n");
    } else if (strncasecmp(line, "QUIT", 4) == 0) {
        reply(s, "221 bye\r\n");
        s->closing = 1;
    } else {
        if (strncasecmp(line, "MAIL", 4) == 0 || strncasecmp(line, "RSET", 4) == 0) s->recipients = 0;
        reply(s, "250 ok\r\n");
    }
}

/* The length of a body with its ending dot line, or 0 if that has not arrived. Its very first line may be it. */
static size_t body_length(const char *from, size_t left, int first) {
    if (first && left >= 3 && memcmp(from, ".\r\n", 3) == 0) return 3;
    const char *end = memmem(from, left, "\r\n.\r\n", 5);
    return end ? (size_t)(end - from) + 5 : 0;
}

/* Consume what has arrived; what is left over stands at the start of the buffer. */
static void consume(struct session *s) {
    size_t used = 0;
    while (used < s->in_length && !s->closing) {
        char *from = s->in + used;
        size_t left = s->in_length - used;
        if (s->in_data) {
            size_t body = body_length(from, left, s->in_data == 1);
            if (!body) {
                if (left > 4) s->in_data = 2, used += left - 4;
                break;
            }
            used += body;
            s->in_data = 0;
            counters->messages++;
            counters->recipients += s->recipients;
            s->recipients = 0;
            reply(s, "250 taken\r\n");
        } else {
            char *end = memchr(from, '\n', left);
            if (!end) break;
            *end = '\0';
            used += (size_t)(end - from) + 1;
            command(s, from);
        }
    }
    memmove(s->in, s->in + used, s->in_length - used);
    s->in_length -= used;
}

/* Serve what can be read now. Nonzero when the session is over. */
static int serve(struct session *s) {
    ssize_t got = read(s->fd, s->in + s->in_length, ROOM - s->in_length);
    if (got < 0) return errno != EAGAIN;
    if (got == 0) return 1;
    s->in_length += (size_t)got;
    consume(s);
    if (s->out_length && write(s->fd, s->out, s->out_length) != (ssize_t)s->out_length) return 1;
    s->out_length = 0;
    return s->closing || s->in_length == ROOM;
}

static void welcome(int listener, int epoll) {
    for (;;) {
        int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC), one = 1;
        if (fd < 0) return;
        struct session *s = malloc(sizeof *s);
        if (!s) err(1, "malloc");
        memset(s, 0, offsetof(struct session, in));
        s->fd = fd;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        counters->connections++;
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = s};
        if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) < 0 || write(fd, "220 sink ESMTP\r\n", 16) != 16) {
            close(fd);
            free(s);
        }
    }
}

static void smtp(int port, const char *path) {
    int file = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644), one = 1;
    if (file < 0 || ftruncate(file, sizeof *counters) < 0) err(1, "%s", path);
    counters = mmap(NULL, sizeof *counters, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (counters == MAP_FAILED) err(1, "mmap");
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) < 0 || listen(listener, 1024) < 0)
        err(1, "port %d", port);
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event events[EVENTS] = {{.events = EPOLLIN, .data.ptr = NULL}};
    if (epoll < 0 || epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &events[0]) < 0) err(1, "epoll");
    puts("ready");
    fflush(stdout);
    for (;;) {
        int ready = epoll_wait(epoll, events, EVENTS, -1);
        for (int n = 0; n < ready; n++) {
            struct session *s = events[n].data.ptr;
            if (!s) {
                welcome(listener, epoll);
            } else if (serve(s)) {
                close(s->fd);
                free(s);
            }
        }
    }
}

static void drain(const char *path) {
    static char line[ROOM];
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof address.sun_path) errx(1, "%s: too long for a socket", path);
    strcpy(address.sun_path, path);
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) < 0) err(1, "%s", path);
    if (chmod(path, 0666) < 0) err(1, "%s", path);
    puts("ready");
    fflush(stdout);
    while (read(fd, line, sizeof line) >= 0) continue;
    err(1, "reading %s", path);
}

int main(int argc, char **argv) {
    if (argc == 4 && strcmp(argv[1], "smtp") == 0) smtp(atoi(argv[2]), argv[3]);
    if (argc == 3 && strcmp(argv[1], "log") == 0) drain(argv[2]);
    errx(100, "usage: sink smtp PORT COUNTERS | sink log PATH");
}
