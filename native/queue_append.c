/* Appending facts: to memory at once, to a block that waits for its commit (I2, I15). */
#include "queue_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* ---- messages */

/* A quarter of a segment is kept for marks and copies: they must not be lost because the disk is full. */
static int is_room_for(struct queue *q, uint64_t length)
{
    int error = 0;

    pthread_mutex_lock(&q->lock);
    if (q->no_room && free_room(q) < length + capacity(q) / 4) {
        error = q->no_room;
        want_spare(q, 1);
    }
    pthread_mutex_unlock(&q->lock);
    return error ? fail_with(q, code_of(error), "%s: no room for a new segment: %s", q->directory, strerror(-error))
                 : Q_OK;
}

static int is_being_served(const struct queue *q, uint64_t number, uint32_t index)
{
    for (size_t at = 0; at < q->serving_count; at++)
        if (q->servings[at].number == number && q->servings[at].index == index)
            return 1;
    return 0;
}

void serving_forget(struct queue *q, uint64_t number, uint32_t index)
{
    for (size_t at = 0; at < q->serving_count; at++)
        if (q->servings[at].number == number && q->servings[at].index == index) {
            q->servings[at] = q->servings[--q->serving_count];
            return;
        }
}

static int serving_room(struct queue *q)
{
    size_t room = q->serving_room ? q->serving_room * 2 : 64;
    struct serving *wider;

    if (q->serving_count < q->serving_room)
        return Q_OK;
    wider = realloc(q->servings, room * sizeof *wider);
    if (!wider)
        return Q_MEMORY;
    q->servings = wider;
    q->serving_room = room;
    return Q_OK;
}

static int add_is_allowed(struct queue *q, const struct queue_message *in, uint64_t length)
{
    struct message *about;

    if (in->recipients == 0 || in->recipients > Q_RECIPIENTS_MAX || length == UINT64_MAX ||
        length + UINT64_C(64) * in->recipients > capacity(q) / 4 * 3)
        return fail_with(q, Q_LIMIT, "%u recipients in %llu bytes do not fit a record", in->recipients,
                         (unsigned long long)length);
    if (in->ends) {
        about = index_find(q, in->ends);
        if (!about || !about->segment)
            return fail_with(q, Q_UNKNOWN, "message %llu, to be ended, is not known", (unsigned long long)in->ends);
        if (about->flags & ENDING)
            return fail_with(q, Q_STATE, "message %llu is being ended already", (unsigned long long)in->ends);
    }
    if (in->serves) {
        about = index_find(q, in->serves);
        if (!about || !about->segment || in->serves_index >= about->count)
            return fail_with(q, Q_UNKNOWN, "recipient %u of message %llu is not known", in->serves_index,
                             (unsigned long long)in->serves);
        if (!state_is_undone(about, in->serves_index) || is_being_served(q, in->serves, in->serves_index))
            return fail_with(q, Q_STATE, "recipient %u of message %llu is served already", in->serves_index,
                             (unsigned long long)in->serves);
    }
    if (index_room(q) != Q_OK || serving_room(q) != Q_OK)
        return fail_with(q, Q_MEMORY, "no memory");
    return is_room_for(q, length);
}

/* What the new message is about waits for the same commit. */
static void add_binds(struct queue *q, const struct queue_message *in)
{
    struct message *about;

    if (in->ends) {
        about = index_find(q, in->ends);
        about->flags |= ENDING;
        about->busy++;
    }
    if (in->serves) {
        index_find(q, in->serves)->busy++;
        q->servings[q->serving_count++] = (struct serving){ in->serves, in->serves_index };
    }
}

static uint64_t number_new(struct queue *q)
{
    pthread_mutex_lock(&q->lock);
    uint64_t number = q->next_number++;
    pthread_mutex_unlock(&q->lock);
    return number;
}

int queue_add(struct queue *q, const struct queue_message *in, uint64_t *number)
{
    uint64_t length = message_record_length(in);
    struct staged *staged = in->staged ? stage_find(q, in->staged) : NULL;
    struct message_view view;
    struct message *message;
    uint8_t *record;
    int code = add_is_allowed(q, in, length);

    if (code != Q_OK)
        return code;
    if (in->staged && (!staged || staged->state != SYNCED || !staged->size))
        return fail_with(q, staged ? Q_STATE : Q_UNKNOWN, "staged file %llu is not there and synced, with something in it",
                         (unsigned long long)in->staged);
    *number = staged ? staged->number : number_new(q);
    record = append_record(q, MESSAGE, 0, *number, length);
    if (!record)
        return fail_with(q, Q_MEMORY, "no memory for a record");
    message_record_fill(record, in);
    put64(record + 96, staged ? staged->size : 0);
    message = NULL;
    if (!record_view(record, &view) || !(message = index_new(q, *number, &view))) {
        q->filling->used -= length;
        return fail_with(q, message ? Q_MEMORY : Q_LIMIT, "the recipients are not %u addresses", in->recipients);
    }
    state_start(q, message);
    q->unborn += message->count;
    add_binds(q, in);
    if (staged)
        stage_forget(q, staged);
    return Q_OK;
}

/* ---- facts about messages */

static struct message *find_living(struct queue *q, uint64_t number)
{
    struct message *message = index_find(q, number);

    if (message && message->segment)
        return message;
    fail_with(q, Q_UNKNOWN, "message %llu is not known", (unsigned long long)number);
    return NULL;
}

/* The undone ones among `indexes` go to the buffer; the answer is how many, or an error. */
static int64_t undone_of(struct queue *q, const struct message *message, const uint32_t *indexes, uint32_t count)
{
    uint32_t undone = 0, *to;

    for (uint32_t at = 0; at < count; at++)
        if (indexes[at] >= message->count)
            return fail_with(q, Q_UNKNOWN, "message %llu has no recipient %u", (unsigned long long)message->number,
                             indexes[at]);
    if (buffer_need(q, (size_t)count * sizeof *to) != Q_OK)
        return fail_with(q, Q_MEMORY, "no memory");
    to = (uint32_t *)(void *)q->buffer;
    for (uint32_t at = 0; at < count; at++)
        if (state_is_undone(message, indexes[at]))
            to[undone++] = indexes[at];
    return undone;
}

static int end_message(struct queue *q, struct message *message)
{
    if (!append_record(q, END, message->large ? MARK_LARGE : 0, message->number, RECORD_HEAD))
        return fail_with(q, Q_MEMORY, "no memory for a record");
    index_drop(q, message);
    return Q_OK;
}

int queue_end(struct queue *q, uint64_t number)
{
    struct message *message = find_living(q, number);

    return message ? end_message(q, message) : Q_UNKNOWN;
}

static int settle_done(struct queue *q, struct message *message, const uint32_t *indexes, uint32_t count)
{
    uint32_t length = runs_length(indexes, count);
    uint8_t *record = append_record(q, DONE, 0, message->number, RECORD_HEAD + length);

    if (!record)
        return fail_with(q, Q_MEMORY, "no memory for a record");
    runs_fill(record + RECORD_HEAD, indexes, count);
    for (uint32_t at = 0; at < count; at++)
        if (state_is_undone(message, indexes[at])) /* one index may be named twice */
            state_settle(q, message, indexes[at], SLOT_DONE);
    state_finish(q, message);
    return Q_OK;
}

int queue_done(struct queue *q, uint64_t number, const uint32_t *indexes, uint32_t count)
{
    struct message *message = find_living(q, number);
    int64_t undone = message ? undone_of(q, message, indexes, count) : Q_UNKNOWN;
    const uint32_t *kept;
    int code;

    if (undone == 0 && state_is_over(message))
        return end_message(q, message); /* there was no memory to say so before */
    if (undone <= 0)
        return (int)undone;
    kept = (uint32_t *)(void *)q->buffer;
    if ((uint32_t)undone == message->undone && !message->notes && runs_length(kept, (uint32_t)undone) == 8)
        return end_message(q, message); /* the last ones, each named once: one record says both */
    code = settle_done(q, message, kept, (uint32_t)undone);
    if (code == Q_OK && state_is_over(message))
        code = end_message(q, message);
    return code;
}

int queue_fail(struct queue *q, uint64_t number, uint32_t index, const void *note, size_t length)
{
    struct message *message = find_living(q, number);
    uint32_t kept = length > Q_NOTE_MAX ? Q_NOTE_MAX : (uint32_t)length;
    uint8_t *record;

    if (!message)
        return Q_UNKNOWN;
    if (index >= message->count)
        return fail_with(q, Q_UNKNOWN, "message %llu has no recipient %u", (unsigned long long)number, index);
    if (!state_is_undone(message, index))
        return Q_OK;
    record = append_record(q, FAIL, 0, number, (RECORD_HEAD + 8 + kept + 7) & ~7u);
    if (!record)
        return fail_with(q, Q_MEMORY, "no memory for a record");
    if (state_note(q, message, index, note, kept) != Q_OK) {
        q->filling->used -= take32(record + 32);
        return fail_with(q, Q_MEMORY, "no memory for a note");
    }
    put32(record + RECORD_HEAD, index);
    put32(record + RECORD_HEAD + 4, kept);
    if (kept)
        memcpy(record + RECORD_HEAD + 8, note, kept);
    state_settle(q, message, index, SLOT_FAILED);
    state_finish(q, message);
    return Q_OK;
}

int queue_defer(struct queue *q, uint64_t number, const void *lane, size_t lane_length, int64_t due,
                const uint32_t *indexes, uint32_t count)
{
    struct message *message = find_living(q, number);
    int64_t undone = message ? undone_of(q, message, indexes, count) : Q_UNKNOWN;
    const uint32_t *kept = (uint32_t *)(void *)q->buffer;
    uint32_t name, group, length;
    uint8_t *record;

    if (undone <= 0)
        return (int)undone;
    if (lane_length > Q_LANE_MAX)
        return fail_with(q, Q_LIMIT, "a lane's name of %zu bytes", lane_length);
    if (index_room(q) != Q_OK || lane_intern(q, lane, lane_length, &name) != Q_OK)
        return fail_with(q, Q_MEMORY, "no memory");
    group = group_new(q, message, name, due);
    length = RECORD_HEAD + 12 + (uint32_t)lane_length + runs_length(kept, (uint32_t)undone);
    record = append_record(q, DEFER, 0, number, (length + 7) & ~7u);
    if (!record) {
        group_free(q, group);
        return fail_with(q, Q_MEMORY, "no memory for a record");
    }
    put64(record + RECORD_HEAD, (uint64_t)due);
    put32(record + RECORD_HEAD + 8, (uint32_t)lane_length);
    memcpy(record + RECORD_HEAD + 12, lane, lane_length);
    runs_fill(record + RECORD_HEAD + 12 + lane_length, kept, (uint32_t)undone);
    for (uint32_t at = 0; at < undone; at++)
        if (message->slots[kept[at]] != group)
            state_settle(q, message, kept[at], group);
    group_wait(q, group, due);
    return Q_OK;
}
