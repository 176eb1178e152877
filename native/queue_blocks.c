/* Blocks: records that wait in memory for the commit that carries them. */
#include "queue_internal.h"

#include <stdlib.h>
#include <string.h>

#define BLOCKS_KEPT 4

uint64_t capacity(const struct queue *q)
{
    return q->options.segment_bytes - SEGMENT_START - SEGMENT_TAIL;
}

struct block *block_take(struct queue *q, size_t room)
{
    struct block *block = q->spare_blocks;
    uint8_t *bytes;

    if (block)
        q->spare_blocks = block->next;
    else if (!(block = calloc(1, sizeof *block)))
        return NULL;
    block->next = NULL;
    if (block->room < room) {
        bytes = realloc(block->bytes, room);
        if (!bytes) {
            block_give(q, block);
            return NULL;
        }
        block->bytes = bytes;
        block->room = room;
    }
    block->used = 0;
    block->failed = 0;
    block->segment = NULL;
    return block;
}

/* A few are kept for the next turn: a commit a tick must not mean an allocation a tick, nor a burst its memory for ever. */
void block_give(struct queue *q, struct block *block)
{
    int kept = 0;

    for (const struct block *at = q->spare_blocks; at; at = at->next)
        kept++;
    if (block->room > BLOCK_FULL || kept == BLOCKS_KEPT) {
        free(block->bytes);
        free(block);
        return;
    }
    block->next = q->spare_blocks;
    q->spare_blocks = block;
}

/* The filling block joins the queue. Not under the lock. */
void append_push(struct queue *q)
{
    struct block *block = q->filling, **end;

    if (!block || !block->used)
        return;
    q->filling = NULL;
    block->ticket = ++q->last_ticket;
    pthread_mutex_lock(&q->lock);
    for (end = &q->queued; *end; end = &(*end)->next)
        ;
    *end = block;
    q->queued_bytes += block->used;
    q->asked = 1;
    pthread_cond_signal(&q->work);
    pthread_mutex_unlock(&q->lock);
}

static int filling_fits(struct queue *q, uint64_t length)
{
    uint64_t limit = capacity(q) < BLOCK_FULL ? capacity(q) : BLOCK_FULL;

    return !q->filling || !q->filling->used || q->whole || q->filling->used + length <= limit;
}

/* After: a zeroed record of `length` bytes (a multiple of 8) with its head filled stands in the filling block, at
   the answer; NULL if memory ran out. */
uint8_t *append_record(struct queue *q, uint16_t type, uint16_t marks, uint64_t number, uint64_t length)
{
    uint8_t *record;
    size_t room;

    if (!filling_fits(q, length))
        append_push(q);
    if (!q->filling && !(q->filling = block_take(q, 16384)))
        return NULL;
    room = q->filling->room ? q->filling->room : 16384;
    while (room < q->filling->used + length)
        room *= 2;
    if (room > q->filling->room) {
        uint8_t *bytes = realloc(q->filling->bytes, room);
        if (!bytes)
            return NULL;
        q->filling->bytes = bytes;
        q->filling->room = room;
    }
    record = q->filling->bytes + q->filling->used;
    memset(record, 0, type == MESSAGE ? MESSAGE_HEAD : length);
    memset(record + length - 8, 0, 8);
    put32(record, RECORD_MAGIC);
    put64(record + 24, number);
    put32(record + 32, (uint32_t)length);
    put16(record + 36, type);
    put16(record + 38, marks);
    q->filling->used += length;
    return record;
}

uint64_t queue_commit(struct queue *q)
{
    append_push(q);
    pthread_mutex_lock(&q->lock);
    if (q->queued) {
        q->asked = 1;
        pthread_cond_signal(&q->work);
    }
    want_spare(q, 0);
    if (q->last_ticket && q->last_ticket <= q->decided)
        notify(q); /* a full block went by itself and is decided: whoever waits for this ticket must hear of it */
    pthread_mutex_unlock(&q->lock);
    return q->last_ticket;
}

uint64_t free_room(struct queue *q)
{
    uint64_t room = 0, taken = q->queued_bytes + (q->filling ? q->filling->used : 0);

    if (q->active && !q->active->closed)
        room += q->active->size - SEGMENT_TAIL - q->active->used;
    if (q->spare)
        room += capacity(q);
    return room > taken ? room - taken : 0;
}
