/* Files that somebody damaged: bits flipped, ranges overwritten, files cut. Opening never fails for it.
   Usage: damage segments SEED ROUNDS: every message that no damage touched is there with its content.
          damage checkpoint SEED STRIDE: one bit of every STRIDEth byte of a checkpoint, and cuts; it is never believed.
          damage misplaced SEED 1: a checkpoint that says a message stands where it begins itself; the log knows of none there.
          damage foreign SEED 1: the checkpoint of another queue, which has had the same work; only stamps tell the two apart.
          damage forged SEED ROUNDS: checkpoints with sound checksums that say anything; the core stays in its memory.
   Prints "points N". */
#include "crc32c.h"
#include "model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FILES_MOST 64
#define HURTS_MOST 16

struct hurt {
    const uint8_t *file;
    uint64_t from, to;
};

static struct hurt hurts[HURTS_MOST];
static uint32_t hurt_count;
static uint64_t safe[ENTRIES];
static size_t safe_count;

static void say(const char *what, uint64_t seed, uint64_t round)
{
    static char text[64];

    snprintf(text, sizeof text, "damage %s, seed %llu, %llu", what, (unsigned long long)seed, (unsigned long long)round);
    doing = text;
}

static void hurt(uint8_t *bytes, uint64_t from, uint64_t to)
{
    hurts[hurt_count++] = (struct hurt){ bytes, from, to };
}

static void damage_once(void)
{
    uint64_t *size, files = 0, from, length;
    uint8_t *bytes;

    while (disk_bytes(disk, "/q/segments", files, &size))
        files++;
    bytes = disk_bytes(disk, "/q/segments", disk_random(disk, files), &size);
    from = disk_random(disk, *size ? *size : 1);
    length = 1 + disk_random(disk, 300);
    if (from + length > *size)
        return;
    switch (disk_random(disk, 8)) {
    case 0: /* cut */
        hurt(bytes, from, UINT64_MAX);
        *size = from;
        break;
    case 1: /* overwritten with what looks like our own */
        hurt(bytes, from, from + length);
        memmove(bytes + from, bytes + 4096, length);
        break;
    case 2: /* zeros */
        hurt(bytes, from, from + length);
        memset(bytes + from, 0, length);
        break;
    case 3: /* a length that is absurd, where records stand */
        from = 4096 + from % 4096 / 8 * 8;
        hurt(bytes, from, from + 4);
        memset(bytes + from, 0xff, 4);
        break;
    default: /* one bit */
        hurt(bytes, from, from + 1);
        bytes[from] ^= (uint8_t)(1u << disk_random(disk, 8));
    }
}

/* Both headers of a segment hit, or one and the rest cut: then its records may go with it. */
static int headers_are_hit(void)
{
    for (uint32_t one = 0; one < hurt_count; one++)
        for (uint32_t two = 0; two < hurt_count; two++)
            if (hurts[one].file == hurts[two].file && hurts[one].from < 96 && hurts[two].to > SEGMENT - 4096)
                return 1;
    return 0;
}

static uint64_t field(const uint8_t *at, int bytes)
{
    uint64_t value = 0;

    while (bytes--)
        value = value << 8 | at[bytes];
    return value;
}

/* Is any record with this number under a wound, in the bytes as they were? */
static int is_touched(uint64_t number, uint8_t *const *before, uint8_t *const *files, const uint64_t *sizes, size_t count)
{
    for (size_t file = 0; file < count; file++)
        for (uint64_t at = 4096, length; at + 40 <= sizes[file]; at += length) {
            length = 8;
            if (field(before[file] + at, 4) != 0x31524d51)
                continue;
            length = field(before[file] + at + 32, 4);
            if (length < 40 || length % 8 || length > sizes[file] - at) {
                length = 8;
                continue;
            }
            for (uint32_t wound = 0; wound < hurt_count; wound++)
                if (hurts[wound].file == files[file] && hurts[wound].from < at + length && hurts[wound].to > at &&
                    field(before[file] + at + 24, 8) == number)
                    return 1;
        }
    return 0;
}

static void hurt_and_note(void)
{
    uint8_t *before[FILES_MOST], *files[FILES_MOST];
    uint64_t sizes[FILES_MOST], numbers[ENTRIES], *size;
    size_t count = 0, found = queue_list(q, 0, numbers, ENTRIES);

    let_go();
    for (; count < FILES_MOST && (files[count] = disk_bytes(disk, "/q/segments", count, &size)); count++) {
        sizes[count] = *size;
        before[count] = malloc(*size);
        memcpy(before[count], files[count], *size);
    }
    hurt_count = 0;
    for (uint64_t wounds = 1 + disk_random(disk, HURTS_MOST - 1); wounds; wounds--)
        damage_once();
    safe_count = 0;
    for (size_t at = 0; at < found && !headers_are_hit(); at++)
        if (!is_touched(numbers[at], before, files, sizes, count))
            safe[safe_count++] = numbers[at];
    while (count--)
        free(before[count]);
}

static void look_after(void)
{
    static uint64_t numbers[ENTRIES];
    struct queue_job job;
    size_t found;

    for (size_t at = 0; at < safe_count; at++) {
        if (queue_show(q, safe[at], &job) != Q_OK)
            broken("damage took a message it had not touched", ENTRIES, safe[at]);
        content_check(job.record + job.content_offset, job.content_length);
    }
    found = queue_list(q, 0, numbers, ENTRIES);
    for (size_t at = 0; at < found; at++) {
        int code = queue_show(q, numbers[at], &job);
        if (code == Q_DAMAGED)
            queue_end(q, numbers[at]); /* the checkpoint knew it: somebody has to give it up */
        if (code != Q_OK)
            continue;
        content_check(job.record + job.content_offset, job.content_length);
    }
    drain();
}

static uint64_t segments(uint64_t seed, uint64_t rounds)
{
    uint64_t kept = 0;

    for (uint64_t round = 0; round < rounds; round++) {
        say("segments", seed, round);
        start_over(seed + round % 16, seed * 1000 + round);
        run_workload();
        hurt_and_note();
        forget_tickets();
        forget_numbers();
        kept += safe_count;
        if (open_queue() != Q_OK)
            broken("damage keeps it from opening", ENTRIES, 0);
        look_after();
        let_go();
        disk_free(disk);
    }
    if (!kept)
        broken("no message was left to look for", ENTRIES, rounds);
    return rounds;
}

/* ---- checkpoints */

/* A disk with a queue that was closed in an orderly way. */
static struct disk *closed_queue(uint64_t seed, uint64_t disk_seed)
{
    uint64_t *size;

    start_over(seed, disk_seed);
    run_workload();
    let_go();
    forget_tickets();
    if (!disk_bytes(disk, "/q/checkpoint", 0, &size) || *size < 400)
        broken("there is no checkpoint to damage", ENTRIES, seed);
    return disk;
}

static void expect_refused(void)
{
    if (open_and_compare())
        broken("a damaged checkpoint is believed", ENTRIES, 0);
    check();
    let_go();
    disk_free(disk);
}

static uint64_t checkpoint(uint64_t seed, uint64_t stride)
{
    struct disk *whole = closed_queue(seed, seed);
    uint64_t points = 0, *size;
    uint8_t *bytes;

    say("checkpoint", seed, 0);
    disk = disk_clone(whole);
    if (!open_and_compare())
        broken("a whole checkpoint is not believed", ENTRIES, 0);
    let_go();
    disk_free(disk);
    disk_bytes(whole, "/q/checkpoint", 0, &size);
    for (uint64_t at = 0, length = *size; at < length; at += stride, points++) {
        say("checkpoint", seed, at);
        disk = disk_clone(whole);
        bytes = disk_bytes(disk, "/q/checkpoint", 0, &size);
        if (points % 8 == 7)
            *size = at; /* cut */
        else
            bytes[at] ^= (uint8_t)(1u << disk_random(whole, 8));
        expect_refused();
    }
    disk_free(whole);
    return points;
}

/* The chunk (or the head) that `at` stands in gets the checksum that its bytes have now. */
static void seal_again(uint8_t *bytes, uint64_t size, uint64_t at)
{
    uint64_t chunk = 72, length = 0;

    if (at < 72) {
        uint32_t sum = crc32c(crc32c(0, bytes, 12), bytes + 16, 56);
        memcpy(bytes + 12, &sum, 4);
        return;
    }
    for (; chunk + 32 <= size; chunk += length) {
        length = field(bytes + chunk + 24, 4);
        if (length < 32 || length > size - chunk)
            return;
        if (at < chunk + length) {
            uint32_t sum = crc32c(0, bytes + chunk + 8, length - 8);
            memcpy(bytes + chunk + 4, &sum, 4);
            return;
        }
    }
}

static size_t number_length(const uint8_t *at)
{
    size_t length = 1;

    while (*at++ & 0x80)
        length++;
    return length;
}

/* The first message of each chunk, by itself, is placed at P. Numbers there take the bytes that they took before. */
static uint64_t misplaced(uint64_t seed)
{
    struct disk *whole = closed_queue(seed, seed);
    uint64_t points = 0, *size, *own, length;
    uint8_t *bytes = disk_bytes(whole, "/q/checkpoint", 0, &size), *place;

    for (uint64_t chunk = 72; chunk < *size; chunk += length) {
        length = field(bytes + chunk + 24, 4);
        if (field(bytes + chunk + 28, 4) != 1 || length < 40)
            continue;
        say("misplaced", seed, chunk);
        disk = disk_clone(whole);
        place = disk_bytes(disk, "/q/checkpoint", 0, &own) + chunk + 32;
        place += number_length(place);
        place += number_length(place);
        uint64_t generation = field(bytes + 24, 8), offset = field(bytes + 40, 8) / 8;
        if (number_length(place) != 1 || generation > 127 || number_length(place + 1) != 2)
            broken("a place takes other bytes", ENTRIES, chunk);
        place[0] = (uint8_t)generation;
        place[1] = (uint8_t)(offset | 0x80);
        place[2] = (uint8_t)(offset >> 7);
        seal_again(disk_bytes(disk, "/q/checkpoint", 0, &own), *own, chunk);
        expect_refused();
        points++;
    }
    disk_free(whole);
    return points;
}

static uint64_t foreign(uint64_t seed)
{
    struct disk *other, *own = closed_queue(seed, seed);
    uint64_t *size, *other_size;
    uint8_t *bytes, *other_bytes;

    say("foreign", seed, 0);
    other = closed_queue(seed, seed + 1);
    bytes = disk_bytes(own, "/q/checkpoint", 0, &size);
    other_bytes = disk_bytes(other, "/q/checkpoint", 0, &other_size);
    if (*size != *other_size || memcmp(bytes + 24, other_bytes + 24, 8) != 0 || memcmp(bytes + 40, other_bytes + 40, 8) != 0)
        broken("the other queue is another one", ENTRIES, *other_size);
    memcpy(bytes, other_bytes, *size);
    disk_free(other);
    disk = own;
    expect_refused();
    return 1;
}

/* Whatever it makes of it: it can be listed, read, handed out and ended. */
static void use_it(void)
{
    static uint64_t numbers[ENTRIES];
    struct queue_job job;
    size_t found;

    while (queue_due(q, INT64_MAX, QUEUE_FRESH, &job) == 1 || queue_due(q, INT64_MAX, QUEUE_RETRY, &job) == 1)
        ;
    found = queue_list(q, 0, numbers, ENTRIES);
    for (size_t at = 0; at < found; at++) {
        queue_show(q, numbers[at], &job);
        queue_retry(q, numbers[at]);
        queue_give_back(q, numbers[at]);
        if (at % 2)
            queue_end(q, numbers[at]);
    }
    settle();
}

static uint64_t forged(uint64_t seed, uint64_t rounds)
{
    struct disk *whole = closed_queue(seed, seed);
    uint64_t believed = 0, *size;

    for (uint64_t round = 0; round < rounds; round++) {
        uint8_t *bytes;
        say("forged", seed, round);
        disk = disk_clone(whole);
        bytes = disk_bytes(disk, "/q/checkpoint", 0, &size);
        for (uint64_t forgeries = 1 + disk_random(whole, 3); forgeries; forgeries--) {
            uint64_t at = disk_random(whole, 4) ? 72 + disk_random(whole, *size - 72) : disk_random(whole, 72);
            bytes[at] = (uint8_t)(disk_random(whole, 2) ? disk_random(whole, 256) : bytes[at] ^ (1u << disk_random(whole, 8)));
            seal_again(bytes, *size, at);
        }
        if (open_queue() != Q_OK)
            broken("a forged checkpoint keeps it from opening", ENTRIES, 0);
        struct queue_counts counts;
        queue_counts(q, &counts);
        believed += !counts.checkpoints_refused;
        use_it();
        let_go();
        disk_free(disk);
    }
    if (!believed)
        broken("no forgery got past the first look", ENTRIES, rounds);
    disk_free(whole);
    return rounds;
}

int main(int count, char **words)
{
    uint64_t points, seed, much;

    if (count != 4)
        return 100;
    seed = strtoull(words[2], NULL, 10);
    much = strtoull(words[3], NULL, 10);
    points = strcmp(words[1], "segments") == 0 ? segments(seed, much)
             : strcmp(words[1], "checkpoint") == 0 ? checkpoint(seed, much)
             : strcmp(words[1], "misplaced") == 0 ? misplaced(seed)
             : strcmp(words[1], "foreign") == 0   ? foreign(seed) : forged(seed, much);
    printf("points %llu\n", (unsigned long long)points);
    return 0;
}
