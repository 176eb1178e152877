/* Cases that chance does not reach, each set up on purpose.
   Usage: cases brim: a segment is filled to its last byte, and not a byte further, by one commit or by two.
          cases spoiled: what stands in a segment whose sync failed is copied out of it, with all that is known of it.
          cases torn: what a torn write left is no damage when more has been written behind it.
   Prints "points N". A broken promise aborts. */
#include "model.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CAPACITY (SEGMENT - 2 * 4096) /* between a segment's header and its copy */
#define FRAME 109u                    /* of a record: its head, and one recipient's length and address */

static void start(void)
{
    start_over(1, 1);
    if (open_queue() != Q_OK)
        broken("it does not open", ENTRIES, 0);
}

/* A message whose record takes so many bytes, a multiple of 8. Its content says where it came. */
static uint64_t put(uint32_t length, uint8_t place)
{
    static uint8_t content[SEGMENT];
    struct queue_message message = { .recipients = 1, .addresses = "\3\0r@e", .addresses_length = 5, .content = content,
                                     .content_length = length - FRAME };
    uint64_t number = 0;

    memset(content, place, sizeof content);
    if (queue_add(q, &message, &number) != Q_OK)
        broken(queue_error(q), ENTRIES, length);
    return number;
}

static void expect_message(uint64_t number, uint32_t length, uint8_t place)
{
    struct queue_job job;

    if (queue_show(q, number, &job) != Q_OK)
        broken(queue_error(q), ENTRIES, number);
    if (job.record_length != length || job.content_length != length - FRAME)
        broken("a message has another length", ENTRIES, job.record_length);
    for (uint32_t at = 0; at < job.content_length; at++)
        if (job.record[job.content_offset + at] != place)
            broken("a message has another content", ENTRIES, at);
}

static struct queue_counts counts_now(void)
{
    struct queue_counts counts;

    queue_counts(q, &counts);
    return counts;
}

/* The power goes, with all that was not synced; somebody takes `taken` away; the queue opens again, and misses nothing. */
static void lose_power(const char *taken)
{
    disk_crash_at(disk, 1);
    let_go();
    disk_restart(disk, LOST);
    if (taken)
        disk_remove(disk, taken);
    forget_tickets();
    if (open_queue() != Q_OK)
        broken("it does not open again", ENTRIES, 0);
    if (counts_now().damaged || counts_now().torn)
        broken("something is missed", ENTRIES, counts_now().damaged);
}

static void commit_and_wait(void)
{
    struct queue_collected got;
    uint64_t ticket = queue_commit(q);

    queue_step(q);
    if (queue_collect(q, &got) != Q_OK || got.durable < ticket || got.failed_count)
        broken("it is not durable", ENTRIES, got.durable);
}

/* Two messages, as long together as a segment has room and `more` bytes: by one sync, or by two. */
static void fill(int32_t more, int is_together)
{
    uint32_t first = 24000, second = (uint32_t)((int32_t)(CAPACITY - first) + more);
    uint64_t one, two;

    start();
    one = put(first, 1);
    if (is_together)
        queue_commit(q);
    else
        commit_and_wait();
    two = put(second, 2);
    commit_and_wait();
    commit_and_wait(); /* a spare is made once there is need of one */
    if (counts_now().segments != (more > 0 ? 3u : 2u)) /* one of them a spare */
        broken("the segments are not as full as they can be", ENTRIES, counts_now().segments);
    lose_power(NULL);
    expect_message(one, first, 1);
    expect_message(two, second, 2);
    let_go();
    disk_free(disk);
}

static uint64_t brim(void)
{
    uint64_t points = 0;

    for (int32_t more = -16; more <= 16; more += 8, points += 2) {
        fill(more, 0);
        fill(more, 1);
    }
    return points;
}

static uint64_t spoiled(void)
{
    const uint32_t only = 0;
    struct queue_collected got;
    uint64_t numbers[6], lost;

    start();
    for (uint8_t at = 0; at < 6; at++)
        numbers[at] = put(2000 + 8u * at, at);
    commit_and_wait();
    if (queue_fail(q, numbers[1], 0, "no such user", 12) != Q_OK ||
        queue_defer(q, numbers[2], "remote e", 8, 77, &only, 1) != Q_OK || queue_done(q, numbers[3], &only, 1) != Q_OK)
        broken(queue_error(q), ENTRIES, 0);
    commit_and_wait();
    disk_fail_at(disk, 2, EIO, 0); /* the write goes well, its sync does not */
    lost = put(1600, 9);
    queue_commit(q);
    queue_step(q);
    if (queue_collect(q, &got) != Q_OK || got.failed_count != 1)
        broken("a failed sync is not told", ENTRIES, got.failed_count);
    put(1200, 8); /* a new segment begins */
    for (int round = 0; round < 8; round++)
        commit_and_wait();
    lose_power("/q/segments/00000000");
    for (uint8_t at = 0; at < 6; at++) {
        struct queue_job job;
        int is_there = queue_show(q, numbers[at], &job) == Q_OK;
        if (is_there != (at != 3))
            broken("a message is not as it was", ENTRIES, at);
        if (!is_there)
            continue;
        if (job.parts[0].state != (at == 1 ? Q_FAILED : at == 2 ? Q_WAITING : Q_NEW) || (at == 2 && job.parts[0].due != 77))
            broken("a recipient is not as it was", ENTRIES, at);
        expect_message(numbers[at], 2000 + 8u * at, at);
    }
    if (queue_is_out(q, lost, 0) || counts_now().messages != 6)
        broken("a refused message is there", ENTRIES, counts_now().messages);
    let_go();
    disk_free(disk);
    return 1;
}

static uint64_t torn(void)
{
    uint64_t one, three, four, *size;

    start();
    one = put(2000, 1);
    commit_and_wait();
    put(1600, 2);
    queue_commit(q);
    three = put(1200, 3);
    queue_commit(q);
    disk_crash_at(disk, 3); /* two writes, and the sync that they share */
    queue_step(q);
    let_go();
    disk_restart(disk, KEPT);
    memset(disk_bytes(disk, "/q/segments/00000000", 0, &size) + 4096 + 2000, 0, 1024);
    if (open_queue() != Q_OK || counts_now().torn != 1 || counts_now().damaged)
        broken("a torn write is not taken for one", ENTRIES, counts_now().damaged);
    four = put(800, 4);
    commit_and_wait();
    lose_power(NULL);
    expect_message(one, 2000, 1);
    expect_message(three, 1200, 3);
    expect_message(four, 800, 4);
    let_go();
    disk_free(disk);
    return 1;
}

int main(int count, char **words)
{
    if (count != 2)
        return 100;
    doing = words[1];
    printf("points %llu\n", (unsigned long long)(strcmp(words[1], "brim") == 0 ? brim()
                                                : strcmp(words[1], "torn") == 0 ? torn() : spoiled()));
    return 0;
}
