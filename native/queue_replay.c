/* Replay: which bytes of a segment are records, where the log ends, and making sure of that end (I12, I13, I18). */
#include "queue_internal.h"

#include <stdlib.h>
#include <string.h>

/* Is this where a write was cut short? Bytes of an earlier use are not. */
static int is_torn_at(const uint8_t *at, uint64_t room, const struct segment *segment)
{
    return room >= 24 && take32(at) == RECORD_MAGIC && take64(at + 8) == segment->generation;
}

/* For a record at `at`. If somebody cut the file, what is not there is not zeros (I12). */
static uint64_t room_at(const struct segment *segment, uint64_t at)
{
    uint64_t end = segment->there < segment->limit ? segment->there : segment->limit;

    return end > at ? end - at : 0;
}

/* What an open takes out of the last batch: a copy, and where its message lives without it; or, with segment NULL, a gap of that
   length, which a torn write left. */
struct unsure {
    uint64_t number, at;
    struct segment *segment;
    uint32_t offset, length;
};
struct doubts {
    struct unsure *each;
    size_t used, room;
};

static int doubts_add(struct doubts *doubts, struct unsure unsure)
{
    if (doubts->used == doubts->room) {
        size_t room = doubts->room ? doubts->room * 2 : 16;
        struct unsure *wider = realloc(doubts->each, room * sizeof *wider);
        if (!wider)
            return Q_MEMORY;
        doubts->each = wider;
        doubts->room = room;
    }
    doubts->each[doubts->used++] = unsure;
    return Q_OK;
}

/* Before: this record is about to be replayed. Errors: Q_MEMORY. */
static int doubt_copy(struct queue *q, struct doubts *doubts, const uint8_t *record, uint64_t at)
{
    const struct message *message = NULL;

    if (take16(record + 36) == MESSAGE && take16(record + 38) & MARK_COPY)
        message = index_find(q, take64(record + 24));
    if (!message)
        return Q_OK;
    return doubts_add(doubts, (struct unsure){ message->number, at, message->segment, message->offset, message->length });
}

/* Nothing is told by the record any more, whatever stands in its body. */
static void end_of_nothing(uint8_t *record, const struct segment *segment, unsigned marks)
{
    put64(record + 24, 0);
    put16(record + 36, END);
    put16(record + 38, (uint16_t)marks);
    record_seal(record, segment->generation, segment->stamp);
}

/* I8: of a copy in the last batch the facts may be missing. Its message stays where it was, which nothing can have released. (One
   in limbo stays with its copy: a checkpoint tells of durable ones only. Limbo's generation is 0.) I13: a gap there is no damage.
   Both become an END of nothing, or what is appended next would vouch for them. Before: nothing behind does. */
static void doubts_settle(struct queue *q, const struct segment *segment, uint8_t *bytes, const struct doubts *doubts)
{
    for (size_t left = doubts->used; left--;) {
        const struct unsure *unsure = &doubts->each[left];
        uint8_t *record = bytes + unsure->at;
        struct message *message;
        if (!unsure->segment) {
            put32(record, RECORD_MAGIC);
            put32(record + 32, unsure->length);
            end_of_nothing(record, segment, 0);
            continue;
        }
        message = index_find(q, unsure->number);
        if (!message || message->segment != segment || message->offset != unsure->at || unsure->segment->generation < q->oldest)
            continue;
        message_unplace(q, message);
        message_place(q, message, unsure->segment, unsure->offset, unsure->length);
        end_of_nothing(record, segment, take16(record + 38) & MARK_SURE);
    }
}

/* Something bad between two good records is damage if what was synced later says that it was whole once. In the last
   batch it is what a torn write leaves. *sure: all before it was durable when a record said so; doubts: the copies and gaps
   behind it. Before: it is `start`. */
static int replay_bytes(struct queue *q, struct segment *segment, const uint8_t *bytes, uint64_t start, uint64_t *sure,
                        struct doubts *doubts)
{
    uint64_t at = start, end = start, gaps = 0;

    while (at + RECORD_HEAD <= segment->limit) {
        int code = Q_OK;
        if (!record_is_whole(bytes + at, room_at(segment, at), segment->generation, segment->stamp)) {
            at += 8;
            continue;
        }
        if (at != end) { /* I13: something stood between the last good record and this one */
            gaps++;
            if (at - end >= RECORD_HEAD)
                code = doubts_add(doubts, (struct unsure){ .at = end, .length = (uint32_t)(at - end) });
        }
        if (take16(bytes + at + 38) & MARK_SURE) {
            q->damaged += gaps;
            gaps = 0;
            *sure = at;
            doubts->used = 0;
        }
        if (code == Q_OK)
            code = doubt_copy(q, doubts, bytes + at, at);
        if (code == Q_OK)
            code = replay_record(q, segment, bytes + at, at);
        if (code == Q_MEMORY)
            return code;
        if (code != Q_OK)
            q->damaged++;
        at += take32(bytes + at + 32);
        end = at;
    }
    segment->used = end;
    q->checkpoint.replayed += end - start;
    *(segment->told ? &q->damaged : &q->torn) += gaps;
    if (segment->told && end < segment->limit)
        q->damaged++; /* a later header knows that records stood up to the limit */
    else if (is_torn_at(bytes + end, segment->limit - end, segment))
        q->torn++;
    return Q_OK;
}

/* I18: what was read is on the disk, whatever the cache had held back. */
static int make_sure(struct queue *q, const struct segment *segment, const uint8_t *bytes, uint64_t sure)
{
    uint8_t head[SEGMENT_HEAD];
    int64_t done = 0;

    if (segment->intact && !segment->bad) {
        segment_head_fill(head, segment);
        done = q->system.write(q->system.context, segment->fd, head, sizeof head, 0);
        if (done >= 0)
            done = q->system.write(q->system.context, segment->fd, head, sizeof head, segment->size - SEGMENT_TAIL);
    }
    if (done >= 0 && segment->used > sure)
        done = q->system.write(q->system.context, segment->fd, bytes + sure, segment->used - sure, sure);
    if (done >= 0)
        done = q->system.sync_data(q->system.context, segment->fd);
    if (done >= 0)
        return Q_OK;
    return fail_with(q, code_of((int)done), "%s: segment %08x cannot be made sure of: %s", q->directory, segment->name,
                     strerror((int)-done));
}

/* What stands before `start` is known. */
static int replay_segment(struct queue *q, struct segment *segment, uint64_t start)
{
    uint8_t *bytes = calloc(1, segment->size);
    struct doubts doubts = { 0 };
    uint64_t sure = start;
    int64_t got;
    int code = Q_OK;

    if (!bytes)
        return fail_with(q, Q_MEMORY, "no memory to read segment %08x", segment->name);
    got = q->system.read(q->system.context, segment->fd, bytes + start, segment->size - start, start);
    if (got < 0)
        code = fail_with(q, Q_IO, "%s: segment %08x: %s", q->directory, segment->name, strerror((int)-got));
    else
        code = replay_bytes(q, segment, bytes, start, &sure, &doubts);
    if (code == Q_OK && !segment->told) {
        doubts_settle(q, segment, bytes, &doubts);
        code = make_sure(q, segment, bytes, sure);
    }
    free(doubts.each);
    free(bytes);
    return code;
}

static int settle_index(struct queue *q)
{
    for (struct message *message = index_next(q, 0), *next; message; message = next) {
        next = index_next(q, message->number);
        if (state_is_over(message)) {
            index_drop(q, message);
            continue;
        }
        if (state_start(q, message) != Q_OK)
            return fail_with(q, Q_MEMORY, "no memory");
        state_finish(q, message);
        for (uint32_t index = 0; index < message->count; index++) {
            uint32_t slot = message->slots[index];
            if (slot < SLOT_FAILED && q->groups[slot].place == NOT_IN_HEAP)
                group_wait(q, slot, DUE_NOW);
        }
    }
    return Q_OK;
}

static int replay_from(struct queue *q, const struct position *from)
{
    for (struct segment *segment = q->log; segment; segment = segment->next) {
        int code;
        if (segment->generation < from->generation) {
            segment->used = segment->limit;
            continue;
        }
        code = replay_segment(q, segment, segment->generation == from->generation ? from->offset : SEGMENT_START);
        if (code != Q_OK)
            return code;
    }
    return Q_OK;
}

/* Before: q->log is the chain of segments, oldest first, each with its limit. After: the index says what the log says, and
   q->taken is the log's end. Keeps I12, I13, I17. */
int replay_all(struct queue *q)
{
    struct position from = { 0, 0, SEGMENT_START };
    int code = restore_begin(q, &from);

    if (code >= 0)
        code = replay_from(q, &from);
    if (code == Q_OK && from.generation && !restore_holds(q)) {
        code = restore_undo(q);
        from.generation = 0;
        if (code == Q_OK)
            code = replay_from(q, &from);
    }
    if (q->active)
        q->taken = (struct position){ q->active->generation, q->active->stamp, q->active->used };
    q->checkpoint.grown = q->checkpoint.replayed;
    q->checkpoint.next_at = checkpoint_interval(q);
    return code;
}

int replay_settle(struct queue *q)
{
    int code = large_tidy(q);

    return code == Q_OK ? settle_index(q) : code;
}
