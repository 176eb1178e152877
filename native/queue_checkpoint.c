/* Making a checkpoint: the index as it is, written beside the log in slices while the work goes on (I17). */
#include "crc32c.h"
#include "queue_internal.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define INTERVAL (UINT64_C(256) << 20) /* reading so much log takes a fraction of a second */
#define CLOSE_PART 64u                 /* an orderly stop makes one if this part of an interval has grown */
#define SLICE 2048u                    /* messages in a slice: about a millisecond of the owner's time */
#define CHUNK_FULL (256u << 10)
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

/* ---- bytes */

static int bytes_need(struct checkpoint *making, size_t more)
{
    size_t room = making->room ? making->room : CHUNK_FULL + (64u << 10);
    uint8_t *wider;

    if (making->room - making->used >= more)
        return Q_OK;
    while (room - making->used < more)
        room *= 2;
    wider = realloc(making->bytes, room);
    if (!wider)
        return Q_MEMORY;
    making->bytes = wider;
    making->room = room;
    return Q_OK;
}

/* Seven bits a byte, the lowest first; all but the last byte have the top bit. Room was made. */
static void put_number(struct checkpoint *making, uint64_t value)
{
    for (; value > 0x7f; value >>= 7)
        making->bytes[making->used++] = (uint8_t)(value | 0x80);
    making->bytes[making->used++] = (uint8_t)value;
}

static void put_wide(struct checkpoint *making, int64_t value)
{
    put64(making->bytes + making->used, (uint64_t)value);
    making->used += 8;
}

static void put_bytes(struct checkpoint *making, const void *bytes, uint32_t length)
{
    put_number(making, length);
    if (length)
        memcpy(making->bytes + making->used, bytes, length);
    making->used += length;
}

static void head_put(struct queue *q)
{
    struct checkpoint *making = &q->checkpoint;
    uint8_t *head = making->bytes;

    memset(head, 0, CHECKPOINT_HEAD);
    memcpy(head, "qmaildcp", 8);
    put32(head + 8, CHECKPOINT_VERSION);
    put64(head + 16, making->stamp);
    put64(head + 24, q->taken.generation);
    put64(head + 32, q->taken.stamp);
    put64(head + 40, q->taken.offset);
    pthread_mutex_lock(&q->lock);
    put64(head + 48, q->oldest_durable);
    put64(head + 56, making->end = q->next_number);
    pthread_mutex_unlock(&q->lock);
    put32(head + 12, crc32c(crc32c(0, head, 12), head + 16, CHECKPOINT_HEAD - 16));
    making->used = CHECKPOINT_HEAD;
}

/* The chunk that begins at `at` ends here. */
static void chunk_seal(struct checkpoint *making, size_t at, uint32_t kind)
{
    uint8_t *head = making->bytes + at;
    uint32_t length = (uint32_t)(making->used - at);

    put32(head, CHUNK_MAGIC);
    put64(head + 8, making->stamp);
    put64(head + 16, making->length + at);
    put32(head + 24, length);
    put32(head + 28, kind);
    put32(head + 4, crc32c(0, head + 8, length - 8));
}

/* ---- messages */

static void lane_put(struct queue *q, uint32_t name)
{
    struct checkpoint *making = &q->checkpoint;
    struct lane *lane = &q->lanes[name];

    if (lane->turn == making->turn) {
        put_number(making, lane->written);
        return;
    }
    lane->turn = making->turn;
    lane->written = making->lanes++;
    put_number(making, lane->written);
    put_bytes(making, lane->name, lane->length);
}

/* Groups of one message are numbered as they are met: *number is this one's; the answer is 1 if it is met for the
   first time. `table` has `room` pairs (a power of two, more than there are groups), all zero at first. */
static int group_met(uint32_t *table, uint32_t room, uint32_t slot, uint32_t *met, uint32_t *number)
{
    uint32_t at = slot * 2654435769u & (room - 1);

    while (table[2 * at] && table[2 * at] != slot + 1)
        at = (at + 1) & (room - 1);
    if (table[2 * at]) {
        *number = table[2 * at + 1];
        return 0;
    }
    table[2 * at] = slot + 1;
    table[2 * at + 1] = *number = (*met)++;
    return 1;
}

static uint32_t run_of(const struct message *message, uint32_t from)
{
    uint32_t to = from + 1;

    while (to < message->count && message->slots[to] == message->slots[from])
        to++;
    return to - from;
}

/* Runs of recipients with the same state. A recipient that was never planned has no more to it than that. */
static int recipients_put(struct queue *q, const struct message *message)
{
    struct checkpoint *making = &q->checkpoint;
    uint32_t room = 2, met = 0, number, run, *table;

    while (room <= message->count)
        room *= 2;
    if (buffer_need(q, (size_t)room * 2 * sizeof *table) != Q_OK)
        return Q_MEMORY;
    table = (uint32_t *)(void *)q->buffer;
    memset(table, 0, (size_t)room * 2 * sizeof *table);
    for (uint32_t index = 0; index < message->count; index += run) {
        uint32_t slot = message->slots[index];
        run = run_of(message, index);
        if (bytes_need(making, 64 + Q_LANE_MAX) != Q_OK)
            return Q_MEMORY;
        if (slot == SLOT_DONE || slot == SLOT_FAILED) {
            put_number(making, slot == SLOT_DONE ? CHECKPOINT_DONE : CHECKPOINT_FAILED);
        } else if (slot >= SLOT_FAILED || q->groups[slot].lane == NONE) {
            put_number(making, CHECKPOINT_FRESH);
        } else if (group_met(table, room, slot, &met, &number)) {
            put_number(making, CHECKPOINT_GROUPS + (uint64_t)number);
            lane_put(q, q->groups[slot].lane);
            put_wide(making, q->groups[slot].due);
        } else {
            put_number(making, CHECKPOINT_GROUPS + (uint64_t)number);
        }
        put_number(making, run);
    }
    return Q_OK;
}

/* The oldest first, as they came. */
static int notes_put(struct queue *q, const struct message *message)
{
    struct checkpoint *making = &q->checkpoint;
    const struct note **notes;
    size_t count = 0;

    for (const struct note *note = message->notes; note; note = note->next)
        count++;
    if (buffer_need(q, count * sizeof *notes) != Q_OK)
        return Q_MEMORY;
    notes = (const struct note **)(void *)q->buffer;
    count = 0;
    for (const struct note *note = message->notes; note; note = note->next)
        notes[count++] = note;
    while (count--) {
        if (bytes_need(making, 32 + (size_t)notes[count]->length) != Q_OK)
            return Q_MEMORY;
        put_number(making, notes[count]->index);
        put_bytes(making, notes[count]->text, notes[count]->length);
    }
    return Q_OK;
}

static int message_put(struct queue *q, const struct message *message)
{
    struct checkpoint *making = &q->checkpoint;

    if (bytes_need(making, 128) != Q_OK)
        return Q_MEMORY;
    put_number(making, message->number - making->after);
    making->after = message->number;
    put_number(making, message->large);
    put_number(making, message->segment->generation);
    put_number(making, message->offset / 8);
    put_number(making, message->length / 8);
    put_number(making, message->count);
    making->messages++;
    return recipients_put(q, message) == Q_OK ? notes_put(q, message) : Q_MEMORY;
}

/* Messages in the order of their numbers, until that is enough for one turn. 1: these were the last. 0: there are more.
   Or Q_MEMORY. */
static int messages_put(struct queue *q)
{
    struct checkpoint *making = &q->checkpoint;
    struct place place = index_after(q, making->after);
    const struct message *message;
    uint32_t most = q->options.checkpoint_slice ? q->options.checkpoint_slice : SLICE;

    for (; most && making->used < CHUNK_FULL; most--) {
        message = index_step(q, &place);
        if (!message || message->number >= making->end)
            return 1;
        if (message->segment && message_put(q, message) != Q_OK)
            return Q_MEMORY;
    }
    return 0;
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
    size_t at = making->used;

    making->used += CHUNK_HEAD;
    put_wide(making, (int64_t)making->messages);
    put_wide(making, (int64_t)making->lanes);
    chunk_seal(making, at, CHUNK_END);
    making->phase = CHECKPOINT_SETTLING;
    making->ticket = q->last_ticket + (q->filling && q->filling->used ? 1 : 0);
}

static void slice_make(struct queue *q)
{
    struct checkpoint *making = &q->checkpoint;
    size_t at = making->used;
    int done = bytes_need(making, CHUNK_HEAD);

    if (done == Q_OK) {
        making->used += CHUNK_HEAD;
        done = messages_put(q);
    }
    if (done < 0 || bytes_need(making, CHUNK_HEAD + CHUNK_LAST) != Q_OK) {
        making_drop(q);
        return;
    }
    chunk_seal(making, at, CHUNK_MESSAGES);
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
        bytes_need(making, CHECKPOINT_HEAD) != Q_OK)
        return;
    making->phase = CHECKPOINT_FILLING;
    head_put(q);
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
