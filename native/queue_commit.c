/* The committer, which writes and syncs blocks (I1, I5, I6), and the two threads. */
#include "queue_internal.h"

#include <stdlib.h>
#include <unistd.h>

/* Under the lock. */
void notify(struct queue *q)
{
    uint64_t one = 1;
    ssize_t written = write(q->event_fd, &one, sizeof one);

    (void)written; /* it fails only when the counter is full, and then it is readable anyway */
    pthread_cond_broadcast(&q->decided_some);
}

/* ---- the committer */

/* I5: the header is durable before the first record. The segment before takes no record from here on, for a header
   that failed may be on disk all the same. */
static int write_heads(struct queue *q, struct segment *segment)
{
    uint8_t head[SEGMENT_HEAD];
    int64_t done;

    done = q->system.random(q->system.context, &segment->stamp, sizeof segment->stamp);
    segment_head_fill(head, segment);
    if (done >= 0)
        done = q->system.write(q->system.context, segment->fd, head, sizeof head, 0);
    if (done >= 0)
        done = q->system.write(q->system.context, segment->fd, head, sizeof head, segment->size - SEGMENT_TAIL);
    if (done >= 0)
        done = q->system.sync_data(q->system.context, segment->fd);
    return done < 0 ? (int)done : 0;
}

static int activate_spare(struct queue *q)
{
    struct segment *segment = q->spare, **end;
    int error;

    q->spare = segment->next;
    if (q->active)
        q->active->closed = 1;
    segment->next = NULL;
    segment->generation = ++q->generation;
    segment->previous = q->active ? q->active->generation : 0;
    segment->previous_end = q->active ? q->active->used : 0;
    segment->oldest = q->log ? q->oldest : segment->generation;
    segment->next_number = q->next_number;
    segment->used = SEGMENT_START;
    segment->limit = segment->size - SEGMENT_TAIL;
    segment->bad = segment->closed = 0;
    segment->intact = 1;
    pthread_mutex_unlock(&q->lock);
    error = write_heads(q, segment);
    pthread_mutex_lock(&q->lock);
    if (error < 0) {
        char path[PATH_ROOM];
        segment_path(q, segment->name, path);
        q->system.close(q->system.context, segment->fd);
        q->system.unlink(q->system.context, path);
        q->segment_count--;
        free(segment);
        return error;
    }
    if (!q->log)
        q->oldest = segment->generation;
    if (segment->oldest > q->oldest_durable)
        q->oldest_durable = segment->oldest;
    for (end = &q->log; *end; end = &(*end)->next)
        ;
    *end = q->active = segment;
    return 0;
}

/* I18: the first record of a batch says that all before it is durable. (A fact that comes again may have said so where it
   stood before.) */
static int write_block(struct queue *q, struct segment *segment, struct block *block, int is_first)
{
    for (size_t at = 0; at < block->used; at += take32(block->bytes + at + 32)) {
        unsigned marks = take16(block->bytes + at + 38) & ~(unsigned)MARK_SURE;
        put16(block->bytes + at + 38, (uint16_t)(is_first && at == 0 ? marks | MARK_SURE : marks));
        record_seal(block->bytes + at, segment->generation, segment->stamp);
    }
    int64_t done = q->system.write(q->system.context, segment->fd, block->bytes, block->used, block->offset);
    return done < 0 ? (int)done : 0;
}

/* As many blocks as fit go to the segment in one sync (I1). The answer is that list, written or not. */
static struct block *take_blocks(struct queue *q)
{
    struct block *first = q->queued, **end = &q->queued;
    uint64_t at = q->active->used, limit = q->active->size - SEGMENT_TAIL;

    while (*end && (*end)->used <= limit - at) {
        (*end)->segment = q->active;
        (*end)->offset = at;
        at += (*end)->used;
        q->active->undecided++;
        end = &(*end)->next;
    }
    q->queued = *end;
    *end = NULL;
    q->asked = q->queued != NULL;
    return first;
}

static void give_results(struct queue *q, struct block *first, int failed)
{
    struct block **end = &q->results;

    while (*end)
        end = &(*end)->next;
    *end = first;
    for (; first; first = first->next) {
        first->failed = failed;
        q->queued_bytes -= first->used;
    }
    q->broken |= failed;
    notify(q);
}

static void write_and_sync(struct queue *q)
{
    struct segment *segment = q->active;
    struct block *first = take_blocks(q);
    int error = 0;

    q->writing = 1;
    pthread_mutex_unlock(&q->lock);
    for (struct block *block = first; block && error >= 0; block = block->next)
        error = write_block(q, segment, block, block == first);
    if (error >= 0)
        error = q->system.sync_data(q->system.context, segment->fd);
    pthread_mutex_lock(&q->lock);
    q->writing = 0;
    if (error < 0) /* I6 */
        segment->bad = segment->closed = 1;
    else
        for (struct block *block = first; block; block = block->next)
            segment->used += block->used;
    give_results(q, first, error < 0);
}

static void fail_queued(struct queue *q)
{
    struct block *first = q->queued;

    q->queued = NULL;
    q->asked = q->waited = 0;
    give_results(q, first, 1);
}

/* One round, under the lock: 1 if something was done, 0 if there is nothing to do but wait. */
static int committer_step(struct queue *q)
{
    struct segment *active = q->active;

    if (q->broken || !q->asked || !q->queued)
        return 0;
    if (!active || active->closed || active->size - SEGMENT_TAIL - active->used < q->queued->used) {
        if (!q->spare) {
            if (q->preparing)
                return 0;
            if (q->waited) {
                fail_queued(q); /* asked for, and it cannot be made */
                return 1;
            }
            q->waited = 1;
            want_spare(q, 1);
            return 1;
        }
        q->waited = 0;
        if (activate_spare(q) < 0) {
            fail_queued(q);
            return 1;
        }
    }
    write_and_sync(q);
    return 1;
}

static void *committer_run(void *argument)
{
    struct queue *q = argument;

    pthread_mutex_lock(&q->lock);
    while (!q->stopping)
        if (!committer_step(q))
            pthread_cond_wait(&q->work, &q->lock);
    pthread_mutex_unlock(&q->lock);
    return NULL;
}

static void *preparer_run(void *argument)
{
    struct queue *q = argument;

    pthread_mutex_lock(&q->lock);
    while (!q->stopping)
        if (!preparer_step(q))
            pthread_cond_wait(&q->prepare, &q->lock);
    pthread_mutex_unlock(&q->lock);
    return NULL;
}

void queue_step(struct queue *q)
{
    pthread_mutex_lock(&q->lock);
    while (committer_step(q) || preparer_step(q))
        ;
    pthread_mutex_unlock(&q->lock);
}

int threads_start(struct queue *q)
{
    if (!q->options.threads)
        return Q_OK;
    if (pthread_create(&q->committer, NULL, committer_run, q) != 0)
        return Q_MEMORY;
    if (pthread_create(&q->preparer, NULL, preparer_run, q) == 0)
        return Q_OK;
    pthread_mutex_lock(&q->lock);
    q->stopping = 1;
    pthread_cond_broadcast(&q->work);
    pthread_mutex_unlock(&q->lock);
    pthread_join(q->committer, NULL);
    return Q_MEMORY;
}

/* What is queued is written first, unless it fails. */
void threads_stop(struct queue *q)
{
    if (!q->options.threads) {
        queue_step(q);
        return;
    }
    pthread_mutex_lock(&q->lock);
    while (q->writing || (q->queued && q->asked && !q->broken))
        pthread_cond_wait(&q->decided_some, &q->lock);
    q->stopping = 1;
    pthread_cond_broadcast(&q->work);
    pthread_cond_broadcast(&q->prepare);
    pthread_mutex_unlock(&q->lock);
    pthread_join(q->committer, NULL);
    pthread_join(q->preparer, NULL);
}
