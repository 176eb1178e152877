/* The preparer's work: segments made ahead of need; large files and checkpoints as their files say. */
#include "queue_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>

#define ZEROS (256u << 10)

void segment_path(const struct queue *q, uint32_t name, char path[PATH_ROOM])
{
    snprintf(path, PATH_ROOM, "%s/segments/%08x", q->directory, name);
}

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

int preparer_step(struct queue *q)
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
