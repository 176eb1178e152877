/* Reclaiming: what lives in the oldest segment is copied forward, what is void becomes a spare or goes (I3, I6..I9, I16). */
#include "queue_internal.h"

#include <stdlib.h>
#include <string.h>

/* ---- copying */

static uint8_t *fact_record(struct queue *q, struct message *message, uint16_t type, uint64_t body)
{
    return append_record(q, type, 0, message->number, record_bytes(body));
}

/* Which recipients have this slot; they go to the buffer. */
static uint32_t recipients_at(struct queue *q, const struct message *message, uint32_t slot, uint32_t from)
{
    uint32_t *to = (uint32_t *)(void *)q->buffer, found = 0;

    for (uint32_t index = from; index < message->count; index++)
        if (message->slots[index] == slot)
            to[found++] = index;
    return found;
}

/* The length of the facts that restate the message's recipients, less deferrals; notes in full. */
static uint64_t facts_length(struct queue *q, const struct message *message)
{
    uint64_t length = RECORD_HEAD + runs_length((uint32_t *)(void *)q->buffer, recipients_at(q, message, SLOT_DONE, 0));

    for (const struct note *note = message->notes; note; note = note->next)
        length += record_bytes(8 + (uint64_t)note->length);
    return length;
}

static int copy_done_and_failed(struct queue *q, struct message *message)
{
    uint32_t done = recipients_at(q, message, SLOT_DONE, 0);
    uint32_t *indexes = (uint32_t *)(void *)q->buffer;
    uint8_t *record;

    if (done) {
        if (!(record = fact_record(q, message, DONE, runs_length(indexes, done))))
            return Q_MEMORY;
        runs_fill(record + RECORD_HEAD, indexes, done);
    }
    for (const struct note *note = message->notes; note; note = note->next) {
        if (!(record = fact_record(q, message, FAIL, 8 + (uint64_t)note->length)))
            return Q_MEMORY;
        put32(record + RECORD_HEAD, note->index);
        put32(record + RECORD_HEAD + 4, note->length);
        memcpy(record + RECORD_HEAD + 8, note->text, note->length);
    }
    return Q_OK;
}

/* Deferrals are for the schedule only: those that do not fit beside the record any more are left out, and their
   recipients are new again after a restart. */
static int copy_deferrals(struct queue *q, struct message *message, uint64_t limit)
{
    for (uint32_t index = 0; index < message->count; index++) {
        uint32_t slot = message->slots[index], count, length;
        struct group *group = slot < SLOT_FAILED ? &q->groups[slot] : NULL;
        if (!group || group->lane == NONE || group->count == 0 || group->copied)
            continue;
        count = recipients_at(q, message, slot, index);
        length = 12 + q->lanes[group->lane].length + runs_length((uint32_t *)(void *)q->buffer, count);
        group->copied = count > 1;
        if (q->filling->used + RECORD_HEAD + length + 8 > limit)
            continue;
        uint8_t *record = fact_record(q, message, DEFER, length);
        if (!record)
            return Q_MEMORY;
        put64(record + RECORD_HEAD, (uint64_t)group->due);
        put32(record + RECORD_HEAD + 8, q->lanes[group->lane].length);
        memcpy(record + RECORD_HEAD + 12, q->lanes[group->lane].name, q->lanes[group->lane].length);
        runs_fill(record + RECORD_HEAD + 12 + q->lanes[group->lane].length, (uint32_t *)(void *)q->buffer, count);
    }
    for (uint32_t index = 0; index < message->count; index++)
        if (message->slots[index] < SLOT_FAILED)
            q->groups[message->slots[index]].copied = 0;
    return Q_OK;
}

/* The record and its facts go into one block, so that the message moves only when all of it is durable (I8).
   Before: the record was read into `record`. After, on failure: the filling block is as it was. */
static int copy_append(struct queue *q, struct message *message, const uint8_t *record)
{
    uint64_t most = capacity(q) < BLOCK_FULL ? capacity(q) : BLOCK_FULL;
    uint64_t length = message->length + facts_length(q, message);
    uint8_t *to;
    size_t before;
    int code;

    if (q->filling && q->filling->used + length > most)
        append_push(q);
    before = q->filling ? q->filling->used : 0;
    q->whole = 1;
    to = append_record(q, MESSAGE, MARK_COPY, message->number, message->length);
    code = to ? Q_OK : Q_MEMORY;
    if (to) {
        memcpy(to + RECORD_HEAD, record + RECORD_HEAD, message->length - RECORD_HEAD);
        code = copy_done_and_failed(q, message);
        if (code == Q_OK)
            code = copy_deferrals(q, message, q->filling->used > most ? capacity(q) : most);
    }
    q->whole = 0;
    if (code != Q_OK && q->filling)
        q->filling->used = before;
    return code;
}

/* Bytes appended, 0 if it must wait, or an error. A message whose record has gone bad is lost, and counted. */
static int64_t copy_message(struct queue *q, struct message *message)
{
    struct message_view view;
    uint64_t room;
    int code;

    if (message->busy || message->flags & COPYING)
        return 0;
    if (buffer_need(q, (size_t)message->count * sizeof(uint32_t)) != Q_OK)
        return Q_MEMORY;
    pthread_mutex_lock(&q->lock);
    room = q->no_room ? free_room(q) : UINT64_MAX;
    pthread_mutex_unlock(&q->lock);
    if (room < message->length + facts_length(q, message))
        return 0;
    code = message_read(q, message, &view);
    if (code == Q_DAMAGED) {
        index_drop(q, message);
        return 0;
    }
    if (code != Q_OK)
        return code;
    code = copy_append(q, message, q->record);
    if (code != Q_OK)
        return code;
    message->flags |= COPYING;
    return message->length;
}

static void copy_from(struct queue *q, struct segment *segment)
{
    uint64_t copied = 0;
    struct message *next;

    for (struct message *message = segment->first; message && copied < COPY_SLICE; message = next) {
        int64_t length;
        next = message->after;
        length = copy_message(q, message);
        if (length == Q_IO)
            q->copy_stuck = 1; /* the disk cannot read it now; another open tries again */
        if (length < 0)
            break;
        copied += (uint64_t)length;
    }
    if (copied)
        queue_commit(q);
}

/* What the log and one spare take of the disk. The released segments but that spare go without any copying: counted in,
   they would have the store copy the same messages round and round, each round releasing the next one. Under the lock. */
static uint64_t disk_kept(const struct queue *q)
{
    uint64_t going = 0;

    for (const struct segment *segment = q->released; segment; segment = segment->next)
        going++;
    if (going && !q->spare)
        going--;
    return (q->segment_count - going) * q->options.segment_bytes;
}

/* Which segment to copy from, if any: one that failed, or the oldest when the bound of I16 is passed and there is
   time, or the bound is passed by far. */
static struct segment *copy_source(struct queue *q)
{
    struct segment *found = NULL;
    uint64_t size = q->options.segment_bytes, disk, idle;

    pthread_mutex_lock(&q->lock);
    for (struct segment *segment = q->log; segment && !found; segment = segment->next)
        if (segment->bad && segment->first && segment != q->active)
            found = segment;
    disk = disk_kept(q);
    idle = !q->queued && !q->writing && !(q->filling && q->filling->used);
    if (q->active && q->active->used > size / 2)
        idle = 1;
    if (!found && q->log && q->log != q->active && !q->log->undecided && disk > 2 * q->living + 2 * size &&
        (idle || disk > 2 * q->living + 4 * size))
        found = q->log;
    pthread_mutex_unlock(&q->lock);
    return found;
}

/* ---- releasing */

/* I3: oldest first, when nothing lives there and nothing written there waits for the owner. */
static void release_oldest(struct queue *q)
{
    struct segment *head, **end = &q->released;

    while (*end)
        end = &(*end)->next;
    pthread_mutex_lock(&q->lock);
    while ((head = q->log) && head != q->active && !head->first && !head->undecided) {
        q->log = head->next;
        q->oldest = q->log->generation; /* the active segment is in the log, behind */
        head->next = NULL;
        *end = head;
        end = &head->next;
    }
    pthread_mutex_unlock(&q->lock);
}

/* I7: now they may be written over, or go. Bad ones always go. */
static void reuse_released(struct queue *q)
{
    pthread_mutex_lock(&q->lock);
    while (q->released && q->released->generation < q->oldest_durable) {
        struct segment *segment = q->released;
        q->released = segment->next;
        if (!segment->bad && !q->spare && segment->size == q->options.segment_bytes) {
            segment->next = NULL;
            q->spare = segment;
            q->no_room = 0;
            pthread_cond_signal(&q->work);
            continue;
        }
        char path[PATH_ROOM];
        segment_path(q, segment->name, path);
        pthread_mutex_unlock(&q->lock);
        q->system.close(q->system.context, segment->fd);
        q->system.unlink(q->system.context, path);
        free(segment);
        pthread_mutex_lock(&q->lock);
        q->segment_count--;
    }
    pthread_mutex_unlock(&q->lock);
}

void copy_and_release(struct queue *q)
{
    struct segment *source;

    release_oldest(q);
    reuse_released(q);
    if (q->released && q->oldest > q->oldest_said &&
        append_record(q, OLDEST, 0, q->oldest, RECORD_HEAD)) {
        q->oldest_said = q->oldest;
        queue_commit(q);
    }
    source = q->copy_stuck ? NULL : copy_source(q);
    if (source)
        copy_from(q, source);
}
