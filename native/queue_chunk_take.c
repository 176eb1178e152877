/* The messages of a checkpoint: from chunks to the index, without trust (I12, I17). queue_chunk_put.c writes them. */
#include "queue_chunk.h"

#include <stdlib.h>

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

const struct segment *segment_of(const struct restoring *r, uint64_t generation)
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

int chunk_messages_take(struct restoring *r, const uint8_t *at, const uint8_t *end)
{
    struct cursor cursor = { .at = at, .end = end };
    int code = FITS;

    while (code == FITS && cursor.at < cursor.end)
        code = message_take(r, &cursor);
    return code;
}
