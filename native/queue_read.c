/* Reading records back, and the due order as the owner's caller sees it. */
#include "queue_internal.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

/* After: q->record holds the message's record, whole and checked, and *view is its parts. */
int message_read(struct queue *q, struct message *message, struct message_view *view)
{
    const struct segment *segment = message->segment;
    int64_t got;

    if (q->record_room < message->length) {
        uint8_t *wider = realloc(q->record, message->length);
        if (!wider)
            return fail_with(q, Q_MEMORY, "no memory for a record of %u bytes", message->length);
        q->record = wider;
        q->record_room = message->length;
    }
    got = q->system.read(q->system.context, segment->fd, q->record, message->length, message->offset);
    if (got < 0)
        return fail_with(q, Q_IO, "segment %08x at %u: %s", segment->name, message->offset, strerror((int)-got));
    if ((uint64_t)got == message->length &&
        record_is_whole(q->record, message->length, segment->generation, segment->stamp) &&
        take64(q->record + 24) == message->number && record_view(q->record, view) && view->count == message->count)
        return Q_OK;
    if (!(message->flags & UNREADABLE)) {
        message->flags |= UNREADABLE;
        q->damaged++;
    }
    return fail_with(q, Q_DAMAGED, "segment %08x at %u: the record of message %llu is damaged", segment->name,
                     message->offset, (unsigned long long)message->number);
}

static uint32_t offset_in(const struct queue *q, const uint8_t *at)
{
    return (uint32_t)(at - q->record);
}

void job_fill(struct queue *q, const struct message *message, const struct message_view *view, struct queue_job *job)
{
    *job = (struct queue_job){
        .number = message->number, .birth = view->birth, .flags = view->flags,
        .record = q->record, .record_length = message->length,
        .origin_offset = offset_in(q, view->origin), .origin_length = view->origin_length,
        .sender_offset = offset_in(q, view->sender), .sender_length = view->sender_length,
        .content_offset = offset_in(q, view->content), .content_length = view->content_length,
        .large = message->large, .undone = message->undone, .parts = q->parts,
    };
}

int parts_need(struct queue *q, uint32_t count)
{
    struct queue_part *wider;

    if (q->parts_room >= count)
        return Q_OK;
    wider = realloc(q->parts, (count ? count : 1) * sizeof *wider);
    if (!wider)
        return fail_with(q, Q_MEMORY, "no memory for %u recipients", count);
    q->parts = wider;
    q->parts_room = count;
    return Q_OK;
}

/* `address` is in q->record. */
void part_fill(struct queue *q, const struct message *message, uint32_t index, const uint8_t *address, uint32_t length,
               struct queue_part *part)
{
    uint32_t slot = message->slots[index];
    const struct group *group;

    part->index = index;
    part->offset = offset_in(q, address);
    part->length = length;
    part->lane = part->note = NULL;
    part->lane_length = part->note_length = 0;
    part->due = 0;
    if (slot >= SLOT_FAILED) {
        part->state = slot == SLOT_DONE ? Q_DONE : Q_FAILED;
        return;
    }
    group = &q->groups[slot];
    part->due = group->due < 0 ? 0 : group->due;
    part->state = group->place == NOT_IN_HEAP ? Q_OUT : group->fresh ? Q_NEW : Q_WAITING;
    if (group->lane != NONE) {
        part->lane = q->lanes[group->lane].name;
        part->lane_length = q->lanes[group->lane].length;
    }
}

/* A note for every failed recipient: one pass over the notes, not one for each. */
static void notes_fill(const struct message *message, struct queue_part *parts, uint32_t count)
{
    for (const struct note *note = count ? message->notes : NULL; note; note = note->next) {
        uint32_t low = 0, high = count;
        if (note->index < parts[0].index || note->index > parts[count - 1].index)
            continue;
        while (low < high) {
            uint32_t middle = (low + high) / 2;
            if (parts[middle].index < note->index)
                low = middle + 1;
            else
                high = middle;
        }
        if (low < count && parts[low].index == note->index) {
            parts[low].note = note->text;
            parts[low].note_length = note->length;
        }
    }
}

/* Which recipients a job names: all, the failed, the undone, or those due by `now` that their lanes may hand out. */
enum { ALL, FAILED_ONES, UNDONE_ONES, DUE_ONES };

static int is_named(const struct queue *q, const struct message *message, uint32_t index, int which, int64_t now)
{
    uint32_t slot = message->slots[index];

    if (which == ALL)
        return 1;
    if (which == FAILED_ONES)
        return slot == SLOT_FAILED;
    return slot < SLOT_FAILED && (which == UNDONE_ONES || group_is_ready(q, slot, now));
}

/* The first `most` of those named, from index `first` on. */
static uint32_t parts_fill(struct queue *q, const struct message *message, const struct message_view *view, int which,
                           int64_t now, uint32_t first, uint32_t most)
{
    const uint8_t *at = view->addresses;
    uint32_t named = 0;

    for (uint32_t index = 0; index < message->count && named < most; index++) {
        uint32_t length = take16(at);
        if (index >= first && is_named(q, message, index, which, now))
            part_fill(q, message, index, at + 2, length, &q->parts[named++]);
        at += 2 + length;
    }
    if (which == ALL || which == FAILED_ONES)
        notes_fill(message, q->parts, named);
    return named;
}

static void put_off(struct queue *q, struct message *message, int64_t now)
{
    uint32_t finish = message_finish(message);

    if (finish != NONE && group_is_ready(q, finish, now))
        group_wait(q, finish, now + READ_RETRY);
    for (uint32_t index = 0; index < message->count; index++)
        if (is_named(q, message, index, DUE_ONES, now))
            group_wait(q, message->slots[index], now + READ_RETRY);
}

/* Reading a message costs the more the more recipients it has, and of a large mailing every lane may fall due at
   another moment: each time it is handed out it takes along what is due soon. */
static int64_t company(const struct message *message, int64_t now)
{
    return message->count < MANY ? now : now + message->count * MANY_EARLY;
}

int queue_due(struct queue *q, int64_t now, int which, struct queue_job *job)
{
    uint32_t group;

    if (now > INT64_MAX - READ_RETRY - 1)
        now = INT64_MAX - READ_RETRY - 1; /* there must be a later */
    while ((group = which == QUEUE_FRESH ? fresh_first(q, now) : retry_first(q, now)) != NONE) {
        struct message *message = q->groups[group].message;
        uint32_t lane = q->groups[group].lane;
        int finish = message_finish(message) == group;
        struct message_view view;
        int code = message_read(q, message, &view);
        if (code == Q_MEMORY || parts_need(q, message->count) != Q_OK)
            return Q_MEMORY;
        if (code != Q_OK) {
            put_off(q, message, now);
            continue;
        }
        job_fill(q, message, &view, job);
        job->kind = finish ? QUEUE_FINISH : QUEUE_ATTEMPT;
        job->part_count = parts_fill(q, message, &view, finish ? FAILED_ONES : DUE_ONES, company(message, now),
                                     0, message->count);
        if (finish)
            group_take_out(q, group);
        for (uint32_t part = 0; !finish && part < job->part_count; part++)
            group_take_out(q, message->slots[q->parts[part].index]);
        if (lane != NONE)
            lane_had_turn(q, lane);
        return 1;
    }
    return 0;
}

struct message *find_durable(struct queue *q, uint64_t number)
{
    struct message *message = index_find(q, number);

    if (message && message->segment)
        return message;
    fail_with(q, message ? Q_STATE : Q_UNKNOWN, "message %llu is not %s", (unsigned long long)number,
              message ? "durable yet" : "known");
    return NULL;
}

static void slot_due_now(struct queue *q, uint32_t slot, int waiting)
{
    if (slot < SLOT_FAILED && (q->groups[slot].place != NOT_IN_HEAP) == waiting &&
        (!waiting || q->groups[slot].due > DUE_RETRY))
        group_wait(q, slot, DUE_RETRY);
}

/* Groups of this message that are out (or wait, if `waiting`) are due now. */
static int due_now(struct queue *q, uint64_t number, int waiting)
{
    struct message *message = find_durable(q, number);

    if (!message)
        return Q_UNKNOWN;
    if (message_finish(message) != NONE && !(message->flags & ENDING))
        slot_due_now(q, message_finish(message), waiting);
    for (uint32_t index = 0; index < message->count; index++)
        slot_due_now(q, message->slots[index], waiting);
    return Q_OK;
}

int queue_give_back(struct queue *q, uint64_t number)
{
    return due_now(q, number, 0);
}

int queue_retry(struct queue *q, uint64_t number)
{
    return due_now(q, number, 1);
}

int queue_retry_some(struct queue *q, uint64_t number, const uint32_t *indexes, uint32_t count)
{
    struct message *message = find_durable(q, number);

    if (!message)
        return Q_UNKNOWN;
    for (uint32_t at = 0; at < count; at++)
        if (indexes[at] >= message->count)
            return fail_with(q, Q_UNKNOWN, "message %llu has no recipient %u", (unsigned long long)number, indexes[at]);
    for (uint32_t at = 0; at < count; at++)
        slot_due_now(q, message->slots[indexes[at]], 1);
    return Q_OK;
}

static int show(struct queue *q, uint64_t number, int which, uint32_t first, uint32_t most, struct queue_job *job)
{
    struct message *message = find_durable(q, number);
    struct message_view view;
    int code;

    if (!message)
        return index_find(q, number) ? Q_STATE : Q_UNKNOWN;
    if (most > message->count)
        most = message->count;
    code = message_read(q, message, &view);
    if (code == Q_OK)
        code = parts_need(q, most);
    if (code != Q_OK)
        return code;
    job_fill(q, message, &view, job);
    job->part_count = parts_fill(q, message, &view, which, 0, first, most);
    return Q_OK;
}

int queue_show(struct queue *q, uint64_t number, struct queue_job *job)
{
    return show(q, number, ALL, 0, UINT32_MAX, job);
}

int queue_show_some(struct queue *q, uint64_t number, uint32_t first, uint32_t most, struct queue_job *job)
{
    return show(q, number, ALL, first, most, job);
}

int queue_glance(struct queue *q, uint64_t number, uint32_t most, struct queue_job *job)
{
    return show(q, number, UNDONE_ONES, 0, most, job);
}

int queue_open_large(struct queue *q, uint64_t number)
{
    struct message *message = find_durable(q, number);
    char path[PATH_ROOM];
    int fd;

    if (!message)
        return index_find(q, number) ? Q_STATE : Q_UNKNOWN;
    if (!message->large)
        return fail_with(q, Q_STATE, "message %llu has no file of its own", (unsigned long long)number);
    large_path(q, number, path);
    fd = q->system.open(q->system.context, path, O_RDONLY | O_CLOEXEC, 0);
    return fd >= 0 ? fd : fail_with(q, Q_IO, "%s: %s", path, strerror(-fd));
}

int queue_is_out(struct queue *q, uint64_t number, uint32_t index)
{
    const struct message *message = index_find(q, number);

    return message && message->segment && index < message->count && message->slots[index] < SLOT_FAILED &&
           q->groups[message->slots[index]].place == NOT_IN_HEAP;
}
