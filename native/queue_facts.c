/* What a record does to the index when it is replayed. Nothing it says is believed before it is checked (I12). */
#include "queue_internal.h"

#include <stdlib.h>

/* ---- facts */

static int settle_runs(struct queue *q, struct message *message, const uint8_t *runs, uint64_t length, uint32_t slot)
{
    uint32_t settled = 0;

    for (; length >= 8; runs += 8, length -= 8) {
        uint32_t first = take32(runs), count = take32(runs + 4);
        if (first >= message->count || count > message->count - first)
            return -1;
        for (uint32_t index = first; index < first + count; index++)
            if (state_is_undone(message, index) && message->slots[index] != slot) {
                state_settle(q, message, index, slot);
                settled++;
            }
    }
    return settled != 0;
}

static int replay_fail(struct queue *q, struct message *message, const uint8_t *body, uint64_t length)
{
    uint32_t index, note;

    if (length < 8)
        return Q_DAMAGED;
    index = take32(body);
    note = take32(body + 4);
    if (index >= message->count || note > length - 8 || note > Q_NOTE_MAX)
        return Q_DAMAGED;
    if (!state_is_undone(message, index))
        return Q_OK;
    if (state_note(q, message, index, body + 8, note) != Q_OK)
        return Q_MEMORY;
    state_settle(q, message, index, SLOT_FAILED);
    return Q_OK;
}

static int replay_defer(struct queue *q, struct message *message, const uint8_t *body, uint64_t length)
{
    uint32_t name_length, lane, group;
    int settled;

    if (length < 12)
        return Q_DAMAGED;
    name_length = take32(body + 8);
    if (name_length > Q_LANE_MAX || name_length > length - 12)
        return Q_DAMAGED;
    if (index_room(q) != Q_OK || lane_intern(q, body + 12, name_length, &lane) != Q_OK)
        return Q_MEMORY;
    group = group_new(q, message, lane, (int64_t)take64(body));
    settled = settle_runs(q, message, body + 12 + name_length, length - 12 - name_length, group);
    if (q->groups[group].count == 0)
        group_free(q, group);
    else
        group_wait(q, group, (int64_t)take64(body));
    return settled < 0 ? Q_DAMAGED : Q_OK;
}

static void replay_oldest(struct queue *q, uint64_t oldest)
{
    for (struct segment *segment = q->log; segment && segment->generation < oldest; segment = segment->next)
        while (segment->first)
            index_drop(q, segment->first);
    if (oldest > q->oldest && oldest <= q->generation)
        q->oldest = oldest;
}

/* ---- messages */

static int replay_message(struct queue *q, struct segment *segment, const uint8_t *record, uint64_t offset)
{
    uint64_t number = take64(record + 24);
    struct message *message = index_find(q, number);
    struct message_view view;

    if (number == 0 || number >> 62 || !record_view(record, &view) ||
        (message && (message->count != view.count || message->large != view.large)))
        return Q_DAMAGED; /* I8: a copy is the same again */
    if (number >= q->next_number)
        q->next_number = number + 1;
    if (message)
        message_unplace(q, message); /* I8 */
    else if (!(message = index_new(q, number, &view)))
        return Q_MEMORY;
    message_place(q, message, segment, (uint32_t)offset, take32(record + 32));
    message = view.ends && view.ends != number ? index_find(q, view.ends) : NULL;
    if (message)
        index_drop(q, message);
    message = view.serves && view.serves != number ? index_find(q, view.serves) : NULL;
    if (message && view.serves_index < message->count && state_is_undone(message, view.serves_index))
        state_settle(q, message, view.serves_index, SLOT_DONE);
    return Q_OK;
}

int replay_record(struct queue *q, struct segment *segment, const uint8_t *record, uint64_t offset)
{
    uint16_t type = take16(record + 36);
    const uint8_t *body = record + RECORD_HEAD;
    uint64_t length = take32(record + 32) - RECORD_HEAD;
    struct message *message;

    if (type == MESSAGE)
        return replay_message(q, segment, record, offset);
    if (type == OLDEST) {
        replay_oldest(q, take64(record + 24));
        return Q_OK;
    }
    if (type < MESSAGE || type > OLDEST)
        return Q_DAMAGED;
    message = index_find(q, take64(record + 24));
    if (!message)
        return Q_OK; /* I3: it has ended */
    if (type == DONE)
        return settle_runs(q, message, body, length, SLOT_DONE) < 0 ? Q_DAMAGED : Q_OK;
    if (type == FAIL)
        return replay_fail(q, message, body, length);
    if (type == DEFER)
        return replay_defer(q, message, body, length);
    index_drop(q, message);
    return Q_OK;
}
