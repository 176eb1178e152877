/* Large messages: files of their own, written as a stream, synced by the preparer (I11). */
#include "queue_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void large_path(const struct queue *q, uint64_t number, char path[PATH_ROOM])
{
    snprintf(path, PATH_ROOM, "%s/large/%016llx", q->directory, (unsigned long long)number);
}

/* Failing is no failure: the next open removes what no record names. */
void large_unlink(struct queue *q, uint64_t number)
{
    char path[PATH_ROOM];

    large_path(q, number, path);
    q->system.unlink(q->system.context, path);
}

struct staged *stage_find(struct queue *q, uint64_t number)
{
    struct staged *staged = q->stages;

    while (staged && (staged->number != number || staged->aborted))
        staged = staged->next;
    if (!staged)
        fail_with(q, Q_UNKNOWN, "staged file %llu is not known", (unsigned long long)number);
    return staged;
}

/* The file stays, its descriptor goes. */
void stage_forget(struct queue *q, struct staged *staged)
{
    struct staged **link = &q->stages;

    while (*link != staged)
        link = &(*link)->next;
    *link = staged->next;
    q->system.close(q->system.context, staged->fd);
    free(staged);
}

int queue_stage(struct queue *q, uint64_t *number)
{
    struct staged *staged = calloc(1, sizeof *staged);
    char path[PATH_ROOM];

    if (!staged)
        return fail_with(q, Q_MEMORY, "no memory");
    pthread_mutex_lock(&q->lock);
    staged->number = q->next_number++;
    pthread_mutex_unlock(&q->lock);
    large_path(q, staged->number, path);
    staged->fd = q->system.open(q->system.context, path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (staged->fd < 0) {
        int error = -staged->fd;
        free(staged);
        return fail_with(q, code_of(-error), "%s: %s", path, strerror(error));
    }
    staged->next = q->stages;
    q->stages = staged;
    *number = staged->number;
    return Q_OK;
}

int queue_stage_write(struct queue *q, uint64_t number, const void *bytes, size_t length)
{
    struct staged *staged = stage_find(q, number);
    int64_t written;

    if (!staged)
        return Q_UNKNOWN;
    if (staged->state != WRITING)
        return fail_with(q, Q_STATE, "staged file %llu takes no more bytes", (unsigned long long)number);
    written = q->system.write(q->system.context, staged->fd, bytes, length, staged->size);
    if (written < 0) {
        staged->state = STAGE_FAILED;
        return fail_with(q, code_of((int)written), "large/%016llx: %s", (unsigned long long)number,
                         strerror((int)-written));
    }
    staged->size += length;
    return Q_OK;
}

int queue_stage_sync(struct queue *q, uint64_t number)
{
    struct staged *staged = stage_find(q, number), **end;

    if (!staged)
        return Q_UNKNOWN;
    if (staged->state != WRITING)
        return fail_with(q, Q_STATE, "staged file %llu was to be synced before, or failed", (unsigned long long)number);
    pthread_mutex_lock(&q->lock);
    staged->state = SYNCING;
    staged->next_job = NULL;
    for (end = &q->sync_jobs; *end; end = &(*end)->next_job)
        ;
    *end = staged;
    pthread_cond_signal(&q->prepare);
    pthread_mutex_unlock(&q->lock);
    return Q_OK;
}

/* On the preparer, under the lock but for the syncs. All files that wait are synced together: their writing overlaps, one
   commit of the file system covers several, and one sync of the directory has all their names. */
void large_sync_step(struct queue *q)
{
    struct staged *first = q->sync_jobs, **end = &first;
    int error;

    q->sync_jobs = NULL;
    pthread_mutex_unlock(&q->lock);
    for (struct staged *staged = first; staged && q->system.push; staged = staged->next_job)
        q->system.push(q->system.context, staged->fd);
    for (struct staged *staged = first; staged; staged = staged->next_job) {
        error = q->system.sync(q->system.context, staged->fd);
        staged->error = error < 0 ? error : 0;
    }
    error = q->system.sync(q->system.context, q->large_fd);
    pthread_mutex_lock(&q->lock);
    for (; *end; end = &(*end)->next_job)
        if (error < 0 && !(*end)->error)
            (*end)->error = error;
    *end = q->sync_results;
    q->sync_results = first;
}

int large_collect(struct queue *q)
{
    size_t results = 0;
    struct staged *staged, *next;

    pthread_mutex_lock(&q->lock);
    for (staged = q->sync_results; staged; staged = staged->next_job)
        results++;
    staged = q->sync_results;
    q->sync_results = NULL;
    pthread_mutex_unlock(&q->lock);
    q->staged_done.used = q->staged_failed.used = 0;
    for (; staged; staged = next) {
        next = staged->next_job;
        staged->state = staged->error ? STAGE_FAILED : SYNCED;
        if (staged->aborted)
            stage_forget(q, staged);
        else if (numbers_add(staged->error ? &q->staged_failed : &q->staged_done, staged->number) != Q_OK)
            return Q_MEMORY;
    }
    return Q_OK;
}

int queue_stage_open(struct queue *q, uint64_t number)
{
    char path[PATH_ROOM];
    int fd;

    if (!stage_find(q, number))
        return Q_UNKNOWN;
    large_path(q, number, path);
    fd = q->system.open(q->system.context, path, O_RDONLY | O_CLOEXEC, 0);
    return fd >= 0 ? fd : fail_with(q, Q_IO, "%s: %s", path, strerror(-fd));
}

int queue_stage_abort(struct queue *q, uint64_t number)
{
    struct staged *staged = stage_find(q, number);

    if (!staged)
        return Q_UNKNOWN;
    large_unlink(q, number);
    if (staged->state == SYNCING)
        staged->aborted = 1; /* the preparer has it: large_collect lets it go */
    else
        stage_forget(q, staged);
    return Q_OK;
}

/* At close, when the preparer has gone: what nobody named goes. */
void large_stop(struct queue *q)
{
    while (q->stages) {
        large_unlink(q, q->stages->number);
        stage_forget(q, q->stages);
    }
}

/* ---- at open */

static int number_of(const char *name, uint64_t *number)
{
    int digits = 0;

    for (*number = 0; name[digits]; digits++) {
        int digit = name[digits] >= '0' && name[digits] <= '9' ? name[digits] - '0'
                    : name[digits] >= 'a' && name[digits] <= 'f' ? name[digits] - 'a' + 10 : -1;
        if (digit < 0 || digits == 16)
            return 0;
        *number = *number << 4 | (uint64_t)digit;
    }
    return digits == 16;
}

struct tidying {
    struct queue *q;
    struct numbers orphans, there;
    int code;
};

static void look_at(void *argument, const char *name)
{
    struct tidying *tidying = argument;
    const struct message *message;
    uint64_t number;

    if (!number_of(name, &number))
        return;
    message = index_find(tidying->q, number);
    if (numbers_add(message && message->large ? &tidying->there : &tidying->orphans, number) != Q_OK)
        tidying->code = Q_MEMORY;
}

static int by_number(const void *left, const void *right)
{
    uint64_t one = *(const uint64_t *)left, two = *(const uint64_t *)right;

    return one < two ? -1 : one > two;
}

/* A record without its file is of a message that was never acknowledged, or the file was taken away: it is dropped
   and counted. The log says so with the next commit: the file may come back, if its unlinking was not durable. */
static int drop_the_missing(struct queue *q, const struct numbers *there)
{
    for (struct message *message = index_next(q, 0), *next; message; message = next) {
        next = index_next(q, message->number);
        if (!message->large || bsearch(&message->number, there->at, there->used, sizeof *there->at, by_number))
            continue;
        if (!state_is_over(message)) { /* I14: one that has ended lost its file then */
            q->damaged++;
            if (!append_record(q, END, MARK_LARGE, message->number, RECORD_HEAD))
                return fail_with(q, Q_MEMORY, "no memory for a record");
        }
        index_drop(q, message);
    }
    return Q_OK;
}

int large_tidy(struct queue *q)
{
    struct tidying tidying = { .q = q };
    char path[PATH_ROOM];
    int error;

    snprintf(path, sizeof path, "%s/large", q->directory);
    error = q->system.list(q->system.context, path, look_at, &tidying);
    if (error < 0)
        tidying.code = fail_with(q, code_of(error), "%s: %s", path, strerror(-error));
    if (tidying.code == Q_OK) {
        for (size_t at = 0; at < tidying.orphans.used; at++)
            large_unlink(q, tidying.orphans.at[at]);
        if (tidying.there.used)
            qsort(tidying.there.at, tidying.there.used, sizeof *tidying.there.at, by_number);
        else
            numbers_add(&tidying.there, 0); /* bsearch wants an array */
        tidying.code = drop_the_missing(q, &tidying.there);
    }
    free(tidying.orphans.at);
    free(tidying.there.at);
    return tidying.code;
}
