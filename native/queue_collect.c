/* What the threads decided becomes true in the index: durable or failed (I1, I6). */
#include "queue_internal.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int numbers_add(struct numbers *numbers, uint64_t number)
{
    if (numbers->used == numbers->room) {
        size_t room = numbers->room ? numbers->room * 2 : 64;
        uint64_t *wider = realloc(numbers->at, room * sizeof *wider);
        if (!wider)
            return Q_MEMORY;
        numbers->at = wider;
        numbers->room = room;
    }
    numbers->at[numbers->used++] = number;
    return Q_OK;
}

static void forget(struct queue *q, struct message *message)
{
    if (message->large)
        large_unlink(q, message->number);
    index_drop(q, message);
}

/* I2: the other half of the new message's record. */
static void message_effects(struct queue *q, const struct message_view *view, int failed)
{
    struct message *about = view->ends ? index_find(q, view->ends) : NULL;

    if (about) {
        about->busy--;
        about->flags &= (uint8_t)~ENDING;
        if (!failed)
            forget(q, about);
    }
    about = view->serves ? index_find(q, view->serves) : NULL;
    if (view->serves)
        serving_forget(q, view->serves, view->serves_index);
    if (!about)
        return;
    about->busy--;
    if (failed || !state_is_undone(about, view->serves_index))
        return;
    state_settle(q, about, view->serves_index, SLOT_DONE);
    if (state_is_over(about))
        forget(q, about); /* I14: no END is needed */
    else
        state_finish(q, about);
}

static void message_decided(struct queue *q, const struct block *block, size_t at)
{
    const uint8_t *record = block->bytes + at;
    struct message *message = index_find(q, take64(record + 24));
    uint32_t offset = (uint32_t)(block->offset + at), length = take32(record + 32);
    struct message_view view;

    if (take16(record + 38) & MARK_COPY) {
        if (!message || !(message->flags & COPYING))
            return; /* ended meanwhile */
        message->flags &= (uint8_t)~COPYING;
        if (!block->failed) {
            message_unplace(q, message);
            message_place(q, message, block->segment, offset, length);
        }
        return;
    }
    if (!record_view(record, &view))
        return; /* it was checked when it was appended */
    if (message && block->failed) {
        forget(q, message);
    } else if (message) {
        q->unborn -= message->undone;
        message_place(q, message, block->segment, offset, length);
        group_wait(q, message->slots[0], DUE_NOW);
    }
    message_effects(q, &view, block->failed);
}

/* After: of a failed block only the facts are left, moved together. */
static void block_decided(struct queue *q, struct block *block)
{
    size_t kept = 0, length;

    for (size_t at = 0; at < block->used; at += length) {
        uint8_t *record = block->bytes + at;
        uint16_t type = take16(record + 36);
        length = take32(record + 32);
        if (type == MESSAGE) {
            message_decided(q, block, at);
        } else if (block->failed) {
            memmove(block->bytes + kept, record, length);
            kept += length;
        } else if (type == END && take16(record + 38) & MARK_LARGE) {
            large_unlink(q, take64(record + 24));
        } else if (type == OLDEST) {
            pthread_mutex_lock(&q->lock);
            if (take64(record + 24) > q->oldest_durable)
                q->oldest_durable = take64(record + 24);
            pthread_mutex_unlock(&q->lock);
        }
    }
    block->used = kept;
    if (block->ticket)
        q->decided = block->ticket;
    else if (!block->failed)
        q->again--;
    if (block->failed && block->ticket)
        numbers_add(&q->failed, block->ticket); /* room was made by results_take */
}

/* The facts of failed blocks are not lost: they go ahead of all that waits, and out with the next commit asked for.
   `again` is in order; nobody waits for these tickets any more. */
static void facts_again(struct queue *q, struct block *again)
{
    struct block **end = &again;

    pthread_mutex_lock(&q->lock);
    for (; *end; end = &(*end)->next)
        q->queued_bytes += (*end)->used;
    *end = q->queued;
    q->queued = again;
    q->broken = 0;
    pthread_cond_signal(&q->work);
    pthread_mutex_unlock(&q->lock);
}

/* The memory that taking in the results needs is found before any of them is taken in. */
static int results_take(struct queue *q, struct block **results, int *failed)
{
    size_t blocks = 0;
    int code = Q_OK;

    pthread_mutex_lock(&q->lock);
    *failed = q->broken;
    for (struct block *block = q->results; block && *failed; block = block->next)
        blocks++;
    q->failed.used = 0;
    while (code == Q_OK && q->failed.used < blocks)
        code = numbers_add(&q->failed, 0);
    q->failed.used = 0;
    if (code == Q_OK) {
        *results = q->results;
        q->results = NULL;
    }
    pthread_mutex_unlock(&q->lock);
    return code;
}

static void results_apply(struct queue *q, struct block *results, int failed)
{
    struct block *again = NULL, **end = &again;

    while (results) {
        struct block *block = results;
        struct segment *segment = block->segment;
        results = block->next;
        block->next = NULL;
        if (!block->failed) {
            q->taken = (struct position){ segment->generation, segment->stamp, block->offset + block->used };
            q->checkpoint.grown += block->used;
        }
        block_decided(q, block);
        block->segment = NULL;
        if (segment) {
            pthread_mutex_lock(&q->lock);
            segment->undecided--;
            pthread_mutex_unlock(&q->lock);
        }
        if (block->failed && block->used) {
            q->again += block->ticket != 0;
            block->failed = 0;
            block->ticket = 0;
            *end = block;
            end = &block->next;
        } else {
            block_give(q, block);
        }
    }
    if (failed)
        facts_again(q, again);
}

/* *failed: something was not made durable. Errors: Q_MEMORY (nothing was taken in). */
int collect_results(struct queue *q, int *failed)
{
    struct block *results = NULL;
    int code = results_take(q, &results, failed);

    if (code == Q_OK)
        results_apply(q, results, *failed);
    return code;
}

int queue_collect(struct queue *q, struct queue_collected *out)
{
    uint64_t count;
    int failed;
    ssize_t got = read(q->event_fd, &count, sizeof count);

    (void)got; /* EAGAIN: nothing new, which is no error */
    if (large_collect(q) != Q_OK || collect_results(q, &failed) != Q_OK)
        return fail_with(q, Q_MEMORY, "no memory");
    if (failed) { /* the caller decides when the disk is tried again */
        checkpoint_give_up(q);
    } else {
        copy_and_release(q);
        checkpoint_turn(q);
    }
    out->durable = q->decided;
    out->failed = q->failed.at;
    out->failed_count = q->failed.used;
    out->staged = q->staged_done.at;
    out->staged_count = q->staged_done.used;
    out->staged_failed = q->staged_failed.at;
    out->staged_failed_count = q->staged_failed.used;
    return Q_OK;
}
