/* Opening and closing: in which order the parts of a queue come to life and are let go; and how a failure is worded. */
#include "queue_internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

int code_of(int error)
{
    return error == -ENOSPC || error == -EDQUOT ? Q_SPACE : error == -ENOMEM ? Q_MEMORY : Q_IO;
}

int fail_with(struct queue *q, int code, const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(q->error, sizeof q->error, format, arguments);
    va_end(arguments);
    return code;
}

int buffer_need(struct queue *q, size_t length)
{
    uint8_t *wider;

    if (q->buffer_room >= length && q->buffer)
        return Q_OK;
    wider = realloc(q->buffer, length + 64);
    if (!wider)
        return Q_MEMORY;
    q->buffer = wider;
    q->buffer_room = length + 64;
    return Q_OK;
}

int io_failure(struct queue *q, int error, const char *path)
{
    return fail_with(q, code_of(error), "%s: %s", path, strerror(-error));
}

/* ---- open and close */

static void drop_segments(struct queue *q, struct segment *segment)
{
    while (segment) {
        struct segment *next = segment->next;
        segment_discard(q, segment, 0);
        segment = next;
    }
}

static void drop_blocks(struct block *block)
{
    while (block) {
        struct block *next = block->next;
        free(block->bytes);
        free(block);
        block = next;
    }
}

static void let_go(struct queue *q)
{
    int *const descriptors[] = { &q->large_fd, &q->segments_fd, &q->directory_fd, &q->lock_fd };

    large_stop(q);
    if (q->checkpoint.fd >= 0)
        q->system.close(q->system.context, q->checkpoint.fd);
    free(q->checkpoint.bytes);
    drop_segments(q, q->log);
    drop_segments(q, q->released);
    drop_segments(q, q->spare);
    drop_segments(q, q->aside);
    drop_blocks(q->filling);
    drop_blocks(q->queued);
    drop_blocks(q->results);
    drop_blocks(q->spare_blocks);
    index_stop(q);
    for (size_t at = 0; at < 4; at++)
        if (*descriptors[at] >= 0)
            q->system.close(q->system.context, *descriptors[at]);
    if (q->event_fd >= 0)
        close(q->event_fd);
    free(q->buffer);
    free(q->record);
    free(q->parts);
    free(q->servings);
    free(q->failed.at);
    free(q->staged_done.at);
    free(q->staged_failed.at);
    pthread_cond_destroy(&q->prepare);
    pthread_cond_destroy(&q->decided_some);
    pthread_cond_destroy(&q->work);
    pthread_mutex_destroy(&q->lock);
    free(q);
}

static int check_options(struct queue *q, const char *directory)
{
    uint64_t size = q->options.segment_bytes;

    if (size < Q_SEGMENT_MIN || size > Q_SEGMENT_MAX || size % 4096)
        return fail_with(q, Q_LIMIT, "segments of %llu bytes: expected a multiple of 4096 from %u to %u",
                         (unsigned long long)size, Q_SEGMENT_MIN, Q_SEGMENT_MAX);
    if (strlen(directory) >= sizeof q->directory)
        return fail_with(q, Q_LIMIT, "the queue's path is longer than %zu bytes", sizeof q->directory - 1);
    strcpy(q->directory, directory);
    return Q_OK;
}

static int open_all(struct queue *q, const char *directory)
{
    int code = check_options(q, directory);

    q->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (code == Q_OK && q->event_fd < 0)
        code = io_failure(q, -errno, "eventfd");
    if (code == Q_OK && index_start(q) != Q_OK)
        code = fail_with(q, Q_MEMORY, "no memory");
    if (code == Q_OK)
        code = directory_open(q);
    if (code == Q_OK)
        code = segments_load(q);
    if (code == Q_OK)
        code = replay_all(q);
    if (code == Q_OK)
        code = replay_settle(q);
    if (code == Q_OK)
        segments_settle(q);
    if (code == Q_OK && threads_start(q) != Q_OK)
        code = fail_with(q, Q_MEMORY, "no threads");
    return code;
}

int queue_open(struct queue **out, const char *directory, const struct queue_options *options,
               const struct queue_system *system, char *text, size_t text_room)
{
    struct queue *q = calloc(1, sizeof *q);
    int code;

    *out = NULL;
    if (!q) {
        snprintf(text, text_room, "no memory");
        return Q_MEMORY;
    }
    q->system = system ? *system : queue_linux;
    q->options = *options;
    q->next_number = 1;
    q->lock_fd = q->directory_fd = q->segments_fd = q->large_fd = q->event_fd = q->checkpoint.fd = -1;
    pthread_mutex_init(&q->lock, NULL);
    pthread_cond_init(&q->work, NULL);
    pthread_cond_init(&q->decided_some, NULL);
    pthread_cond_init(&q->prepare, NULL);
    code = open_all(q, directory);
    if (code != Q_OK) {
        snprintf(text, text_room, "%s", q->error);
        let_go(q);
        return code;
    }
    pthread_mutex_lock(&q->lock);
    want_spare(q, 0);
    pthread_mutex_unlock(&q->lock);
    *out = q;
    return Q_OK;
}

void queue_close(struct queue *q)
{
    queue_commit(q);
    threads_stop(q);
    checkpoint_last(q);
    let_go(q);
}

int queue_eventfd(struct queue *q)
{
    return q->event_fd;
}

const char *queue_error(struct queue *q)
{
    return q->error;
}

void queue_counts(struct queue *q, struct queue_counts *out)
{
    pthread_mutex_lock(&q->lock);
    *out = (struct queue_counts){
        .messages = q->message_count, .fresh = q->fresh, .waiting = q->waiting, .out = q->out - q->unborn,
        .living = q->living + q->large_living,
        .disk = q->segment_count * q->options.segment_bytes + q->large_living, .segments = q->segment_count,
        .damaged = q->damaged, .torn = q->torn,
        .pending = q->queued_bytes + (q->filling ? q->filling->used : 0), .index_bytes = q->index_bytes,
        .checkpoint = q->checkpoint.size, .checkpoints_made = q->checkpoint.made,
        .checkpoints_refused = q->checkpoint.refused, .replayed = q->checkpoint.replayed,
    };
    pthread_mutex_unlock(&q->lock);
}
