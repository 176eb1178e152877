/* A simulated week of mail through the store: most messages end at once, some live for hours, days or the whole week, and one
   domain is dead. Holds the bound on disk use (I16) and what an addition waits for.
   Usage: churn DIRECTORY DAYS MESSAGES-A-DAY SEGMENT-BYTES THREADS SLOWNESS: making a segment takes so many microseconds
   longer. Syncs do nothing: no power goes here. Prints the counts; a broken bound is said and ends it with status 1. */
#include "queue.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define SECOND INT64_C(1000000)
#define DAY (86400 * SECOND)
#define WEEK (7 * DAY)
#define TICKS_A_DAY 8640
#define BURST_EVERY 2000 /* ticks, and for a hundredth of that thirty times the mail */
#define LOOK_EVERY 64
#define REST 4 /* commits of nothing that write nothing */
#define PATIENCE 60000 /* ms */
#define RECIPIENTS 40
#define CONTENT 12000

static struct queue *q;
static struct queue_counts counts;
static uint64_t segment_bytes, written, additions, facts, bounces, seed = 1;
static int64_t now = 1;
static int threads, slowness, checkpoint_fd = -1;
static struct {
    double ratio;    /* disk less two segments, by living bytes, once copying was done */
    double over;     /* segments above twice the living bytes, at any time */
    uint64_t ahead;  /* bytes written between an addition's commit and its being durable, its own not counted */
    uint64_t wait;   /* that time, in microseconds */
    uint64_t rounds; /* of collecting, until copying was done */
    uint64_t living, messages;
} worst;

static void fail(const char *what)
{
    queue_counts(q, &counts);
    printf("%s on day %.2f: %s; %llu messages, %llu living bytes, %llu on disk\n", what, (double)now / (double)DAY,
           queue_error(q), (unsigned long long)counts.messages, (unsigned long long)counts.living,
           (unsigned long long)counts.disk);
    exit(1);
}

static uint64_t roll(uint64_t below)
{
    seed = seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (seed >> 33) % below;
}

/* ---- under the store */

static int note_checkpoint(void *context, const char *path, int flags, unsigned mode)
{
    int fd = queue_linux.open(context, path, flags, mode);

    if (strstr(path, "/checkpoint") && (flags & O_CREAT))
        checkpoint_fd = fd;
    else if (fd == checkpoint_fd)
        checkpoint_fd = -1;
    return fd;
}

/* But for checkpoints and the zeros of a segment to come: the preparer writes those, and no addition waits for it. */
static int64_t count_write(void *context, int fd, const void *bytes, size_t length, uint64_t offset)
{
    const char *first = bytes;

    if (fd != checkpoint_fd && (*first || memcmp(first, first + 1, length - 1) != 0))
        __atomic_add_fetch(&written, length, __ATOMIC_RELAXED);
    return queue_linux.write(context, fd, bytes, length, offset);
}

static int reserve_slowly(void *context, int fd, uint64_t length)
{
    usleep((useconds_t)slowness);
    return queue_linux.reserve(context, fd, length);
}

static int no_sync(void *context, int fd)
{
    (void)context, (void)fd;
    return 0;
}

static uint64_t micros(void)
{
    struct timespec at;

    clock_gettime(CLOCK_MONOTONIC, &at);
    return (uint64_t)at.tv_sec * 1000000 + (uint64_t)at.tv_nsec / 1000;
}

/* ---- what becomes of a message: written into its flags */

enum fate { AT_ONCE, MINUTES, HOURS, DAYS, ALL_WEEK, DEAD };

static enum fate draw_fate(void)
{
    uint64_t of = roll(1000);

    return of < 920 ? AT_ONCE : of < 965 ? MINUTES : of < 985 ? HOURS : of < 992 ? DAYS : of < 995 ? ALL_WEEK : DEAD;
}

static int64_t lifetime(uint32_t flags)
{
    static const int64_t longest[] = { 0, 3600 * SECOND, 12 * 3600 * SECOND, 3 * DAY, WEEK, WEEK };
    int64_t part = flags >> 8;

    return flags % 256 >= ALL_WEEK ? longest[flags % 256] : longest[flags % 256] / 65536 * (part % 65536);
}

static void add(uint64_t ends)
{
    static uint8_t content[CONTENT], addresses[RECIPIENTS * 32];
    uint32_t count = roll(20) ? 1 : 1 + (uint32_t)roll(RECIPIENTS);
    struct queue_message message = { .birth = now, .flags = (uint32_t)(draw_fate() | roll(65536) << 8),
        .recipients = count, .origin = "churn", .origin_length = 5, .sender = "from@example", .sender_length = 12,
        .addresses = addresses, .content = content, .content_length = 300 + roll(roll(10) ? 4000 : CONTENT - 300),
        .ends = ends };
    uint64_t number;

    if (ends)
        message.flags = AT_ONCE;
    for (uint32_t index = 0; index < count; index++) {
        int length = sprintf((char *)addresses + message.addresses_length + 2, "user%u@d%u.example", index,
                             (unsigned)roll(1000));
        addresses[message.addresses_length] = (uint8_t)length;
        addresses[message.addresses_length + 1] = 0;
        message.addresses_length += 2 + (size_t)length;
    }
    if (queue_add(q, &message, &number) != Q_OK)
        fail("no message is taken");
    additions++;
}

/* ---- deliveries */

static void defer(const struct queue_job *job, uint32_t *indexes, uint32_t count, int64_t death)
{
    int64_t age = (now - job->birth) / SECOND, tries = 0, due;
    char lane[64];

    while (400 * tries * tries <= age)
        tries++;
    due = job->birth + 400 * tries * tries * SECOND;
    if (due > death)
        due = death;
    for (uint32_t at = 0; at < count; at++, facts++) { /* each to another domain */
        int length = sprintf(lane, "remote d%llu.example", (unsigned long long)((job->number + at) % 1000));
        if (queue_defer(q, job->number, lane, (size_t)length, due, &indexes[at], 1) != Q_OK)
            fail("no deferral is taken");
    }
}

static int next_due(struct queue_job *job)
{
    int code = queue_due(q, now, QUEUE_FRESH, job);

    return code ? code : queue_due(q, now, QUEUE_RETRY, job);
}

static void deliver(void)
{
    uint32_t indexes[RECIPIENTS], count;
    struct queue_job job;

    for (int code; (code = next_due(&job)); facts++) {
        if (code != 1)
            fail("what is due");
        if (job.kind == QUEUE_FINISH) {
            bounces++;
            add(job.number);
            continue;
        }
        int64_t death = job.birth + lifetime(job.flags);
        count = job.part_count;
        for (uint32_t part = 0; part < count; part++)
            indexes[part] = job.parts[part].index;
        if (now < death) {
            uint32_t served = count > 1 && job.flags % 256 != DEAD ? count / 2 : 0;
            if (served && queue_done(q, job.number, indexes, served) != Q_OK)
                fail("no delivery is taken");
            defer(&job, indexes + served, count - served, death);
        } else if (job.flags % 256 == DEAD) {
            for (uint32_t at = 0; at < count; at++)
                if (queue_fail(q, job.number, indexes[at], "it has been dead for a week, and all week long", 46) != Q_OK)
                    fail("no failure is taken");
        } else if (queue_done(q, job.number, indexes, count) != Q_OK) {
            fail("no delivery is taken");
        }
    }
}

/* ---- commits */

static void await(void)
{
    struct pollfd event = { .fd = queue_eventfd(q), .events = POLLIN };

    if (!threads)
        queue_step(q);
    else if (poll(&event, 1, PATIENCE) != 1)
        fail("the store says nothing");
}

/* After: all that was appended is durable. */
static void commit(int counted)
{
    struct queue_collected got;
    uint64_t before = written, own, ticket, began = micros();

    queue_counts(q, &counts);
    own = counts.pending;
    ticket = queue_commit(q);
    do {
        await();
        if (queue_collect(q, &got) != Q_OK || got.failed_count)
            fail("a commit failed");
    } while (got.durable < ticket);
    if (!counted)
        return;
    if (written - before > own && written - before - own > worst.ahead)
        worst.ahead = written - before - own;
    if (micros() - began > worst.wait)
        worst.wait = micros() - began;
}

/* ---- the bound */

static double by_living(uint64_t bytes)
{
    return (double)bytes / (double)counts.living;
}

static int within_bound(void)
{
    queue_counts(q, &counts);
    return counts.disk <= 2 * counts.living + 2 * segment_bytes;
}

/* No mail for a moment: the copying comes to its end, with disk use within the bound, and the store rests. A thread that was
   making a segment may say so when all else has rested; the store goes on from there. */
static void look(void)
{
    uint64_t rounds = 0, most, before;
    int resting = 0;

    queue_counts(q, &counts);
    most = 64 + 4 * counts.disk / (segment_bytes / 4);
    for (; rounds < most; rounds++) {
        if (resting == REST) {
            if (within_bound() || !threads)
                break;
            await();
            resting = 0;
        }
        before = written;
        commit(0);
        resting = written == before ? resting + 1 : 0;
    }
    if (!within_bound())
        fail("the bound does not hold");
    if (resting < REST)
        fail("the store does not rest");
    if (rounds - REST > worst.rounds)
        worst.rounds = rounds - REST;
    if (counts.living > segment_bytes && by_living(counts.disk - 2 * segment_bytes) > worst.ratio)
        worst.ratio = by_living(counts.disk - 2 * segment_bytes);
}

static void tick(uint64_t number, double mail)
{
    static double owed;
    double over;

    now += DAY / TICKS_A_DAY;
    owed += number % BURST_EVERY < BURST_EVERY / 100 ? 30 * mail : mail;
    for (; owed >= 1; owed--)
        add(0);
    deliver();
    commit(1);
    queue_counts(q, &counts);
    over = ((double)counts.disk - 2 * (double)counts.living) / (double)segment_bytes;
    if (over > worst.over)
        worst.over = over;
    if (counts.living > worst.living)
        worst.living = counts.living;
    if (counts.messages > worst.messages)
        worst.messages = counts.messages;
    if (number % LOOK_EVERY == 0)
        look();
}

int main(int count, char **words)
{
    struct queue_options options = { .create = 1 };
    struct queue_system system = queue_linux;
    char text[512];
    double days, mail;

    if (count != 7)
        return 100;
    days = atof(words[2]);
    mail = atof(words[3]) / TICKS_A_DAY;
    options.segment_bytes = segment_bytes = strtoull(words[4], NULL, 10);
    options.threads = threads = atoi(words[5]);
    system.open = note_checkpoint;
    system.write = count_write;
    slowness = atoi(words[6]);
    if (slowness)
        system.reserve = reserve_slowly;
    system.sync = system.sync_data = no_sync;
    if (queue_open(&q, words[1], &options, &system, text, sizeof text) != Q_OK) {
        puts(text);
        return 1;
    }
    for (uint64_t number = 0; (double)number < days * TICKS_A_DAY; number++)
        tick(number, mail);
    look();
    queue_counts(q, &counts);
    printf("additions %llu facts %llu bounces %llu messages %llu living %llu ratio %.3f over %.1f rounds %llu "
           "ahead %llu wait %llu written %llu\n", (unsigned long long)additions, (unsigned long long)facts,
           (unsigned long long)bounces, (unsigned long long)worst.messages, (unsigned long long)worst.living, worst.ratio,
           worst.over, (unsigned long long)worst.rounds, (unsigned long long)worst.ahead,
           (unsigned long long)worst.wait, (unsigned long long)written);
    queue_close(q);
    return 0;
}
