/* The bytes of a checkpoint: from the index to chunks, a slice at a time (I17). queue_chunk_take.c reads them. */
#include "crc32c.h"
#include "queue_chunk.h"

#include <stdlib.h>
#include <string.h>

#define SLICE 2048u          /* messages in a slice: about a millisecond of the owner's time */
#define CHUNK_FULL (256u << 10)

/* ---- bytes */

static int bytes_need(struct checkpoint *making, size_t more)
{
    size_t room = making->room ? making->room : CHUNK_FULL + (64u << 10);
    uint8_t *wider;

    if (making->room - making->used >= more)
        return Q_OK;
    while (room - making->used < more)
        room *= 2;
    wider = realloc(making->bytes, room);
    if (!wider)
        return Q_MEMORY;
    making->bytes = wider;
    making->room = room;
    return Q_OK;
}

/* Seven bits a byte, the lowest first; all but the last byte have the top bit. Room was made. */
static void put_number(struct checkpoint *making, uint64_t value)
{
    for (; value > 0x7f; value >>= 7)
        making->bytes[making->used++] = (uint8_t)(value | 0x80);
    making->bytes[making->used++] = (uint8_t)value;
}

static void put_wide(struct checkpoint *making, int64_t value)
{
    put64(making->bytes + making->used, (uint64_t)value);
    making->used += 8;
}

static void put_bytes(struct checkpoint *making, const void *bytes, uint32_t length)
{
    put_number(making, length);
    if (length)
        memcpy(making->bytes + making->used, bytes, length);
    making->used += length;
}

int chunk_head_put(struct queue *q)
{
    struct checkpoint *making = &q->checkpoint;
    uint8_t *head;

    if (bytes_need(making, CHECKPOINT_HEAD) != Q_OK)
        return Q_MEMORY;
    head = making->bytes;
    memset(head, 0, CHECKPOINT_HEAD);
    memcpy(head, "qmaildcp", 8);
    put32(head + 8, CHECKPOINT_VERSION);
    put64(head + 16, making->stamp);
    put64(head + 24, q->taken.generation);
    put64(head + 32, q->taken.stamp);
    put64(head + 40, q->taken.offset);
    pthread_mutex_lock(&q->lock);
    put64(head + 48, q->oldest_durable);
    put64(head + 56, making->end = q->next_number);
    pthread_mutex_unlock(&q->lock);
    put32(head + 12, crc32c(crc32c(0, head, 12), head + 16, CHECKPOINT_HEAD - 16));
    making->used = CHECKPOINT_HEAD;
    return Q_OK;
}

/* The chunk that begins at `at` ends here. */
static void chunk_seal(struct checkpoint *making, size_t at, uint32_t kind)
{
    uint8_t *head = making->bytes + at;
    uint32_t length = (uint32_t)(making->used - at);

    put32(head, CHUNK_MAGIC);
    put64(head + 8, making->stamp);
    put64(head + 16, making->length + at);
    put32(head + 24, length);
    put32(head + 28, kind);
    put32(head + 4, crc32c(0, head + 8, length - 8));
}

/* ---- messages */

static void lane_put(struct queue *q, uint32_t name)
{
    struct checkpoint *making = &q->checkpoint;
    struct lane *lane = &q->lanes[name];

    if (lane->turn == making->turn) {
        put_number(making, lane->written);
        return;
    }
    lane->turn = making->turn;
    lane->written = making->lanes++;
    put_number(making, lane->written);
    put_bytes(making, lane->name, lane->length);
}

/* Groups of one message are numbered as they are met: *number is this one's; the answer is 1 if it is met for the
   first time. `table` has `room` pairs (a power of two, more than there are groups), all zero at first. */
static int group_met(uint32_t *table, uint32_t room, uint32_t slot, uint32_t *met, uint32_t *number)
{
    uint32_t at = slot * 2654435769u & (room - 1);

    while (table[2 * at] && table[2 * at] != slot + 1)
        at = (at + 1) & (room - 1);
    if (table[2 * at]) {
        *number = table[2 * at + 1];
        return 0;
    }
    table[2 * at] = slot + 1;
    table[2 * at + 1] = *number = (*met)++;
    return 1;
}

static uint32_t run_of(const struct message *message, uint32_t from)
{
    uint32_t to = from + 1;

    while (to < message->count && message->slots[to] == message->slots[from])
        to++;
    return to - from;
}

/* Runs of recipients with the same state. A recipient that was never planned has no more to it than that. */
static int recipients_put(struct queue *q, const struct message *message)
{
    struct checkpoint *making = &q->checkpoint;
    uint32_t room = 2, met = 0, number, run, *table;

    while (room <= message->count)
        room *= 2;
    if (buffer_need(q, (size_t)room * 2 * sizeof *table) != Q_OK)
        return Q_MEMORY;
    table = (uint32_t *)(void *)q->buffer;
    memset(table, 0, (size_t)room * 2 * sizeof *table);
    for (uint32_t index = 0; index < message->count; index += run) {
        uint32_t slot = message->slots[index];
        run = run_of(message, index);
        if (bytes_need(making, 64 + Q_LANE_MAX) != Q_OK)
            return Q_MEMORY;
        if (slot == SLOT_DONE || slot == SLOT_FAILED) {
            put_number(making, slot == SLOT_DONE ? CHECKPOINT_DONE : CHECKPOINT_FAILED);
        } else if (slot >= SLOT_FAILED || q->groups[slot].lane == NONE) {
            put_number(making, CHECKPOINT_FRESH);
        } else if (group_met(table, room, slot, &met, &number)) {
            put_number(making, CHECKPOINT_GROUPS + (uint64_t)number);
            lane_put(q, q->groups[slot].lane);
            put_wide(making, q->groups[slot].due);
        } else {
            put_number(making, CHECKPOINT_GROUPS + (uint64_t)number);
        }
        put_number(making, run);
    }
    return Q_OK;
}

/* The oldest first, as they came. */
static int notes_put(struct queue *q, const struct message *message)
{
    struct checkpoint *making = &q->checkpoint;
    const struct note **notes;
    size_t count = 0;

    for (const struct note *note = message->notes; note; note = note->next)
        count++;
    if (buffer_need(q, count * sizeof *notes) != Q_OK)
        return Q_MEMORY;
    notes = (const struct note **)(void *)q->buffer;
    count = 0;
    for (const struct note *note = message->notes; note; note = note->next)
        notes[count++] = note;
    while (count--) {
        if (bytes_need(making, 32 + (size_t)notes[count]->length) != Q_OK)
            return Q_MEMORY;
        put_number(making, notes[count]->index);
        put_bytes(making, notes[count]->text, notes[count]->length);
    }
    return Q_OK;
}

static int message_put(struct queue *q, const struct message *message)
{
    struct checkpoint *making = &q->checkpoint;

    if (bytes_need(making, 128) != Q_OK)
        return Q_MEMORY;
    put_number(making, message->number - making->after);
    making->after = message->number;
    put_number(making, message->large);
    put_number(making, message->segment->generation);
    put_number(making, message->offset / 8);
    put_number(making, message->length / 8);
    put_number(making, message->count);
    making->messages++;
    return recipients_put(q, message) == Q_OK ? notes_put(q, message) : Q_MEMORY;
}

/* Messages in the order of their numbers, until that is enough for one turn. 1: these were the last. 0: there are more.
   Or Q_MEMORY. */
static int messages_put(struct queue *q)
{
    struct checkpoint *making = &q->checkpoint;
    struct place place = index_after(q, making->after);
    const struct message *message;
    uint32_t most = q->options.checkpoint_slice ? q->options.checkpoint_slice : SLICE;

    for (; most && making->used < CHUNK_FULL; most--) {
        message = index_step(q, &place);
        if (!message || message->number >= making->end)
            return 1;
        if (message->segment && message_put(q, message) != Q_OK)
            return Q_MEMORY;
    }
    return 0;
}

int chunk_messages_put(struct queue *q)
{
    struct checkpoint *making = &q->checkpoint;
    size_t at = making->used;
    int done = bytes_need(making, CHUNK_HEAD);

    if (done == Q_OK) {
        making->used += CHUNK_HEAD;
        done = messages_put(q);
    }
    if (done < 0 || bytes_need(making, CHUNK_HEAD + CHUNK_LAST) != Q_OK)
        return Q_MEMORY;
    chunk_seal(making, at, CHUNK_MESSAGES);
    return done;
}

void chunk_end_put(struct checkpoint *making)
{
    size_t at = making->used;

    making->used += CHUNK_HEAD;
    put_wide(making, (int64_t)making->messages);
    put_wide(making, (int64_t)making->lanes);
    chunk_seal(making, at, CHUNK_END);
}
