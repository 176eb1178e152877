/* A queue directory of arbitrary bytes, opened over the simulated disk, used and opened again.

   An input is a small program that writes the directory: a byte of marks, then steps of one letter each with what it
   takes (below). Records and headers get their checksums and stamps here while the marks say so: without that
   no mutation would get past CRC32C. What stands in them is the input's. */
#include "crc32c.h"
#include "disk.h"
#include "queue_internal.h"
#include "target.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SEGMENT Q_SEGMENT_MIN
#define SEGMENTS_MOST 6
#define LISTED 4096
#define ROUNDS 3000

enum { SEAL_HEADS = 1, SEAL_RECORDS = 2, NO_FORMAT = 4, ONE_HEAD = 8, CHECKPOINTS = 16 };

static struct disk *disk;
static struct queue_system calls;
static struct queue *q;
static const uint8_t *input, *input_end;

static uint32_t take(uint32_t bytes)
{
    uint32_t value = 0;

    while (bytes--)
        value = value << 8 | (input < input_end ? *input++ : 0);
    return value;
}

static uint32_t take_run(const uint8_t **run, uint32_t most)
{
    uint32_t length = take(2), left = (uint32_t)(input_end - input);

    length = length < left ? length : left;
    length = length < most ? length : most;
    *run = input;
    input += length;
    return length;
}

/* ---- the directory */

static void write_file(const char *path, const uint8_t *bytes, uint64_t length)
{
    int fd = calls.open(disk, path, O_RDWR | O_CREAT, 0600);

    calls.write(disk, fd, bytes, length, 0);
    calls.sync(disk, fd);
    calls.close(disk, fd);
}

struct image {
    struct segment head;
    uint8_t bytes[SEGMENT];
    uint64_t used, size;
};
static struct image image;
static uint32_t image_count, marks;
static int without_due; /* a checkpoint keeps a retry that was asked for, the log does not */
static int is_told; /* by a checkpoint, which may tell of what no record says: what it names may not be there to read */
static uint8_t records_of[256]; /* message records under this number */
static int is_twice; /* two under one number: a copy without its facts, which goes on alone when what is before it has gone */

static void image_start(void)
{
    memset(&image, 0, sizeof image);
    image.head = (struct segment){ .generation = image_count + 1, .stamp = 0x1234 + image_count, .size = SEGMENT,
                                   .previous = image_count, .oldest = 1, .next_number = 100 };
    image.used = SEGMENT_START;
    image.size = SEGMENT;
}

static void image_end(void)
{
    char path[64];

    if (!image.size || image_count == SEGMENTS_MOST)
        return;
    if (marks & SEAL_HEADS) {
        segment_head_fill(image.bytes, &image.head);
        if (!(marks & ONE_HEAD))
            segment_head_fill(image.bytes + SEGMENT - SEGMENT_TAIL, &image.head);
    }
    snprintf(path, sizeof path, "/q/segments/%08x", ++image_count);
    write_file(path, image.bytes, image.size);
}

/* G: a new segment; its header's fields, small numbers */
static void step_segment(void)
{
    uint64_t last = image.used;

    image_end();
    image_start();
    image.head.previous_end = last;
    switch (take(1)) {
    case 0: break;
    case 1: image.head.generation = take(1); break;
    case 2: image.head.previous = take(1); break;
    case 3: image.head.previous_end = take(2); break;
    case 4: image.head.oldest = take(1); break;
    case 5: image.head.next_number = (uint64_t)take(4) << 30; break;
    case 6: image.head.size = take(3); break;
    case 7: image.head.generation = (uint64_t)take(4) << 30; break;
    default: image.head.stamp = take(1);
    }
}

/* R: type, marks, number, then the body. A message's body may leave out what can be counted: with mark 128 of the
   type it is origin, sender, recipients and content instead, each a run. */
static void step_record(void)
{
    uint8_t *at = image.bytes + image.used;
    uint32_t type = take(1), record_marks = take(1), number = take(1), length, room;
    const uint8_t *run;

    if (!image.size || image.used + 8192 > SEGMENT - SEGMENT_TAIL)
        return;
    room = 8000;
    memset(at, 0, 8192);
    length = RECORD_HEAD;
    if (type & 128) {
        static const uint32_t places[4] = { 56, 60, 64, 68 };
        uint8_t count = (uint8_t)take(1);
        put64(at + 40, take(2));
        put32(at + 48, take(1));
        put32(at + 52, count);
        put64(at + 72, take(1));
        put64(at + 80, take(1));
        put32(at + 88, take(1));
        put64(at + 96, take(1));
        length = MESSAGE_HEAD;
        for (int part = 0; part < 4; part++) {
            uint32_t used = take_run(&run, 1500);
            memcpy(at + length, run, used);
            put32(at + places[part], used);
            length += used;
        }
        type &= 127;
    } else {
        uint32_t used = take_run(&run, room - length);
        memcpy(at + length, run, used);
        length += used;
    }
    length = (length + 7) & ~7u;
    is_twice |= type == MESSAGE && records_of[number]++ != 0;
    put32(at, RECORD_MAGIC);
    put64(at + 24, number == 255 ? UINT64_C(1) << 61 : number);
    put32(at + 32, length);
    put16(at + 36, (uint16_t)type);
    put16(at + 38, (uint16_t)record_marks);
    if (marks & SEAL_RECORDS)
        record_seal(at, image.head.generation, image.head.stamp);
    image.used += length;
}

static void step_bytes(void)
{
    uint32_t at = take(2), length;
    const uint8_t *run;

    length = take_run(&run, 4096);
    if (image.size && at + length <= SEGMENT)
        memcpy(image.bytes + at, run, length);
}

/* L: a file with this name in a folder, by its bytes or as a number */
static void step_file(void)
{
    static const char *const folders[] = { "segments", "large", "" };
    char path[96];
    const uint8_t *run;
    uint32_t folder = take(1) % 4, length;

    if (folder == 3) {
        snprintf(path, sizeof path, "/q/large/%016x", take(1));
    } else {
        char name[32];
        length = take_run(&run, sizeof name - 1);
        memcpy(name, run, length);
        name[length] = 0;
        if (!length || strchr(name, '/') || strlen(name) != length)
            return;
        snprintf(path, sizeof path, "/q/%s%s%s", folders[folder], *folders[folder] ? "/" : "", name);
        if (strcmp(path, "/q/segments") == 0 || strcmp(path, "/q/large") == 0)
            return;
    }
    length = take_run(&run, 4096);
    write_file(path, run, length);
}

/* C: a checkpoint: where the log goes on behind it, then chunks of a kind and a run of bytes. Its last chunk comes by itself. */
static void step_checkpoint(void)
{
    static uint8_t bytes[1 << 14];
    uint64_t used = 72;
    uint32_t generation = take(1), offset = take(2), chunks = take(1) % 4;
    const uint8_t *run;

    memset(bytes, 0, sizeof bytes);
    memcpy(bytes, "qmaildcp", 8);
    put32(bytes + 8, 1);
    put64(bytes + 16, 77);
    put64(bytes + 24, generation);
    put64(bytes + 32, 0x1234 + generation - 1); /* as image_start gives it */
    put64(bytes + 40, SEGMENT_START + offset * 8);
    put64(bytes + 48, take(1));
    put64(bytes + 56, take(1));
    for (uint32_t at = 0; at <= chunks; at++) {
        uint8_t *chunk = bytes + used;
        uint32_t length;
        if (at < chunks) {
            length = take_run(&run, 3000);
            memcpy(chunk + 32, run, length);
        } else {
            length = 16;
            put64(chunk + 32, take(1));
            put64(chunk + 40, take(1));
        }
        length += 32;
        put32(chunk, 0x31434d51);
        put64(chunk + 8, 77);
        put64(chunk + 16, used);
        put32(chunk + 24, length);
        put32(chunk + 28, at < chunks ? 1 : 2);
        if (marks & SEAL_RECORDS)
            put32(chunk + 4, crc32c(0, chunk + 8, length - 8));
        used += length;
    }
    if (marks & SEAL_HEADS)
        put32(bytes + 12, crc32c(crc32c(0, bytes, 12), bytes + 16, 72 - 16));
    write_file("/q/checkpoint", bytes, used);
    is_told = 1;
}

static void make_directory(void)
{
    const uint8_t *format = (const uint8_t *)FORMAT_TEXT;
    uint32_t format_length = sizeof FORMAT_TEXT - 1, files = 0;
    uint8_t step;

    marks = take(1);
    is_told = is_twice = 0;
    memset(records_of, 0, sizeof records_of);
    image_count = 0;
    memset(&image, 0, sizeof image);
    calls.mkdir(disk, "/q", 0700);
    calls.mkdir(disk, "/q/segments", 0700);
    calls.mkdir(disk, "/q/large", 0700);
    while (input < input_end && (step = (uint8_t)take(1)) != '.') {
        if (step == 'G')
            step_segment();
        else if (step == 'R')
            step_record();
        else if (step == 'B')
            step_bytes();
        else if (step == 'S' && image.size)
            image.used = (image.used + take(2) + 7) & ~UINT64_C(7);
        else if (step == 'T' && image.size)
            image.size = take(2);
        else if (step == 'C')
            step_checkpoint();
        else if (step == 'F')
            format_length = take_run(&format, 4096);
        else if (step == 'L' && files++ < 16)
            step_file();
        if (image.used > SEGMENT - 16384)
            image.used = SEGMENT - 16384;
    }
    image_end();
    if (!(marks & NO_FORMAT))
        write_file("/q/format", format, format_length);
}

/* ---- use */

static int open_queue(void)
{
    struct queue_options options = { .segment_bytes = SEGMENT, .create = 1, .threads = 0 };
    char text[512] = "";
    int code;

    if (marks & CHECKPOINTS) {
        options.checkpoint_bytes = 64;
        options.checkpoint_slice = 2;
    }
    calls = disk_system(disk);
    code = queue_open(&q, "/q", &options, &calls, text, sizeof text);
    must((code == Q_OK) == (q != NULL));
    must(code == Q_OK || text[0]);
    must(code == Q_OK || code == Q_FORMAT || code == Q_IO); /* no disk is full here and nothing else has it open */
    return code == Q_OK;
}

static void inside(uint32_t offset, uint32_t length, uint32_t whole)
{
    must(offset <= whole && length <= whole - offset);
}

/* What a job shows lies inside its record; the answer is a fingerprint of it. */
static uint64_t look_at(const struct queue_job *job, uint64_t states[5])
{
    uint64_t print = job->number * 31 + job->part_count;

    inside(job->origin_offset, job->origin_length, job->record_length);
    inside(job->sender_offset, job->sender_length, job->record_length);
    inside(job->content_offset, job->content_length, job->record_length);
    print = print * 131 + crc32c(0, job->record + RECORD_HEAD, job->record_length - RECORD_HEAD); /* a copy has the same */
    must(job->part_count > 0 && job->part_count <= Q_RECIPIENTS_MAX);
    for (uint32_t at = 0; at < job->part_count; at++) {
        const struct queue_part *part = &job->parts[at];
        inside(part->offset, part->length, job->record_length);
        must(part->state <= Q_FAILED && part->lane_length <= Q_LANE_MAX && part->note_length <= Q_NOTE_MAX);
        must(part->state != Q_FAILED || part->note || part->note_length == 0);
        states[part->state]++;
        print = print * 131 + part->state;
        print = print * 131 + part->lane_length;
        print = print * 131 + part->note_length;
        for (uint32_t byte = 0; byte < part->lane_length; byte++)
            print = print * 131 + ((const uint8_t *)part->lane)[byte];
        if (part->state == Q_WAITING && !without_due)
            print = print * 131 + (uint64_t)part->due;
    }
    return print;
}

/* Lists and shows agree with the counts; the answer is a fingerprint of all messages. */
static uint64_t look_around(void)
{
    static uint64_t numbers[LISTED];
    uint64_t after = 0, seen = 0, unread = 0, states[5] = { 0 }, print = 0;
    struct queue_counts counts;
    size_t found;

    while ((found = queue_list(q, after, numbers, 7)) > 0) {
        must(found <= 7);
        for (size_t at = 0; at < found; at++, seen++) {
            struct queue_job job;
            must(numbers[at] > after);
            after = numbers[at];
            if (queue_show(q, after, &job) == Q_OK) {
                must(job.number == after);
                print = print * 1000003 + look_at(&job, states);
                must(queue_glance(q, after, 1, &job) == Q_OK);
                must(queue_show_some(q, after, 1, 2, &job) == Q_OK && job.part_count <= 2);
                must(!job.part_count || job.parts[0].index == 1);
            } else {
                must(is_told); /* else it was whole a moment ago */
                unread++;
            }
        }
    }
    queue_counts(q, &counts);
    must(seen == counts.messages);
    must(unread ||
         (states[Q_OUT] == counts.out && states[Q_WAITING] == counts.waiting && states[Q_NEW] == counts.fresh));
    return print;
}

/* A search finds, in ascending order, messages that have somebody who is meant; without one it finds what is listed. */
static void look_for(int with_lanes, const char *suffix, int work)
{
    static const char meant[] = "\x0d\0remote:a.test\x05\0local", asked[] = "\x0d\0remote:b.test\0\0\x01\0x";
    struct queue_search search = { .meant = meant, .asked = asked, .suffix = suffix,
                                   .meant_length = with_lanes ? sizeof meant - 1 : 0,
                                   .asked_length = with_lanes ? sizeof asked - 1 : 0, .suffix_length = strlen(suffix) };
    uint64_t numbers[5], after = 0, last = 0, all = 0;
    struct queue_counts counts;
    struct queue_job job;
    uint32_t rounds = 0;

    do {
        size_t found = queue_find(q, &search, &after, numbers, 5, (uint64_t)work);
        must(found <= 5 && ++rounds < ROUNDS);
        for (size_t at = 0; at < found; at++) {
            must(numbers[at] > last);
            last = numbers[at];
            must(queue_match(q, last, &search, &job) == Q_OK || is_told);
        }
        must(!after || after >= last);
    } while (after);
    do
        all += queue_find(q, NULL, &after, numbers, 5, (uint64_t)work);
    while (after);
    queue_counts(q, &counts);
    must(all == counts.messages);
}

static void settle(void)
{
    struct queue_collected collected;

    for (int turn = 0; turn < 4; turn++) {
        queue_commit(q);
        queue_step(q);
        must(queue_collect(q, &collected) == Q_OK);
        must(collected.failed_count == 0 && collected.staged_failed_count == 0);
    }
}

/* What the rest of the input asks for: each call is refused or done. */
static void use(void)
{
    static uint32_t indexes[64];

    for (int steps = 0; input < input_end && steps < 40; steps++) {
        uint8_t step = (uint8_t)take(1);
        uint64_t number = take(1);
        uint32_t count = 1 + take(1) % 3;
        struct queue_job job;
        for (uint32_t at = 0; at < count; at++)
            indexes[at] = take(1);
        switch (step % 12) {
        case 0: queue_done(q, number, indexes, count); break;
        case 1: queue_fail(q, number, indexes[0], "a note", 6); break;
        case 2: queue_defer(q, number, "remote:a.test", count > 1 ? 13 : 0, (int64_t)take(2), indexes, count); break;
        case 3: queue_end(q, number); break;
        case 4: queue_due(q, (int64_t)take(2), count == 1 ? QUEUE_FRESH : QUEUE_RETRY, &job); break;
        case 5: queue_give_back(q, number); break;
        case 6: queue_retry(q, number); break;
        case 7: queue_retry_some(q, number, indexes, count); break;
        case 8:
            settle();
            look_for(count == 1, count == 2 ? "@b.test" : "", 1 + (int)number);
            break;
        case 9:
            queue_limit(q, (uint32_t)number);
            queue_is_out(q, number, indexes[0]);
            break;
        case 10: {
            struct queue_message message = { .birth = 5, .recipients = 1, .addresses = "\3\0a@b", .addresses_length = 5,
                                             .content = "x", .content_length = 1, .origin = "", .sender = "",
                                             .ends = count == 2 ? number : 0, .serves = count == 3 ? number : 0,
                                             .serves_index = indexes[0] };
            queue_add(q, &message, &number);
            break;
        }
        default:
            settle();
            look_around();
        }
    }
    settle();
}

/* Everything is delivered; nothing is left and nothing comes again. */
static void drain(void)
{
    uint64_t number = 0;
    struct queue_job job;
    uint32_t rounds = 0;

    while (queue_list(q, number, &number, 1)) /* what is put off beyond all time comes too */
        must(queue_retry(q, number) == Q_OK);
    for (; queue_due(q, INT64_MAX, QUEUE_FRESH, &job) == 1 || queue_due(q, INT64_MAX, QUEUE_RETRY, &job) == 1; rounds++) {
        uint64_t states[5] = { 0 };
        must(rounds < ROUNDS);
        look_at(&job, states);
        if (job.kind == QUEUE_FINISH || rounds % 7 == 3) {
            must(queue_end(q, job.number) == Q_OK);
        } else {
            uint32_t *each = malloc(job.part_count * sizeof *each), count = job.part_count;
            for (uint32_t at = 0; at < count; at++)
                each[at] = job.parts[at].index;
            must(queue_done(q, job.number, each, count) == Q_OK);
            free(each);
        }
        if (rounds % 5 == 4)
            settle();
    }
    settle();
}

static int is_left(void)
{
    struct queue_counts counts;

    queue_counts(q, &counts);
    return counts.messages || counts.waiting || counts.fresh;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    uint64_t before;

    input = bytes;
    input_end = bytes + length;
    disk = disk_new(1);
    calls = disk_system(disk);
    make_directory();
    if (open_queue()) {
        before = look_around();
        queue_close(q);
        must(open_queue()); /* what was opened once opens again, and says the same */
        must(is_told || look_around() == before);
        use();
        queue_close(q);
        must(open_queue());
        without_due = 1;
        before = look_around();
        queue_close(q);
        calls.unlink(disk, "/q/checkpoint");
        must(open_queue());
        must(is_told || is_twice || look_around() == before); /* what a checkpoint says the log says too */
        without_due = 0;
        drain();
        must(!is_left());
        queue_close(q);
        must(open_queue());
        must(!is_left());
        queue_close(q);
    }
    disk_free(disk);
    return 0;
}
