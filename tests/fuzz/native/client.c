/* The programs that users start: arguments, variables, input, and above all what a service answers.

   native/client.c stands here whole, over system calls that take the input apart: a byte of choices, one word of
   arguments and one of variables (parted by NUL), one of standard input, then the answer, in pieces. Then the lookups of
   native/system.c with the answer as a name. */
#include "target.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "system.h"

#define SENT_MOST (4u << 20)
#define FILE_FD 100
#define SERVICE_FD 101

struct bytes {
    const uint8_t *at;
    size_t left;
};

static struct world {
    struct bytes standard_input, envelope, answer, file;
    size_t piece;     /* bytes of one read */
    int send_fails;   /* the service has closed */
    int variables;
    char *variable[8];
    char printed[2][1 << 17];
    size_t printed_length[2], sent_length;
    int connected;
} world;
static uint8_t sent[SENT_MOST];
static jmp_buf over;
static int exit_code;

static _Noreturn void fake_exit(int code)
{
    exit_code = code;
    longjmp(over, 1);
}

static ssize_t give(struct bytes *from, void *to, size_t room)
{
    size_t length = from->left < room ? from->left : room;

    length = length < world.piece ? length : world.piece;
    if (length)
        memcpy(to, from->at, length);
    from->at += length;
    from->left -= length;
    return (ssize_t)length;
}

static ssize_t fake_recv(int fd, void *to, size_t room, int flags)
{
    must(fd == SERVICE_FD && flags == 0 && room > 0);
    return give(&world.answer, to, room);
}

static ssize_t fake_read(int fd, void *to, size_t room)
{
    must((fd == 0 || fd == 1 || fd == FILE_FD) && room > 0);
    return give(fd == 0 ? &world.standard_input : fd == 1 ? &world.envelope : &world.file, to, room);
}

static ssize_t fake_write(int fd, const void *from, size_t length)
{
    must(fd == 1 || fd == 2);
    if (length > world.piece)
        length = world.piece;
    must(world.printed_length[fd - 1] + length <= sizeof world.printed[0]);
    memcpy(world.printed[fd - 1] + world.printed_length[fd - 1], from, length);
    world.printed_length[fd - 1] += length;
    return (ssize_t)length;
}

static ssize_t fake_send(int fd, const void *from, size_t length, int flags)
{
    must(fd == SERVICE_FD && flags == MSG_NOSIGNAL);
    if (world.send_fails) {
        errno = EPIPE;
        return -1;
    }
    must(world.sent_length + length <= SENT_MOST);
    memcpy(sent + world.sent_length, from, length);
    world.sent_length += length;
    return (ssize_t)length;
}

static int fake_poll(struct pollfd *waits, nfds_t count, int timeout)
{
    must(timeout == -1 && count <= 2);
    waits[0].revents = POLLIN;
    if (count == 2)
        waits[1].revents = world.answer.left ? POLLIN : 0;
    return 1;
}

static char *fake_getenv(const char *name)
{
    size_t length = strlen(name);

    for (int at = 0; at < world.variables; at++)
        if (strncmp(world.variable[at], name, length) == 0 && world.variable[at][length] == '=')
            return world.variable[at] + length + 1;
    return NULL;
}

static int fake_open(const char *path, int flags, ...)
{
    must(!(flags & O_CREAT));
    errno = ENOENT;
    return strcmp(path, "none") == 0 ? -1 : FILE_FD;
}

static int fake_socket(int family, int kind, int protocol)
{
    must(family == AF_UNIX && kind & SOCK_STREAM && protocol == 0 && !world.connected);
    world.connected = 1;
    return SERVICE_FD;
}

/* The program ends itself where it stands: what it still holds then is let go of here. */
#define HELD_MOST 64
static void *blocks[HELD_MOST];

static void *fake_realloc(void *block, size_t room)
{
    int at = 0;

    while (blocks[at] != block)
        must(++at < HELD_MOST);
    return blocks[at] = realloc(block, room);
}

static void fake_free(void *block)
{
    for (int at = 0; block && at < HELD_MOST; at++)
        if (blocks[at] == block)
            blocks[at] = NULL;
    free(block);
}

static int fake_none()
{
    return 0;
}

#define exit fake_exit
#define recv fake_recv
#define read fake_read
#define write fake_write
#define send fake_send
#define poll fake_poll
#define getenv fake_getenv
#define realloc fake_realloc
#define free fake_free
#define open fake_open
#define socket fake_socket
#define connect(...) fake_none()
#define setsockopt(fd, level, name, value, length) (void)(value)
#define fcntl(...) fake_none()
#define close(...) fake_none()
#define signal(...) fake_none()
#define fprintf(...) fake_none()
#define vfprintf(stream, format, arguments) (void)(format)
#define fputc(...) fake_none()
#define main client_main
#undef _GNU_SOURCE
#include "../../../native/client.c"
#undef main
#undef fprintf
#undef vfprintf
#undef open
#undef close
#undef realloc
#undef free

#define WORDS 8

static uint8_t input[1 << 16];

/* The next word: two bytes of length, then that many. A NUL stands behind it. */
static struct bytes word(struct bytes *from)
{
    struct bytes found = { from->at, 0 };

    if (from->left < 2)
        return found;
    found.left = (size_t)(from->at[0] << 8 | from->at[1]);
    found.at = from->at + 2;
    if (found.left > from->left - 2)
        found.left = from->left - 2;
    from->at += 2 + found.left;
    from->left -= 2 + found.left;
    return found;
}

static int split(struct bytes text, char *parts[WORDS], char *copy)
{
    int count = 0;
    char *end = copy + text.left;

    memcpy(copy, text.at, text.left);
    *end = 0;
    for (char *at = copy; at < end && count < WORDS; at += strlen(at) + 1)
        parts[count++] = at;
    return count;
}

/* All that went out is frames: Hello, Invoke, then data; a run that was broken off may end inside one. */
static void check_sent(void)
{
    const char *place = (const char *)sent, *end = place + world.sent_length, *frame;
    size_t length, frames = 0;

    for (; place < end; frames++) {
        frame = netstring(&place, end, &length);
        if (!frame) {
            must(end - place < (2 << 20));
            return;
        }
        must(length > 1 && strchr(frames == 0 ? "v" : frames == 1 ? "I" : "+.", *frame));
        must(memchr(frame, ':', length) || *frame == 'v');
    }
}

/* Is it what the program says of its own trouble? */
static int is_trouble(int code)
{
    return code == self->usage || code == self->unreachable || code == self->lost || code == self->unreadable;
}

/* What the service says, read once more beside the program: all that may be printed, and the code to end with, or -1
   if a frame before it is none or it never comes. */
static struct said {
    int code;
    size_t length[2];
    uint8_t printed[2][1 << 16];
} said;

/* At most nine digits, then one of `ends`. -1: there is no such number. */
static long take_number(struct bytes *from, const char *ends)
{
    long value = 0;
    size_t digits = 0;

    for (; digits < from->left && digits < 9 && from->at[digits] >= '0' && from->at[digits] <= '9'; digits++)
        value = value * 10 + (from->at[digits] - '0');
    if (digits == 0 || digits == from->left || !memchr(ends, from->at[digits], strlen(ends)))
        return -1;
    from->at += digits + 1;
    from->left -= digits + 1;
    return value;
}

/* 1: the next one may follow. */
static int take_frame(struct bytes frame)
{
    uint8_t letter = *frame.at;
    long number[3] = { 0, 0, 0 };
    int count = 0, stream;

    frame.at++;
    frame.left--;
    do
        if ((number[count] = take_number(&frame, ",:")) < 0)
            return 0;
    while (++count < 3 && frame.at[-1] == ',');
    if (frame.at[-1] != ':')
        return 0;
    if (letter == 'x' && count == 2 && number[1] <= 255 && !frame.left)
        said.code = (int)number[1];
    if (letter == 'v' && count == 2 && number[0] == VERSION && (size_t)number[1] == frame.left)
        return 1;
    if (letter != '>' || count != 3 || (size_t)number[2] != frame.left)
        return 0;
    stream = number[1] == 2;
    memcpy(said.printed[stream] + said.length[stream], frame.at, frame.left);
    said.length[stream] += frame.left;
    return 1;
}

static void take_answer(struct bytes answer)
{
    int goes_on = 1;

    said.code = -1;
    said.length[0] = said.length[1] = 0;
    while (goes_on) {
        long length = take_number(&answer, ":");
        if (length < 0 || (size_t)length >= answer.left || answer.at[length] != ',')
            return;
        goes_on = length == 0 || take_frame((struct bytes){ answer.at, (size_t)length });
        answer.at += length + 1;
        answer.left -= (size_t)length + 1;
    }
}

/* 0 above all is never the program's own: it says that the message is safe. */
static void check_answer(struct bytes answer)
{
    take_answer(answer);
    must(is_trouble(exit_code) || exit_code == said.code);
    for (int stream = 0; stream < 2; stream++) {
        must(world.printed_length[stream] <= said.length[stream]);
        must(is_trouble(exit_code) || world.printed_length[stream] == said.length[stream]);
        must(memcmp(world.printed[stream], said.printed[stream], world.printed_length[stream]) == 0);
    }
}

static void run(struct bytes all, size_t piece, uint8_t choice)
{
    static char arguments[1 << 16], environment[1 << 16];
    char *parts[WORDS + 2] = { (char *)(uintptr_t)programs[choice % 5].name };
    struct bytes answer, text;
    int count;

    memset(&world, 0, offsetof(struct world, printed));
    world.printed_length[0] = world.printed_length[1] = world.sent_length = 0;
    world.connected = 0;
    world.piece = piece;
    world.send_fails = choice >= 128;
    self = &programs[0];
    service = -1;
    held_used = answer_used = 0;
    text = word(&all);
    count = 1 + split(text, parts + 1, arguments);
    parts[count] = NULL;
    text = word(&all);
    world.variables = split(text, world.variable, environment);
    world.standard_input = word(&all);
    if (choice & 64) { /* so much that it does not fit */
        static uint8_t much[HELD + 5000];
        world.standard_input = (struct bytes){ much, sizeof much };
    }
    world.envelope = world.file = world.standard_input;
    world.answer = answer = all;
    exit_code = -1;
    if (setjmp(over) == 0)
        client_main(count, parts);
    for (int at = 0; at < HELD_MOST; at++)
        fake_free(blocks[at]);
    check_answer(answer);
    check_sent();
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    static char printed[2][sizeof world.printed[0]];
    size_t first, second;
    struct system_account account;
    struct bytes all;
    char name[64];
    uint8_t choice;
    int code;

    if (length < 1 || length > sizeof input)
        return 0;
    choice = bytes[0];
    memcpy(input, bytes + 1, length - 1);
    all = (struct bytes){ input, length - 1 };
    run(all, SIZE_MAX, choice);
    code = exit_code;
    first = world.printed_length[0];
    second = world.printed_length[1];
    memcpy(printed[0], world.printed[0], first);
    memcpy(printed[1], world.printed[1], second);
    run(all, 1 + choice % 7, choice);
    must(exit_code == code && world.printed_length[0] == first && world.printed_length[1] == second);
    must(memcmp(printed[0], world.printed[0], first) == 0 && memcmp(printed[1], world.printed[1], second) == 0);
    if (choice % 32 == 31) {
        size_t used = all.left < sizeof name - 1 ? all.left : sizeof name - 1;
        memcpy(name, all.at, used);
        name[used] = 0;
        if (system_account_by_name(name, &account) == SYSTEM_FOUND) {
            must(account.name && account.home && account.shell);
            system_account_free(&account);
        }
        must(account.text == NULL);
    }
    return 0;
}
