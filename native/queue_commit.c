/* The two threads: the committer writes and syncs blocks; the preparer makes segments, syncs large files, writes checkpoints. */
#include "queue_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define ZEROS (256u << 10)

void segment_path(const struct queue *q, uint32_t name, char path[PATH_ROOM])
{
    snprintf(path, PATH_ROOM, "%s/segments/%08x", q->directory, name);
}

/* Under the lock. */
void notify(struct queue *q)
{
    uint64_t one = 1;
    ssize_t written = write(q->event_fd, &one, sizeof one);

    (void)written; /* it fails only when the counter is full, and then it is readable anyway */
    pthread_cond_broadcast(&q->decided_some);
}

/* ---- spares */

/* Ask for a spare when the active segment is a quarter full: early enough to be there, late enough for the segment
   before it to have died and serve as one. Under the lock. */
void want_spare(struct queue *q, int now)
{
    struct segment *active = q->active;

    if (q->spare || q->preparing)
        return;
    if (!now && active && !active->closed && active->used - SEGMENT_START < (active->size - SEGMENT_START) / 4)
        return;
    q->preparing = 1;
    pthread_cond_signal(&q->prepare);
}

/* Written through, so that a later sync commits data and no metadata. */
static int fill_with_zeros(struct queue *q, int fd, uint64_t size)
{
    uint8_t *zeros = calloc(1, ZEROS);
    int error = zeros ? q->system.reserve(q->system.context, fd, size) : -ENOMEM;

    if (error == -EOPNOTSUPP)
        error = 0;
    for (uint64_t at = 0; error >= 0 && at < size; at += ZEROS) {
        uint64_t length = size - at < ZEROS ? size - at : ZEROS;
        int64_t written = q->system.write(q->system.context, fd, zeros, length, at);
        error = written < 0 ? (int)written : 0;
    }
    free(zeros);
    return error;
}

static int segment_make(struct queue *q, uint32_t name, struct segment **out)
{
    char path[PATH_ROOM];
    struct segment *segment = calloc(1, sizeof *segment);
    int error;

    if (!segment)
        return -ENOMEM;
    segment_path(q, name, path);
    segment->name = name;
    segment->size = q->options.segment_bytes;
    segment->fd = error = q->system.open(q->system.context, path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (error >= 0)
        error = fill_with_zeros(q, segment->fd, segment->size);
    if (error >= 0)
        error = q->system.sync(q->system.context, segment->fd);
    if (error >= 0)
        error = q->system.sync(q->system.context, q->segments_fd);
    if (error >= 0) {
        *out = segment;
        return 0;
    }
    if (segment->fd >= 0) {
        q->system.close(q->system.context, segment->fd);
        q->system.unlink(q->system.context, path);
    }
    free(segment);
    return error;
}

static int preparer_step(struct queue *q)
{
    struct segment *made = NULL;
    uint32_t name;
    int error;

    if (q->sync_jobs) {
        large_sync_step(q);
        notify(q);
        return 1;
    }
    if (!q->preparing && q->checkpoint.job) { /* last: nobody waits for it */
        checkpoint_work(q);
        notify(q);
        return 1;
    }
    if (!q->preparing)
        return 0;
    name = q->next_name++;
    pthread_mutex_unlock(&q->lock);
    error = segment_make(q, name, &made);
    pthread_mutex_lock(&q->lock);
    q->preparing = 0;
    q->no_room = error < 0 ? error : 0;
    if (made) {
        q->segment_count++;
        made->next = q->spare; /* a released segment may have become the spare meanwhile: keep both */
        q->spare = made;
    }
    pthread_cond_signal(&q->work);
    notify(q);
    return 1;
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
