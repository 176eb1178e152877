/* Which segments make the log: their headers, the chain from the newest back, and what stands beside it (I4, I5, I7). */
#include "queue_internal.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int name_of(const char *text, uint32_t *name)
{
    char again[16];
    unsigned value;

    if (strlen(text) != 8 || sscanf(text, "%8x", &value) != 1)
        return 0;
    snprintf(again, sizeof again, "%08x", value);
    *name = value;
    return strcmp(text, again) == 0;
}

struct found {
    struct numbers names;
    int code;
};

static void name_found(void *argument, const char *text)
{
    struct found *found = argument;
    uint32_t name;

    if (name_of(text, &name) && numbers_add(&found->names, name) != Q_OK)
        found->code = Q_MEMORY;
}

/* Reads both headers and takes the later one; without any, a first record that is whole tells generation and
   stamp: it proves that the header was durable once (I5). */
static int head_read(struct queue *q, struct segment *segment, uint64_t *adopted)
{
    struct segment copy = *segment;
    uint8_t head[SEGMENT_HEAD];
    uint64_t length_found = segment->size, places[2] = { 0, segment->size - SEGMENT_TAIL };

    for (size_t place = 0; place < (length_found < SEGMENT_START + SEGMENT_TAIL ? 1 : 2); place++) {
        int64_t got = q->system.read(q->system.context, segment->fd, head, sizeof head, places[place]);
        int known;
        if (got < 0)
            return io_failure(q, (int)got, "reading a segment's header");
        known = got == (int64_t)sizeof head ? segment_head_take(head, &copy) : 0;
        if (known == Q_FORMAT)
            return fail_with(q, Q_FORMAT, "%s/segments/%08x: expected version %u, found %u", q->directory,
                             segment->name, FORMAT_VERSION, take32(head + 8));
        if (known && copy.generation > segment->generation) {
            copy.intact = 1;
            copy.bad = copy.closed = copy.size != length_found; /* somebody cut it: take out what is left */
            *segment = copy;
        }
    }
    if (!segment->intact) {
        uint8_t start[RECORD_HEAD];
        int64_t got = q->system.read(q->system.context, segment->fd, start, sizeof start, SEGMENT_START);
        uint32_t length = got == (int64_t)sizeof start ? take32(start + 32) : 0;
        uint8_t *record = length >= RECORD_HEAD && length < segment->size ? malloc(length) : NULL;
        if (record && q->system.read(q->system.context, segment->fd, record, length, SEGMENT_START) == length &&
            record_is_whole(record, length, take64(record + 8), take64(record + 16))) {
            segment->generation = *adopted = take64(record + 8);
            segment->stamp = take64(record + 16);
        }
        free(record);
    }
    return Q_OK;
}

static int segment_load(struct queue *q, uint32_t name, struct segment **out)
{
    struct segment *segment = calloc(1, sizeof *segment);
    char path[PATH_ROOM];
    uint64_t adopted = 0;
    int error, code = Q_OK;

    if (!segment)
        return fail_with(q, Q_MEMORY, "no memory");
    segment_path(q, name, path);
    segment->name = name;
    segment->fd = error = q->system.open(q->system.context, path, O_RDWR | O_CLOEXEC, 0);
    if (error >= 0)
        error = q->system.size(q->system.context, segment->fd, &segment->size);
    segment->there = segment->size;
    if (error < 0)
        code = io_failure(q, error, path);
    else if (segment->size <= Q_SEGMENT_MAX)
        code = head_read(q, segment, &adopted);
    segment->limit = segment->size > SEGMENT_TAIL ? (segment->size - SEGMENT_TAIL) & ~UINT64_C(7) : 0;
    if (adopted)
        segment->bad = segment->closed = 1;
    *out = segment;
    return code;
}

void segment_discard(struct queue *q, struct segment *segment, int unlink)
{
    char path[PATH_ROOM];

    segment_path(q, segment->name, path);
    if (segment->fd >= 0)
        q->system.close(q->system.context, segment->fd);
    if (unlink)
        q->system.unlink(q->system.context, path);
    free(segment);
}

static int by_generation(const void *left, const void *right)
{
    const struct segment *one = *(struct segment *const *)left, *two = *(struct segment *const *)right;

    if (one->generation != two->generation)
        return one->generation < two->generation ? -1 : 1;
    return one->intact - two->intact;
}

/* From the newest back along `previous`: *keep marks the log's segments, limits are set, and the answer is the latest
   generation that should be there and is not, or 0. */
static uint64_t mark_chain(struct segment **all, size_t count, uint64_t oldest, uint8_t *keep)
{
    uint64_t missing = 0;
    size_t at = count - 1;

    while (all[at]->generation >= oldest && all[at]->generation) {
        const struct segment *later = all[at];
        keep[at] = 1;
        while (at && all[at - 1]->generation >= later->generation)
            at--; /* a twin: not ours */
        while (at && later->intact && all[at - 1]->generation > later->previous)
            at--; /* I5: void */
        if (later->intact && later->previous >= oldest && !missing &&
            (at == 0 || all[at - 1]->generation != later->previous))
            missing = later->previous;
        if (at == 0 || (later->intact && !later->previous))
            break;
        at--;
        if (later->intact && all[at]->generation == later->previous && later->previous_end >= SEGMENT_START &&
            later->previous_end <= all[at]->limit) {
            all[at]->limit = later->previous_end;
            all[at]->told = 1;
        }
    }
    return missing;
}

static void take_spare(struct queue *q, struct segment *segment)
{
    if (q->spare || segment->bad || segment->size != q->options.segment_bytes) {
        segment_discard(q, segment, 1);
        return;
    }
    segment->generation = 0;
    q->spare = segment;
    q->segment_count++;
}

/* Sorts the segments into the log and the rest. What cannot be read waits: it may be what is missing. */
static void sort_out(struct queue *q, struct segment **all, size_t count)
{
    uint8_t *keep = (uint8_t *)(all + count);
    struct segment **end = &q->log;

    memset(keep, 0, count);
    for (size_t at = 0; at < count; at++) {
        if (all[at]->intact)
            q->oldest = all[at]->oldest; /* the newest header's, in the end */
        if (all[at]->size > q->options.segment_bytes && all[at]->size <= Q_SEGMENT_MAX && all[at]->intact)
            q->options.segment_bytes = all[at]->size;
    }
    if (count)
        q->missing = mark_chain(all, count, q->oldest, keep);
    for (size_t at = 0; at < count; at++) {
        if (all[at]->generation > q->generation)
            q->generation = all[at]->generation;
        if (all[at]->next_number > q->next_number)
            q->next_number = all[at]->next_number;
        if (keep[at]) {
            *end = q->active = all[at];
            end = &all[at]->next;
            q->segment_count++;
        } else if (!all[at]->generation) {
            all[at]->next = q->aside;
            q->aside = all[at];
        } else {
            all[at]->next = q->released;
            q->released = all[at];
        }
    }
    q->oldest_durable = q->oldest;
}

/* After replay, which has made sure of what says that they are void (I18), and may have found that what is missing is
   void by now. If it is not, nothing that may be it is touched. */
void segments_settle(struct queue *q)
{
    int is_missing = q->missing && q->missing >= q->oldest;

    q->damaged += (uint64_t)is_missing;
    while (q->released) {
        struct segment *segment = q->released;
        q->released = segment->next;
        segment->next = NULL;
        take_spare(q, segment);
    }
    while (q->aside) {
        struct segment *segment = q->aside;
        q->aside = segment->next;
        segment->next = NULL;
        if (is_missing)
            segment_discard(q, segment, 0);
        else
            take_spare(q, segment);
    }
}

int segments_load(struct queue *q)
{
    struct found found = { .code = Q_OK };
    struct segment **all = NULL;
    char path[PATH_ROOM];
    size_t loaded = 0;
    int error, code;

    snprintf(path, sizeof path, "%s/segments", q->directory);
    /* A spare may have been made by a process that was killed before its name was durable. */
    error = q->system.sync(q->system.context, q->segments_fd);
    if (error >= 0)
        error = q->system.list(q->system.context, path, name_found, &found);
    code = error < 0 ? io_failure(q, error, path) : found.code;
    if (code == Q_OK && !(all = calloc(found.names.used + 1, sizeof *all + 1)))
        code = fail_with(q, Q_MEMORY, "no memory");
    while (code == Q_OK && loaded < found.names.used) {
        uint32_t name = (uint32_t)found.names.at[loaded];
        if (name >= q->next_name)
            q->next_name = name + 1;
        code = segment_load(q, name, &all[loaded]);
        loaded += all[loaded] != NULL;
    }
    if (code == Q_OK) {
        qsort(all, loaded, sizeof *all, by_generation);
        sort_out(q, all, loaded);
    } else {
        while (loaded--)
            segment_discard(q, all[loaded], 0);
    }
    free(all);
    free(found.names.at);
    return code;
}
