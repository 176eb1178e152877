/* Opening and closing: whose directory, which format, which segments make the log (I4..I7). */
#include "queue_internal.h"

#include <errno.h>
#include <fcntl.h>
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

static int io_failure(struct queue *q, int error, const char *path)
{
    return fail_with(q, code_of(error), "%s: %s", path, strerror(-error));
}

/* ---- the directory */

static int make_directories(struct queue *q)
{
    static const char *const parts[] = { "", "/segments", "/large" };
    char path[PATH_ROOM];

    for (size_t part = 0; part < 3; part++) {
        int error;
        snprintf(path, sizeof path, "%s%s", q->directory, parts[part]);
        error = q->options.create ? q->system.mkdir(q->system.context, path, 0700) : 0;
        if (error < 0 && error != -EEXIST)
            return io_failure(q, error, path);
        error = q->system.owned(q->system.context, path);
        if (error == 0)
            return fail_with(q, Q_OWNER, "%s: expected a directory that belongs to uid %u", path, (unsigned)geteuid());
        if (error < 0)
            return io_failure(q, error, path);
    }
    return Q_OK;
}

static int open_lock(struct queue *q)
{
    char path[PATH_ROOM];
    int error;

    snprintf(path, sizeof path, "%s/lock", q->directory);
    q->lock_fd = q->system.open(q->system.context, path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (q->lock_fd < 0)
        return io_failure(q, q->lock_fd, path);
    error = q->system.lock(q->system.context, q->lock_fd);
    if (error == -EWOULDBLOCK)
        return fail_with(q, Q_LOCKED, "%s: another process has this queue open", path);
    return error < 0 ? io_failure(q, error, path) : Q_OK;
}

static int open_directories(struct queue *q)
{
    struct { int *fd; const char *name; } const parts[] = {
        { &q->directory_fd, "" }, { &q->segments_fd, "/segments" }, { &q->large_fd, "/large" } };
    char path[PATH_ROOM];

    for (size_t part = 0; part < 3; part++) {
        snprintf(path, sizeof path, "%s%s", q->directory, parts[part].name);
        *parts[part].fd = q->system.open(q->system.context, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
        if (*parts[part].fd < 0)
            return io_failure(q, *parts[part].fd, path);
    }
    return Q_OK;
}

static void count_name(void *argument, const char *name)
{
    *(size_t *)argument += name[0] != '.';
}

/* The queue's own name in the directory above. One that we may not read is not ours to sync, nor did we make a name in it. */
static int sync_above(struct queue *q)
{
    char path[PATH_ROOM], *end;
    int fd, error;

    snprintf(path, sizeof path, "%s", q->directory);
    for (end = path + strlen(path); end > path && end[-1] == '/'; end--)
        ;
    while (end > path && end[-1] != '/')
        end--;
    if (end == path)
        *end++ = '.';
    *end = 0;
    fd = q->system.open(q->system.context, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
    if (fd < 0)
        return fd == -EACCES ? Q_OK : io_failure(q, fd, path);
    error = q->system.sync(q->system.context, fd);
    q->system.close(q->system.context, fd);
    return error < 0 ? io_failure(q, error, path) : Q_OK;
}

/* The format file is made once, with everything above it durable, before there is any segment. */
static int make_format(struct queue *q, const char *path)
{
    char fresh[PATH_ROOM];
    size_t segments = 0;
    int64_t error;
    int fd;

    snprintf(fresh, sizeof fresh, "%s/segments", q->directory);
    error = q->system.list(q->system.context, fresh, count_name, &segments);
    if (error < 0)
        return io_failure(q, (int)error, fresh);
    if (segments || !q->options.create)
        return fail_with(q, Q_FORMAT, "%s is missing: expected \"qmaild queue 1\"", path);
    if (sync_above(q) != Q_OK)
        return Q_IO;
    snprintf(fresh, sizeof fresh, "%s/format.new", q->directory);
    fd = q->system.open(q->system.context, fresh, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    error = fd;
    if (fd >= 0) {
        error = q->system.write(q->system.context, fd, FORMAT_TEXT, strlen(FORMAT_TEXT), 0);
        if (error >= 0)
            error = q->system.sync(q->system.context, fd);
        q->system.close(q->system.context, fd);
    }
    if (error >= 0)
        error = q->system.rename(q->system.context, fresh, path);
    if (error >= 0)
        error = q->system.sync(q->system.context, q->directory_fd);
    return error < 0 ? io_failure(q, (int)error, path) : Q_OK;
}

static int check_format(struct queue *q)
{
    char path[PATH_ROOM], text[64] = "";
    int64_t got;
    int fd;

    snprintf(path, sizeof path, "%s/format", q->directory);
    fd = q->system.open(q->system.context, path, O_RDONLY | O_CLOEXEC, 0);
    if (fd == -ENOENT)
        return make_format(q, path);
    if (fd < 0)
        return io_failure(q, fd, path);
    got = q->system.read(q->system.context, fd, text, sizeof text - 1, 0);
    q->system.close(q->system.context, fd);
    if (got < 0)
        return io_failure(q, (int)got, path);
    if (strcmp(text, FORMAT_TEXT) != 0)
        return fail_with(q, Q_FORMAT, "%s: expected \"qmaild queue 1\", found \"%.30s\"", path, text);
    /* It may have been made by a process that died before its directory was durable. */
    got = q->system.sync(q->system.context, q->directory_fd);
    return got < 0 ? io_failure(q, (int)got, path) : Q_OK;
}

/* ---- the segments */

static int name_of(const char *text, uint32_t *name)
{
    char again[16];
    unsigned value;

    if (strlen(text) != 8 || sscanf(text, "%8x", &value) != 1)
        return 0;
    snprintf(again, sizeof again, "%08x", value);
    *name = value;
    return strcmp(text, again) == 0;
}

struct found {
    struct numbers names;
    int code;
};

static void name_found(void *argument, const char *text)
{
    struct found *found = argument;
    uint32_t name;

    if (name_of(text, &name) && numbers_add(&found->names, name) != Q_OK)
        found->code = Q_MEMORY;
}

/* Reads both headers and takes the later one; without any, a first record that is whole tells generation and
   stamp: it proves that the header was durable once (I5). */
static int head_read(struct queue *q, struct segment *segment, uint64_t *adopted)
{
    struct segment copy = *segment;
    uint8_t head[SEGMENT_HEAD];
    uint64_t length_found = segment->size, places[2] = { 0, segment->size - SEGMENT_TAIL };

    for (size_t place = 0; place < (length_found < SEGMENT_START + SEGMENT_TAIL ? 1 : 2); place++) {
        int64_t got = q->system.read(q->system.context, segment->fd, head, sizeof head, places[place]);
        int known;
        if (got < 0)
            return io_failure(q, (int)got, "reading a segment's header");
        known = got == (int64_t)sizeof head ? segment_head_take(head, &copy) : 0;
        if (known == Q_FORMAT)
            return fail_with(q, Q_FORMAT, "%s/segments/%08x: expected version %u, found %u", q->directory,
                             segment->name, FORMAT_VERSION, take32(head + 8));
        if (known && copy.generation > segment->generation) {
            copy.intact = 1;
            copy.bad = copy.closed = copy.size != length_found; /* somebody cut it: take out what is left */
            *segment = copy;
        }
    }
    if (!segment->intact) {
        uint8_t start[RECORD_HEAD];
        int64_t got = q->system.read(q->system.context, segment->fd, start, sizeof start, SEGMENT_START);
        uint32_t length = got == (int64_t)sizeof start ? take32(start + 32) : 0;
        uint8_t *record = length >= RECORD_HEAD && length < segment->size ? malloc(length) : NULL;
        if (record && q->system.read(q->system.context, segment->fd, record, length, SEGMENT_START) == length &&
            record_is_whole(record, length, take64(record + 8), take64(record + 16))) {
            segment->generation = *adopted = take64(record + 8);
            segment->stamp = take64(record + 16);
        }
        free(record);
    }
    return Q_OK;
}

static int segment_load(struct queue *q, uint32_t name, struct segment **out)
{
    struct segment *segment = calloc(1, sizeof *segment);
    char path[PATH_ROOM];
    uint64_t adopted = 0;
    int error, code = Q_OK;

    if (!segment)
        return fail_with(q, Q_MEMORY, "no memory");
    segment_path(q, name, path);
    segment->name = name;
    segment->fd = error = q->system.open(q->system.context, path, O_RDWR | O_CLOEXEC, 0);
    if (error >= 0)
        error = q->system.size(q->system.context, segment->fd, &segment->size);
    segment->there = segment->size;
    if (error < 0)
        code = io_failure(q, error, path);
    else if (segment->size <= Q_SEGMENT_MAX)
        code = head_read(q, segment, &adopted);
    segment->limit = segment->size > SEGMENT_TAIL ? (segment->size - SEGMENT_TAIL) & ~UINT64_C(7) : 0;
    if (adopted)
        segment->bad = segment->closed = 1;
    *out = segment;
    return code;
}

static void segment_discard(struct queue *q, struct segment *segment, int unlink)
{
    char path[PATH_ROOM];

    segment_path(q, segment->name, path);
    if (segment->fd >= 0)
        q->system.close(q->system.context, segment->fd);
    if (unlink)
        q->system.unlink(q->system.context, path);
    free(segment);
}

static int by_generation(const void *left, const void *right)
{
    const struct segment *one = *(struct segment *const *)left, *two = *(struct segment *const *)right;

    if (one->generation != two->generation)
        return one->generation < two->generation ? -1 : 1;
    return one->intact - two->intact;
}

/* From the newest back along `previous`: *keep marks the log's segments, limits are set, and the answer is the latest
   generation that should be there and is not, or 0. */
static uint64_t mark_chain(struct segment **all, size_t count, uint64_t oldest, uint8_t *keep)
{
    uint64_t missing = 0;
    size_t at = count - 1;

    while (all[at]->generation >= oldest && all[at]->generation) {
        const struct segment *later = all[at];
        keep[at] = 1;
        while (at && all[at - 1]->generation >= later->generation)
            at--; /* a twin: not ours */
        while (at && later->intact && all[at - 1]->generation > later->previous)
            at--; /* I5: void */
        if (later->intact && later->previous >= oldest && !missing &&
            (at == 0 || all[at - 1]->generation != later->previous))
            missing = later->previous;
        if (at == 0 || (later->intact && !later->previous))
            break;
        at--;
        if (later->intact && all[at]->generation == later->previous && later->previous_end >= SEGMENT_START &&
            later->previous_end <= all[at]->limit) {
            all[at]->limit = later->previous_end;
            all[at]->told = 1;
        }
    }
    return missing;
}

static void take_spare(struct queue *q, struct segment *segment)
{
    if (q->spare || segment->bad || segment->size != q->options.segment_bytes) {
        segment_discard(q, segment, 1);
        return;
    }
    segment->generation = 0;
    q->spare = segment;
    q->segment_count++;
}

/* Sorts the segments into the log and the rest. What cannot be read waits: it may be what is missing. */
static void sort_out(struct queue *q, struct segment **all, size_t count)
{
    uint8_t *keep = (uint8_t *)(all + count);
    struct segment **end = &q->log;

    memset(keep, 0, count);
    for (size_t at = 0; at < count; at++) {
        if (all[at]->intact)
            q->oldest = all[at]->oldest; /* the newest header's, in the end */
        if (all[at]->size > q->options.segment_bytes && all[at]->size <= Q_SEGMENT_MAX && all[at]->intact)
            q->options.segment_bytes = all[at]->size;
    }
    if (count)
        q->missing = mark_chain(all, count, q->oldest, keep);
    for (size_t at = 0; at < count; at++) {
        if (all[at]->generation > q->generation)
            q->generation = all[at]->generation;
        if (all[at]->next_number > q->next_number)
            q->next_number = all[at]->next_number;
        if (keep[at]) {
            *end = q->active = all[at];
            end = &all[at]->next;
            q->segment_count++;
        } else if (!all[at]->generation) {
            all[at]->next = q->aside;
            q->aside = all[at];
        } else {
            all[at]->next = q->released;
            q->released = all[at];
        }
    }
    q->oldest_durable = q->oldest;
}

/* After replay, which has made sure of what says that they are void (I18), and may have found that what is missing is
   void by now. If it is not, nothing that may be it is touched. */
static void settle_aside(struct queue *q)
{
    int is_missing = q->missing && q->missing >= q->oldest;

    q->damaged += (uint64_t)is_missing;
    while (q->released) {
        struct segment *segment = q->released;
        q->released = segment->next;
        segment->next = NULL;
        take_spare(q, segment);
    }
    while (q->aside) {
        struct segment *segment = q->aside;
        q->aside = segment->next;
        segment->next = NULL;
        if (is_missing)
            segment_discard(q, segment, 0);
        else
            take_spare(q, segment);
    }
}

static int load_segments(struct queue *q)
{
    struct found found = { .code = Q_OK };
    struct segment **all = NULL;
    char path[PATH_ROOM];
    size_t loaded = 0;
    int error, code;

    snprintf(path, sizeof path, "%s/segments", q->directory);
    /* A spare may have been made by a process that was killed before its name was durable. */
    error = q->system.sync(q->system.context, q->segments_fd);
    if (error >= 0)
        error = q->system.list(q->system.context, path, name_found, &found);
    code = error < 0 ? io_failure(q, error, path) : found.code;
    if (code == Q_OK && !(all = calloc(found.names.used + 1, sizeof *all + 1)))
        code = fail_with(q, Q_MEMORY, "no memory");
    while (code == Q_OK && loaded < found.names.used) {
        uint32_t name = (uint32_t)found.names.at[loaded];
        if (name >= q->next_name)
            q->next_name = name + 1;
        code = segment_load(q, name, &all[loaded]);
        loaded += all[loaded] != NULL;
    }
    if (code == Q_OK) {
        qsort(all, loaded, sizeof *all, by_generation);
        sort_out(q, all, loaded);
    } else {
        while (loaded--)
            segment_discard(q, all[loaded], 0);
    }
    free(all);
    free(found.names.at);
    return code;
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
        code = make_directories(q);
    if (code == Q_OK)
        code = open_lock(q);
    if (code == Q_OK)
        code = open_directories(q);
    if (code == Q_OK)
        code = check_format(q);
    if (code == Q_OK)
        code = load_segments(q);
    if (code == Q_OK)
        code = replay_all(q);
    if (code == Q_OK)
        code = replay_settle(q);
    if (code == Q_OK)
        settle_aside(q);
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
