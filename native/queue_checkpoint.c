/* Making a checkpoint: when one is begun, dropped and named, and its file, which grows while the work goes on (I17). */
#include "queue_chunk.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>

#define INTERVAL (UINT64_C(256) << 20) /* reading so much log takes a fraction of a second */
#define CLOSE_PART 64u                 /* an orderly stop makes one if this part of an interval has grown */
#define SYNC_EACH (4u << 20) /* so that the last sync finds little to do, and the log's syncs do not wait behind it */
#define SMALL (256u << 10)   /* one this small may stay whatever lives */

void checkpoint_path(const struct queue *q, const char *suffix, char path[PATH_ROOM])
{
    snprintf(path, PATH_ROOM, "%s/checkpoint%s", q->directory, suffix);
}

/* At most a quarter of what is written is checkpoints. (The one there is may be of another queue.) */
uint64_t checkpoint_interval(const struct queue *q)
{
    uint64_t size = q->checkpoint.size < q->living ? q->checkpoint.size : q->living;

    if (q->options.checkpoint_bytes)
        return q->options.checkpoint_bytes;
    return size * 4 > INTERVAL ? size * 4 : INTERVAL;
}

/* ---- the preparer's part */

static int file_begin(struct queue *q)
{
    struct checkpoint *making = &q->checkpoint;
    char path[PATH_ROOM];

    checkpoint_path(q, ".new", path);
    q->system.unlink(q->system.context, path); /* of a process that died over it */
    making->written = making->synced = 0;
    making->fd = q->system.open(q->system.context, path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    return making->fd;
}

static int chunk_write(struct queue *q)
{
    struct checkpoint *making = &q->checkpoint;
    int64_t done = making->fd < 0 ? file_begin(q) : 0;

    if (done >= 0)
        done = q->system.write(q->system.context, making->fd, making->bytes, making->used, making->written);
    if (done < 0)
        return (int)done;
    making->written += making->used;
    if (making->written - making->synced < SYNC_EACH)
        return 0;
    making->synced = making->written;
    return q->system.sync_data(q->system.context, making->fd);
}

static void file_end(struct queue *q)
{
    if (q->checkpoint.fd >= 0)
        q->system.close(q->system.context, q->checkpoint.fd);
    q->checkpoint.fd = -1;
}

static int file_name(struct queue *q)
{
    char fresh[PATH_ROOM], path[PATH_ROOM];
    int error = q->system.sync(q->system.context, q->checkpoint.fd);

    file_end(q);
    checkpoint_path(q, ".new", fresh);
    checkpoint_path(q, "", path);
    if (error >= 0)
        error = q->system.rename(q->system.context, fresh, path);
    if (error >= 0)
        error = q->system.sync(q->system.context, q->directory_fd);
    return error;
}

/* Failing is no failure: the next open, or the next checkpoint, removes or replaces it. */
static int file_remove(struct queue *q, const char *suffix)
{
    char path[PATH_ROOM];

    file_end(q);
    checkpoint_path(q, suffix, path);
    q->system.unlink(q->system.context, path);
    return 0;
}

void checkpoint_work(struct queue *q)
{
    int job = q->checkpoint.job, error;

    pthread_mutex_unlock(&q->lock);
    error = job == JOB_WRITE ? chunk_write(q) : job == JOB_NAME ? file_name(q)
            : file_remove(q, job == JOB_DROP ? ".new" : "");
    pthread_mutex_lock(&q->lock);
    q->checkpoint.error = error < 0 ? error : 0;
    q->checkpoint.job = NO_JOB;
}

static void hand_over(struct queue *q, int job)
{
    pthread_mutex_lock(&q->lock);
    q->checkpoint.job = job;
    pthread_cond_signal(&q->prepare);
    pthread_mutex_unlock(&q->lock);
}

/* ---- the owner's part */

static void making_free(struct checkpoint *making)
{
    free(making->bytes);
    making->bytes = NULL;
    making->used = making->room = 0;
    making->phase = CHECKPOINT_NONE;
    making->unfit = 0;
}

/* It gets no name; the next one is tried an interval later. */
static void making_drop(struct queue *q)
{
    struct checkpoint *making = &q->checkpoint;

    making_free(making);
    making->next_at = making->grown + checkpoint_interval(q);
    hand_over(q, JOB_DROP);
}

/* The last chunk. What is appended by now must become durable before the checkpoint counts. */
static void end_make(struct queue *q)
{
    struct checkpoint *making = &q->checkpoint;

    chunk_end_put(making);
    making->phase = CHECKPOINT_SETTLING;
    making->ticket = q->last_ticket + (q->filling && q->filling->used ? 1 : 0);
}

static void slice_make(struct queue *q)
{
    struct checkpoint *making = &q->checkpoint;
    int done = chunk_messages_put(q);

    if (done < 0) {
        making_drop(q);
        return;
    }
    if (done)
        end_make(q);
    making->length += making->used;
    hand_over(q, JOB_WRITE);
}

/* Everything before q->taken is durable and in the index, and nothing that a failure threw back is on its way. */
static void making_begin(struct queue *q)
{
    struct checkpoint *making = &q->checkpoint;

    making->turn++;
    making->lanes = 0;
    making->after = making->messages = making->length = 0;
    making->grown_before = making->grown;
    making->next_at = making->grown + checkpoint_interval(q);
    if (q->system.random(q->system.context, &making->stamp, sizeof making->stamp) < 0 ||
        chunk_head_put(q) != Q_OK)
        return;
    making->phase = CHECKPOINT_FILLING;
    slice_make(q);
}

/* What a crash left behind is of no use to a queue that has become small. */
static int is_stale(const struct queue *q)
{
    return q->checkpoint.size > SMALL && q->checkpoint.size > (q->living + q->large_living) / 2;
}

static void making_named(struct queue *q, int error)
{
    struct checkpoint *making = &q->checkpoint;

    if (error < 0) {
        making_drop(q);
        return;
    }
    making->size = making->length;
    making->grown -= making->grown_before;
    making->next_at = checkpoint_interval(q);
    making->made++;
    making_free(making);
}

/* One step, unless the preparer is still at the last. Before: no failure is being dealt with. */
void checkpoint_turn(struct queue *q)
{
    struct checkpoint *making = &q->checkpoint;
    int is_busy, error, no_room;

    pthread_mutex_lock(&q->lock);
    is_busy = making->job != NO_JOB;
    error = making->error;
    no_room = q->no_room;
    if (!is_busy)
        making->error = 0;
    pthread_mutex_unlock(&q->lock);
    if (is_busy)
        return;
    if (making->phase == CHECKPOINT_NAMING) {
        making_named(q, error);
    } else if (making->phase == CHECKPOINT_NONE) {
        if (making->grown >= making->next_at && !q->again && !no_room && q->taken.generation) {
            making_begin(q);
        } else if (is_stale(q)) {
            making->size = 0;
            hand_over(q, JOB_REMOVE);
        }
    } else if (error || no_room || making->unfit) {
        making_drop(q);
    } else {
        making->used = 0;
        if (making->phase == CHECKPOINT_FILLING) {
            slice_make(q);
        } else if (q->decided >= making->ticket) {
            making->phase = CHECKPOINT_NAMING;
            hand_over(q, JOB_NAME);
        }
    }
}

/* Something that may be written down in it was not made durable. One that is being named holds nothing of that. */
void checkpoint_give_up(struct queue *q)
{
    if (q->checkpoint.phase != CHECKPOINT_NONE && q->checkpoint.phase != CHECKPOINT_NAMING)
        q->checkpoint.unfit = 1;
}

static void work_off(struct queue *q)
{
    pthread_mutex_lock(&q->lock);
    while (q->checkpoint.job)
        checkpoint_work(q);
    pthread_mutex_unlock(&q->lock);
}

/* At close, when the threads have gone: the next open shall have little to read. */
void checkpoint_last(struct queue *q)
{
    struct checkpoint *making = &q->checkpoint;
    int failed = 0, code = collect_results(q, &failed);

    work_off(q);
    if (making->phase == CHECKPOINT_NAMING)
        checkpoint_turn(q);
    else if (making->phase != CHECKPOINT_NONE)
        making_drop(q);
    work_off(q);
    if (code != Q_OK || failed || q->again || q->no_room || q->decided != q->last_ticket || q->filling)
        return;
    if (q->message_count == 0 && making->size) {
        hand_over(q, JOB_REMOVE);
        work_off(q);
    } else if (q->message_count && q->taken.generation && making->grown > checkpoint_interval(q) / CLOSE_PART) {
        making_begin(q);
        for (work_off(q); making->phase != CHECKPOINT_NONE; work_off(q))
            checkpoint_turn(q);
    }
}
