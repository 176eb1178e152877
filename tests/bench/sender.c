/* A client whose messages can be told apart, and that says how long each took. Where smtp-source counts, this one looks.
 *
 *   sender PORT SESSIONS MESSAGES BYTES EVERY FORWARD-PATH NAME PLACE
 *
 * Sends MESSAGES to 127.0.0.1:PORT over SESSIONS sessions at once, a connection for each, EVERY microseconds apart
 * (0: as fast as it goes). Message n is from sender-NAME-n@client.test, and its body begins with a line begin-NAME-n
 * and closes with a line end-NAME-n; n has six digits. PLACE, for a single session, is where it must arrive before
 * the next one leaves: a new/ folder, the counters of sink.c, or - for nowhere. A line for each message when all is over:
 *
 *   NAME-n PORT-OF-THE-CLIENT CODE BEGUN REPLIED PLACED
 *
 * Microseconds: BEGUN since the program began, right before connect(); the other two since then. CODE is that of the reply
 * to the body, or 0 if the session broke; PLACED is 0 if it did not arrive in a minute, and then no further message leaves. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { LINE = 72, ROOM = 4096, PATIENCE = 60 };

struct fate {
    int port, code;
    long begun, replied, placed;
};

static int port, messages;
static size_t bytes;
static long every, beginning;
static const char *forward_path, *name;
static atomic_int next;
static struct fate *fates;
static int watch = -1;
static volatile uint64_t *counters;

static long now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

static void put(int fd, const char *text, size_t length)
{
    while (length > 0) {
        ssize_t sent = send(fd, text, length, MSG_NOSIGNAL);
        if (sent <= 0) return; /* the next reply will be missing */
        text += sent;
        length -= (size_t)sent;
    }
}

/* The code of the next reply, all its lines read; 0 if there is none. The dialogue is lockstep: nothing follows it. */
static int reply(int fd)
{
    char text[ROOM];
    size_t length = 0, line = 0;

    for (;;) {
        ssize_t got = recv(fd, text + length, ROOM - length, 0);
        if (got <= 0) return 0;
        length += (size_t)got;
        for (char *end; (end = memchr(text + line, '\n', length - line)); line = (size_t)(end - text) + 1)
            if (end - (text + line) >= 4 && text[line + 3] == ' ') return atoi(text + line);
        if (length == ROOM) return 0;
    }
}

static int ask(int fd, const char *command)
{
    put(fd, command, strlen(command));
    return reply(fd);
}

static char *compose(int n, size_t *length)
{
    char *text = malloc(bytes + 1024), *end = text;
    if (!text) err(1, "malloc");
    end += sprintf(end, "From: <sender@client.test>\r\nTo: <%s>\r\nSubject: %s\r\n\r\nbegin-%s-%06d\r\n", forward_path, name, name, n);
    while ((size_t)(end - text) + LINE + 64 < bytes) {
        memset(end, 'a' + n % 26, LINE);
        memcpy(end + LINE, "\r\n", 2);
        end += LINE + 2;
    }
    end += sprintf(end, "end-%s-%06d\r\n.\r\n", name, n);
    *length = (size_t)(end - text);
    return text;
}

static int opened(struct fate *fate)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    struct timeval patience = {.tv_sec = PATIENCE};
    socklen_t room = sizeof address;

    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (fd < 0) err(1, "socket");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    if (connect(fd, (struct sockaddr *)&address, sizeof address) == 0 && getsockname(fd, (struct sockaddr *)&address, &room) == 0)
        fate->port = ntohs(address.sin_port);
    return fd;
}

static int dialogue(int fd, int n, const char *text, size_t length)
{
    char command[ROOM];

    if (reply(fd) != 220 || ask(fd, "EHLO client.test\r\n") != 250) return 0;
    snprintf(command, ROOM, "MAIL FROM:<sender-%s-%06d@client.test>\r\n", name, n);
    if (ask(fd, command) != 250) return 0;
    snprintf(command, ROOM, "RCPT TO:<%s>\r\n", forward_path);
    if (ask(fd, command) != 250 || ask(fd, "DATA\r\n") != 354) return 0;
    put(fd, text, length);
    return reply(fd);
}

/* Nonzero when one more has arrived than before. A look at the counters each half millisecond costs less than it blurs. */
static int arrived(uint64_t before)
{
    char events[ROOM];
    struct pollfd file = {.fd = watch, .events = POLLIN};

    for (long end = now() + PATIENCE * 1000000L; counters; usleep(500)) {
        if (counters[2] > before) return 1;
        if (now() > end) return 0;
    }
    return poll(&file, 1, PATIENCE * 1000) == 1 && read(watch, events, sizeof events) > 0;
}

static void one(int n)
{
    struct fate *fate = &fates[n];
    size_t length;
    char *text = compose(n, &length);
    uint64_t before = counters ? counters[2] : 0;
    long begun = now();
    int fd = opened(fate);

    fate->begun = begun - beginning;
    fate->code = dialogue(fd, n, text, length);
    fate->replied = now() - begun;
    if (fate->code == 250) {
        put(fd, "QUIT\r\n", 6);
        if (watch >= 0 || counters) {
            if (arrived(before)) fate->placed = now() - begun;
            else next = messages; /* what does not arrive is not waited for again and again */
        }
        reply(fd);
    }
    close(fd);
    free(text);
}

static void *session(void *unused)
{
    (void)unused;
    for (int n; (n = atomic_fetch_add(&next, 1)) < messages;) {
        long left = beginning + n * every - now();
        if (left > 0) usleep((useconds_t)left);
        one(n);
    }
    return NULL;
}

static void look_at(const char *place)
{
    struct stat facts;

    if (strcmp(place, "-") == 0) return;
    if (stat(place, &facts) < 0) err(1, "%s", place);
    if (S_ISDIR(facts.st_mode)) {
        watch = inotify_init1(IN_CLOEXEC);
        if (inotify_add_watch(watch, place, IN_CREATE | IN_MOVED_TO) < 0) err(1, "%s", place);
    } else {
        int fd = open(place, O_RDONLY | O_CLOEXEC);
        counters = mmap(NULL, 3 * sizeof *counters, PROT_READ, MAP_SHARED, fd, 0);
        if (counters == MAP_FAILED) err(1, "%s", place);
    }
}

int main(int argc, char **argv)
{
    if (argc != 9) errx(100, "usage: sender PORT SESSIONS MESSAGES BYTES EVERY FORWARD-PATH NAME PLACE");
    int sessions = atoi(argv[2]);
    pthread_t *threads = calloc((size_t)sessions, sizeof *threads);

    beginning = now();
    port = atoi(argv[1]), messages = atoi(argv[3]), bytes = (size_t)atol(argv[4]), every = atol(argv[5]);
    forward_path = argv[6], name = argv[7];
    fates = calloc((size_t)messages, sizeof *fates);
    look_at(argv[8]);
    for (int n = 0; n < sessions; n++)
        if ((errno = pthread_create(&threads[n], NULL, session, NULL))) err(1, "pthread_create");
    for (int n = 0; n < sessions; n++) pthread_join(threads[n], NULL);
    for (int n = 0; n < messages; n++)
        printf("%s-%06d %d %d %ld %ld %ld\n", name, n, fates[n].port, fates[n].code, fates[n].begun, fates[n].replied,
               fates[n].placed);
    return 0;
}
