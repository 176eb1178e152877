/* Beginning with a checkpoint: from its bytes to the index, without trust (I12, I17). */
#include "crc32c.h"
#include "queue_internal.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

enum { FITS = 1, UNFIT = 0 }; /* or Q_MEMORY */

/* A checkpoint being read. */
struct restoring {
    struct queue *q;
    struct position from;
    const struct segment **segments; /* of the log, by generation */
    struct numbers lanes;            /* the index's lane for each of the checkpoint's */
    size_t segment_count;
    uint64_t stamp, size, oldest, next_number, messages, last; /* last: the number of the last message taken */
    uint8_t *bytes;
    size_t room;
    int fd;
};

/* ---- bytes */

struct cursor {
    const uint8_t *at, *end;
    int bad; /* it ran out, or a number is no number */
};

static uint64_t take_number(struct cursor *cursor)
{
    uint64_t value = 0;

    for (unsigned shift = 0; cursor->at < cursor->end && shift < 63; shift += 7) {
        uint8_t byte = *cursor->at++;
        value |= (uint64_t)(byte & 0x7f) << shift;
        if (byte < 0x80)
            return value;
    }
    cursor->bad = 1;
    return 0;
}

static int64_t take_wide(struct cursor *cursor)
{
    if (cursor->end - cursor->at < 8) {
        cursor->bad = 1;
        return 0;
    }
    cursor->at += 8;
    return (int64_t)take64(cursor->at - 8);
}

/* NULL if there are not so many, or more than `most`. */
static const uint8_t *take_bytes(struct cursor *cursor, uint64_t most, uint32_t *length)
{
    uint64_t claimed = take_number(cursor);

    if (cursor->bad || claimed > most || claimed > (uint64_t)(cursor->end - cursor->at)) {
        cursor->bad = 1;
        return NULL;
    }
    *length = (uint32_t)claimed;
    cursor->at += claimed;
    return cursor->at - claimed;
}

/* After: r->bytes holds `length` bytes from `at` of the file. What cannot be read does not fit. */
static int bytes_read(struct restoring *r, uint64_t at, uint64_t length)
{
    const struct queue *q = r->q;
    int64_t got;

    if (at > r->size || length > r->size - at)
        return UNFIT;
    if (r->room < length) {
        uint8_t *wider = realloc(r->bytes, length);
        if (!wider)
            return Q_MEMORY;
        r->bytes = wider;
        r->room = length;
    }
    got = q->system.read(q->system.context, r->fd, r->bytes, length, at);
    return got >= 0 && (uint64_t)got == length ? FITS : UNFIT;
}

/* ---- messages */

static int lane_take(struct restoring *r, struct cursor *cursor, uint32_t *lane)
{
    uint64_t number = take_number(cursor);
    const uint8_t *name;
    uint32_t length;

    if (cursor->bad || number > r->lanes.used)
        return UNFIT;
    if (number < r->lanes.used) {
        *lane = (uint32_t)r->lanes.at[number];
        return lane_room(r->q, *lane) == Q_OK ? FITS : Q_MEMORY;
    }
    name = take_bytes(cursor, Q_LANE_MAX, &length);
    if (!name)
        return UNFIT;
    if (lane_intern(r->q, name, length, lane) != Q_OK || numbers_add(&r->lanes, *lane) != Q_OK)
        return Q_MEMORY;
    return FITS;
}

/* What this run of recipients is: *slot. */
static int slot_take(struct restoring *r, struct cursor *cursor, struct message *message, uint32_t *groups,
                     uint32_t *group_count, uint32_t *slot)
{
    uint64_t kind = take_number(cursor);
    uint32_t lane;
    int code;

    *slot = kind == CHECKPOINT_DONE ? SLOT_DONE : kind == CHECKPOINT_FAILED ? SLOT_FAILED : NONE;
    if (kind < CHECKPOINT_GROUPS || cursor->bad)
        return cursor->bad ? UNFIT : FITS;
    kind -= CHECKPOINT_GROUPS;
    if (kind > *group_count)
        return UNFIT;
    if (kind == *group_count) {
        code = lane_take(r, cursor, &lane);
        if (code != FITS)
            return code;
        if (index_room(r->q) != Q_OK)
            return Q_MEMORY;
        groups[(*group_count)++] = group_new(r->q, message, lane, take_wide(cursor));
    }
    *slot = groups[kind];
    return cursor->bad ? UNFIT : FITS;
}

static int recipients_take(struct restoring *r, struct cursor *cursor, struct message *message)
{
    struct queue *q = r->q;
    uint32_t *groups, group_count = 0, slot;

    if (buffer_need(q, (size_t)message->count * sizeof *groups) != Q_OK)
        return Q_MEMORY;
    groups = (uint32_t *)(void *)q->buffer;
    for (uint32_t index = 0; index < message->count;) {
        int code = slot_take(r, cursor, message, groups, &group_count, &slot);
        uint64_t run = code == FITS ? take_number(cursor) : 0;
        if (code != FITS)
            return code;
        if (cursor->bad || run == 0 || run > message->count - index)
            return UNFIT;
        for (; run; run--, index++)
            if (slot != NONE)
                state_settle(q, message, index, slot);
    }
    for (uint32_t group = 0; group < group_count; group++)
        group_wait(q, groups[group], q->groups[groups[group]].due);
    return FITS;
}

/* One for each recipient that failed. */
static int notes_take(struct restoring *r, struct cursor *cursor, struct message *message)
{
    uint32_t failed = 0;

    for (uint32_t index = 0; index < message->count; index++)
        failed += message->slots[index] == SLOT_FAILED;
    for (; failed; failed--) {
        uint64_t index = take_number(cursor);
        uint32_t length = 0;
        const uint8_t *text = take_bytes(cursor, Q_NOTE_MAX, &length);
        if (!text || index >= message->count || message->slots[index] != SLOT_FAILED)
            return UNFIT;
        if (state_note(r->q, message, (uint32_t)index, text, length) != Q_OK)
            return Q_MEMORY;
    }
    return FITS;
}

static const struct segment *segment_of(const struct restoring *r, uint64_t generation)
{
    size_t low = 0, high = r->segment_count;

    while (low < high) {
        size_t middle = (low + high) / 2;
        if (r->segments[middle]->generation < generation)
            low = middle + 1;
        else
            high = middle;
    }
    return low < r->segment_count && r->segments[low]->generation == generation ? r->segments[low] : NULL;
}

/* Where the message lives: in the log before `from`; or wherever the log behind that says, if it stands there or
   its segment has gone. NULL: that cannot be. */
static struct segment *place_of(struct restoring *r, uint64_t generation, uint64_t offset, uint64_t length)
{
    const struct segment *segment;
    uint64_t limit;

    if (generation > r->from.generation || (generation == r->from.generation && offset >= r->from.offset))
        return &r->q->limbo;
    segment = generation < r->q->oldest ? NULL : segment_of(r, generation);
    if (!segment)
        return &r->q->limbo;
    limit = generation == r->from.generation ? r->from.offset : segment->limit;
    return offset < SEGMENT_START || offset > limit || length > limit - offset ? NULL : (struct segment *)segment;
}

static int message_take(struct restoring *r, struct cursor *cursor)
{
    struct message_view view = { 0 };
    uint64_t number = take_number(cursor), generation, offset, length, count;
    struct segment *segment;
    struct message *message;
    int code;

    view.large = take_number(cursor);
    generation = take_number(cursor);
    offset = take_number(cursor);
    length = take_number(cursor);
    count = take_number(cursor);
    if (cursor->bad || number == 0 || number >= r->next_number - r->last || count == 0 || count > Q_RECIPIENTS_MAX ||
        offset > Q_SEGMENT_MAX / 8 || length > Q_SEGMENT_MAX / 8 || length * 8 < MESSAGE_HEAD + 2 * count ||
        !(segment = place_of(r, generation, offset * 8, length * 8)))
        return UNFIT;
    view.count = (uint32_t)count;
    r->last += number;
    message = index_new(r->q, r->last, &view);
    if (!message)
        return Q_MEMORY;
    message_place(r->q, message, segment, (uint32_t)offset * 8, (uint32_t)length * 8);
    r->messages++;
    code = recipients_take(r, cursor, message);
    return code == FITS ? notes_take(r, cursor, message) : code;
}

/* ---- the file */

static int chunk_is_whole(const struct restoring *r, uint64_t at, uint64_t length, uint32_t kind)
{
    const uint8_t *head = r->bytes;

    return take32(head) == CHUNK_MAGIC && take64(head + 8) == r->stamp && take64(head + 16) == at &&
           take32(head + 24) == length && take32(head + 28) == kind &&
           crc32c(0, head + 8, (size_t)length - 8) == take32(head + 4);
}

/* The last chunk says that there are no more, and how many messages came. */
static int end_take(struct restoring *r, uint64_t *messages)
{
    uint64_t length = CHUNK_HEAD + CHUNK_LAST, at = r->size - length;
    int code = bytes_read(r, at, length);

    if (code != FITS)
        return code;
    *messages = take64(r->bytes + CHUNK_HEAD);
    return chunk_is_whole(r, at, length, CHUNK_END) ? FITS : UNFIT;
}

static int chunks_take(struct restoring *r, uint64_t end)
{
    uint64_t at = CHECKPOINT_HEAD, length;

    for (int code; at < end; at += length) {
        struct cursor cursor = { .bad = 0 };
        code = bytes_read(r, at, CHUNK_HEAD);
        length = code == FITS ? take32(r->bytes + 24) : 0;
        if (code == FITS && (length < CHUNK_HEAD || length > end - at))
            return UNFIT;
        if (code == FITS)
            code = bytes_read(r, at, length);
        if (code == FITS && !chunk_is_whole(r, at, length, CHUNK_MESSAGES))
            return UNFIT;
        cursor.at = r->bytes + CHUNK_HEAD;
        cursor.end = r->bytes + length;
        while (code == FITS && cursor.at < cursor.end)
            code = message_take(r, &cursor);
        if (code != FITS)
            return code;
    }
    return at == end ? FITS : UNFIT;
}

static int head_take(struct restoring *r)
{
    int code = bytes_read(r, 0, CHECKPOINT_HEAD);
    const uint8_t *head = r->bytes;
    const struct segment *segment;

    if (code != FITS)
        return code;
    if (memcmp(head, "qmaildcp", 8) != 0 || take32(head + 8) != CHECKPOINT_VERSION ||
        take32(head + 12) != crc32c(crc32c(0, head, 12), head + 16, CHECKPOINT_HEAD - 16))
        return UNFIT;
    r->stamp = take64(head + 16);
    r->from = (struct position){ take64(head + 24), take64(head + 32), take64(head + 40) };
    r->oldest = take64(head + 48);
    r->next_number = take64(head + 56);
    segment = segment_of(r, r->from.generation);
    return segment && segment->stamp == r->from.stamp && r->from.offset >= SEGMENT_START &&
           r->from.offset <= segment->limit && r->from.offset % 8 == 0 && r->oldest <= r->from.generation &&
           r->next_number >> 62 == 0 ? FITS : UNFIT;
}

static int file_take(struct restoring *r)
{
    struct queue *q = r->q;
    uint64_t messages = 0;
    int code = r->size < CHECKPOINT_HEAD + CHUNK_HEAD + CHUNK_LAST ? UNFIT : head_take(r);

    if (code == FITS)
        code = end_take(r, &messages);
    if (code != FITS)
        return code;
    if (r->oldest > q->oldest)
        q->oldest = r->oldest;
    code = chunks_take(r, r->size - CHUNK_HEAD - CHUNK_LAST);
    if (code == FITS && r->messages != messages)
        code = UNFIT;
    if (code == FITS && r->next_number > q->next_number)
        q->next_number = r->next_number;
    return code;
}

/* A segment that is not what it was may hold less than it should, or more. */
static int segments_note(struct restoring *r)
{
    size_t count = 0;

    for (const struct segment *segment = r->q->log; segment; segment = segment->next, count++)
        if (segment->bad || !segment->intact)
            return UNFIT;
    r->segments = calloc(count + 1, sizeof *r->segments);
    if (!r->segments)
        return Q_MEMORY;
    for (const struct segment *segment = r->q->log; segment; segment = segment->next)
        r->segments[r->segment_count++] = segment;
    return FITS;
}

int restore_begin(struct queue *q, struct position *from)
{
    struct restoring r = { .q = q, .fd = -1 };
    char path[PATH_ROOM];
    int code;

    checkpoint_path(q, ".new", path);
    q->system.unlink(q->system.context, path); /* of a process that died over it */
    checkpoint_path(q, "", path);
    r.fd = q->system.open(q->system.context, path, O_RDONLY | O_CLOEXEC, 0);
    if (r.fd < 0)
        return UNFIT;
    code = q->system.size(q->system.context, r.fd, &r.size) < 0 ? UNFIT : segments_note(&r);
    q->checkpoint.size = r.size;
    q->checkpoint.before = (struct before){ q->oldest, q->next_number, q->damaged, q->torn };
    if (code == FITS)
        code = file_take(&r);
    if (code == FITS)
        *from = r.from;
    else if (code == UNFIT)
        code = restore_undo(q);
    q->system.close(q->system.context, r.fd);
    free(r.segments);
    free(r.lanes.at);
    free(r.bytes);
    return code == Q_MEMORY ? fail_with(q, Q_MEMORY, "no memory for the checkpoint") : code;
}

/* The log behind the checkpoint has been replayed. 0 if something is missing that the whole log may still tell. */
int restore_holds(struct queue *q)
{
    if (q->damaged != q->checkpoint.before.damaged || (q->missing && q->missing >= q->oldest))
        return 0;
    for (const struct message *message = q->limbo.first; message; message = message->after)
        if (!state_is_over(message))
            return 0;
    while (q->limbo.first)
        index_drop(q, q->limbo.first);
    return 1;
}

/* No trace of it is left. */
int restore_undo(struct queue *q)
{
    const struct before *before = &q->checkpoint.before;

    index_stop(q);
    q->limbo.first = q->limbo.last = NULL;
    for (struct segment *segment = q->log; segment; segment = segment->next) {
        segment->first = segment->last = NULL;
        segment->used = 0;
    }
    q->oldest = before->oldest;
    q->next_number = before->next_number;
    q->damaged = before->damaged;
    q->torn = before->torn;
    q->checkpoint.refused++;
    return index_start(q) == Q_OK ? UNFIT : Q_MEMORY;
}
