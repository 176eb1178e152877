/* Beginning with a checkpoint: its file, whether it fits this log, and what must hold when the log behind it is read (I17). */
#include "crc32c.h"
#include "queue_chunk.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

/* After: r->bytes holds `length` bytes from `at` of the file. What cannot be read does not fit. */
static int bytes_read(struct restoring *r, uint64_t at, uint64_t length)
{
    const struct queue *q = r->q;
    int64_t got;

    if (at > r->size || length > r->size - at)
        return UNFIT;
    if (r->room < length) {
        uint8_t *wider = realloc(r->bytes, length);
        if (!wider)
            return Q_MEMORY;
        r->bytes = wider;
        r->room = length;
    }
    got = q->system.read(q->system.context, r->fd, r->bytes, length, at);
    return got >= 0 && (uint64_t)got == length ? FITS : UNFIT;
}

static int chunk_is_whole(const struct restoring *r, uint64_t at, uint64_t length, uint32_t kind)
{
    const uint8_t *head = r->bytes;

    return take32(head) == CHUNK_MAGIC && take64(head + 8) == r->stamp && take64(head + 16) == at &&
           take32(head + 24) == length && take32(head + 28) == kind &&
           crc32c(0, head + 8, (size_t)length - 8) == take32(head + 4);
}

/* The last chunk says that there are no more, and how many messages came. */
static int end_take(struct restoring *r, uint64_t *messages)
{
    uint64_t length = CHUNK_HEAD + CHUNK_LAST, at = r->size - length;
    int code = bytes_read(r, at, length);

    if (code != FITS)
        return code;
    *messages = take64(r->bytes + CHUNK_HEAD);
    return chunk_is_whole(r, at, length, CHUNK_END) ? FITS : UNFIT;
}

static int chunks_take(struct restoring *r, uint64_t end)
{
    uint64_t at = CHECKPOINT_HEAD, length;

    for (int code; at < end; at += length) {
        code = bytes_read(r, at, CHUNK_HEAD);
        length = code == FITS ? take32(r->bytes + 24) : 0;
        if (code == FITS && (length < CHUNK_HEAD || length > end - at))
            return UNFIT;
        if (code == FITS)
            code = bytes_read(r, at, length);
        if (code == FITS && !chunk_is_whole(r, at, length, CHUNK_MESSAGES))
            return UNFIT;
        if (code == FITS)
            code = chunk_messages_take(r, r->bytes + CHUNK_HEAD, r->bytes + length);
        if (code != FITS)
            return code;
    }
    return at == end ? FITS : UNFIT;
}

static int head_take(struct restoring *r)
{
    int code = bytes_read(r, 0, CHECKPOINT_HEAD);
    const uint8_t *head = r->bytes;
    const struct segment *segment;

    if (code != FITS)
        return code;
    if (memcmp(head, "qmaildcp", 8) != 0 || take32(head + 8) != CHECKPOINT_VERSION ||
        take32(head + 12) != crc32c(crc32c(0, head, 12), head + 16, CHECKPOINT_HEAD - 16))
        return UNFIT;
    r->stamp = take64(head + 16);
    r->from = (struct position){ take64(head + 24), take64(head + 32), take64(head + 40) };
    r->oldest = take64(head + 48);
    r->next_number = take64(head + 56);
    segment = segment_of(r, r->from.generation);
    return segment && segment->stamp == r->from.stamp && r->from.offset >= SEGMENT_START &&
           r->from.offset <= segment->limit && r->from.offset % 8 == 0 && r->oldest <= r->from.generation &&
           r->next_number >> 62 == 0 ? FITS : UNFIT;
}

static int file_take(struct restoring *r)
{
    struct queue *q = r->q;
    uint64_t messages = 0;
    int code = r->size < CHECKPOINT_HEAD + CHUNK_HEAD + CHUNK_LAST ? UNFIT : head_take(r);

    if (code == FITS)
        code = end_take(r, &messages);
    if (code != FITS)
        return code;
    if (r->oldest > q->oldest)
        q->oldest = r->oldest;
    code = chunks_take(r, r->size - CHUNK_HEAD - CHUNK_LAST);
    if (code == FITS && r->messages != messages)
        code = UNFIT;
    if (code == FITS && r->next_number > q->next_number)
        q->next_number = r->next_number;
    return code;
}

/* A segment that is not what it was may hold less than it should, or more. */
static int segments_note(struct restoring *r)
{
    size_t count = 0;

    for (const struct segment *segment = r->q->log; segment; segment = segment->next, count++)
        if (segment->bad || !segment->intact)
            return UNFIT;
    r->segments = calloc(count + 1, sizeof *r->segments);
    if (!r->segments)
        return Q_MEMORY;
    for (const struct segment *segment = r->q->log; segment; segment = segment->next)
        r->segments[r->segment_count++] = segment;
    return FITS;
}

int restore_begin(struct queue *q, struct position *from)
{
    struct restoring r = { .q = q, .fd = -1 };
    char path[PATH_ROOM];
    int code;

    checkpoint_path(q, ".new", path);
    q->system.unlink(q->system.context, path); /* of a process that died over it */
    checkpoint_path(q, "", path);
    r.fd = q->system.open(q->system.context, path, O_RDONLY | O_CLOEXEC, 0);
    if (r.fd < 0)
        return UNFIT;
    code = q->system.size(q->system.context, r.fd, &r.size) < 0 ? UNFIT : segments_note(&r);
    q->checkpoint.size = r.size;
    q->checkpoint.before = (struct before){ q->oldest, q->next_number, q->damaged, q->torn };
    if (code == FITS)
        code = file_take(&r);
    if (code == FITS)
        *from = r.from;
    else if (code == UNFIT)
        code = restore_undo(q);
    q->system.close(q->system.context, r.fd);
    free(r.segments);
    free(r.lanes.at);
    free(r.bytes);
    return code == Q_MEMORY ? fail_with(q, Q_MEMORY, "no memory for the checkpoint") : code;
}

/* The log behind the checkpoint has been replayed. 0 if something is missing that the whole log may still tell. */
int restore_holds(struct queue *q)
{
    if (q->damaged != q->checkpoint.before.damaged || (q->missing && q->missing >= q->oldest))
        return 0;
    for (const struct message *message = q->limbo.first; message; message = message->after)
        if (!state_is_over(message))
            return 0;
    while (q->limbo.first)
        index_drop(q, q->limbo.first);
    return 1;
}

/* No trace of it is left. */
int restore_undo(struct queue *q)
{
    const struct before *before = &q->checkpoint.before;

    index_stop(q);
    q->limbo.first = q->limbo.last = NULL;
    for (struct segment *segment = q->log; segment; segment = segment->next) {
        segment->first = segment->last = NULL;
        segment->used = 0;
    }
    q->oldest = before->oldest;
    q->next_number = before->next_number;
    q->damaged = before->damaged;
    q->torn = before->torn;
    q->checkpoint.refused++;
    return index_start(q) == Q_OK ? UNFIT : Q_MEMORY;
}
