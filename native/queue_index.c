/* The index: messages by number, groups of recipients in due order, lane names. It belongs to the owner's thread. */
#include "queue_internal.h"

#include <stdlib.h>
#include <string.h>

int index_start(struct queue *q)
{
    q->bucket_count = 1024;
    q->buckets = calloc(q->bucket_count, sizeof *q->buckets);
    q->lane_bucket_count = 256;
    q->lane_buckets = malloc(q->lane_bucket_count * sizeof *q->lane_buckets);
    q->group_free = q->lane_free = NONE;
    if (!q->buckets || !q->lane_buckets)
        return Q_MEMORY;
    memset(q->lane_buckets, 0xff, q->lane_bucket_count * sizeof *q->lane_buckets);
    return Q_OK;
}

static void notes_drop(struct message *message)
{
    while (message->notes) {
        struct note *note = message->notes;
        message->notes = note->next;
        free(note);
    }
}

void index_stop(struct queue *q)
{
    for (uint64_t bucket = 0; q->buckets && bucket < q->bucket_count; bucket++)
        while (q->buckets[bucket]) {
            struct message *message = q->buckets[bucket];
            q->buckets[bucket] = message->chain;
            notes_drop(message);
            free(message);
        }
    for (uint32_t lane = 0; lane < q->lane_used; lane++)
        free(q->lanes[lane].name);
    free(q->buckets);
    free(q->groups);
    free(q->heap);
    free(q->lanes);
    free(q->lane_buckets);
}

/* Fibonacci hashing: numbers count up, and are spread by the high bits of the product. */
static struct message **bucket_of(struct queue *q, uint64_t number)
{
    return &q->buckets[(number * UINT64_C(0x9e3779b97f4a7c15)) >> 20 & (q->bucket_count - 1)];
}

struct message *index_find(struct queue *q, uint64_t number)
{
    struct message *message = *bucket_of(q, number);

    while (message && message->number != number)
        message = message->chain;
    return message;
}

/* Failing to grow is no failure: the chains get longer. */
static void buckets_grow(struct queue *q)
{
    uint64_t old_count = q->bucket_count;
    struct message **old = q->buckets, **wider = calloc(old_count * 2, sizeof *wider);

    if (!wider)
        return;
    q->buckets = wider;
    q->bucket_count = old_count * 2;
    for (uint64_t bucket = 0; bucket < old_count; bucket++)
        while (old[bucket]) {
            struct message *message = old[bucket], **home = bucket_of(q, message->number);
            old[bucket] = message->chain;
            message->chain = *home;
            *home = message;
        }
    free(old);
}

static size_t message_bytes(uint32_t count)
{
    return sizeof(struct message) + (size_t)count * sizeof(uint32_t);
}

struct message *index_new(struct queue *q, uint64_t number, const struct message_view *view)
{
    struct message *message = malloc(message_bytes(view->count)), **home;

    if (!message)
        return NULL;
    memset(message, 0, sizeof *message);
    message->number = number;
    message->birth = view->birth;
    message->large = view->large;
    message->count = message->undone = view->count;
    message->finish = NONE;
    memset(message->slots, 0xff, (size_t)view->count * sizeof(uint32_t));
    if (q->message_count >= q->bucket_count)
        buckets_grow(q);
    home = bucket_of(q, number);
    message->chain = *home;
    *home = message;
    q->message_count++;
    q->index_bytes += message_bytes(view->count) + 8;
    return message;
}

void message_place(struct queue *q, struct message *message, struct segment *segment, uint32_t offset, uint32_t length)
{
    message->segment = segment;
    message->offset = offset;
    message->length = length;
    message->after = NULL;
    message->before = segment->last;
    if (segment->last)
        segment->last->after = message;
    else
        segment->first = message;
    segment->last = message;
    q->living += length;
    q->large_living += message->large;
}

void message_unplace(struct queue *q, struct message *message)
{
    struct segment *segment = message->segment;

    if (!segment)
        return;
    if (message->before)
        message->before->after = message->after;
    else
        segment->first = message->after;
    if (message->after)
        message->after->before = message->before;
    else
        segment->last = message->before;
    message->segment = NULL;
    q->living -= message->length;
    q->large_living -= message->large;
}

static void lane_release(struct queue *q, uint32_t lane);

void group_free(struct queue *q, uint32_t group)
{
    struct group *at = &q->groups[group];

    group_take_out(q, group);
    q->out -= at->count;
    lane_release(q, at->lane);
    at->message = NULL;
    at->count = q->group_free;
    q->group_free = group;
}

void index_drop(struct queue *q, struct message *message)
{
    struct message **home = bucket_of(q, message->number);

    if (!message->segment)
        q->unborn -= message->undone;
    for (uint32_t index = 0; index < message->count; index++)
        if (message->slots[index] < SLOT_FAILED)
            state_settle(q, message, index, SLOT_DONE);
    if (message->finish != NONE) {
        q->groups[message->finish].count = 0;
        group_free(q, message->finish);
    }
    message_unplace(q, message);
    while (*home != message)
        home = &(*home)->chain;
    *home = message->chain;
    q->message_count--;
    q->index_bytes -= message_bytes(message->count) + 8;
    notes_drop(message);
    free(message);
}

/* ---- the heap of groups, by due time, then by number: first come, first served */

static int heap_before(struct queue *q, uint32_t left, uint32_t right)
{
    const struct group *one = &q->groups[left], *two = &q->groups[right];

    if (one->due != two->due)
        return one->due < two->due;
    return one->message->number < two->message->number;
}

static void heap_put(struct queue *q, uint32_t place, uint32_t group)
{
    q->heap[place] = group;
    q->groups[group].place = place;
}

static void heap_up(struct queue *q, uint32_t place, uint32_t group)
{
    while (place && heap_before(q, group, q->heap[(place - 1) / 2])) {
        heap_put(q, place, q->heap[(place - 1) / 2]);
        place = (place - 1) / 2;
    }
    heap_put(q, place, group);
}

static void heap_down(struct queue *q, uint32_t place, uint32_t group)
{
    for (;;) {
        uint32_t child = 2 * place + 1;
        if (child >= q->heap_used)
            break;
        if (child + 1 < q->heap_used && heap_before(q, q->heap[child + 1], q->heap[child]))
            child++;
        if (!heap_before(q, q->heap[child], group))
            break;
        heap_put(q, place, q->heap[child]);
        place = child;
    }
    heap_put(q, place, group);
}

/* The group leaves the heap and its recipients are out. */
void group_take_out(struct queue *q, uint32_t group)
{
    struct group *at = &q->groups[group];
    uint32_t place = at->place, last;

    if (place == NOT_IN_HEAP)
        return;
    at->place = NOT_IN_HEAP;
    *(at->fresh ? &q->fresh : &q->waiting) -= at->count;
    q->out += at->count;
    last = q->heap[--q->heap_used];
    if (last == group)
        return;
    if (place && heap_before(q, last, q->heap[(place - 1) / 2]))
        heap_up(q, place, last);
    else
        heap_down(q, place, last);
}

/* The group waits until `due`. There is room: every group has its place in the heap reserved (index_room). */
void group_wait(struct queue *q, uint32_t group, int64_t due)
{
    struct group *at = &q->groups[group];

    group_take_out(q, group);
    at->due = due;
    q->out -= at->count;
    *(at->fresh ? &q->fresh : &q->waiting) += at->count;
    heap_up(q, q->heap_used++, group);
}

int index_room(struct queue *q)
{
    uint32_t room = q->group_room ? q->group_room * 2 : 256;
    struct group *groups;
    uint32_t *heap;

    if (q->group_free != NONE || q->group_used < q->group_room)
        return Q_OK;
    if (room > GROUPS_MAX)
        return Q_MEMORY;
    heap = realloc(q->heap, room * sizeof *heap);
    if (!heap)
        return Q_MEMORY;
    q->heap = heap;
    groups = realloc(q->groups, room * sizeof *groups);
    if (!groups)
        return Q_MEMORY;
    q->groups = groups;
    q->index_bytes += (room - q->group_room) * (sizeof *groups + sizeof *heap);
    q->group_room = room;
    return Q_OK;
}

/* An empty group, out of the heap. Before: index_room said Q_OK. The lane's use is the group's. */
uint32_t group_new(struct queue *q, struct message *message, uint32_t lane, int64_t due)
{
    uint32_t group = q->group_free;
    struct group *at;

    if (group != NONE)
        q->group_free = q->groups[group].count;
    else
        group = q->group_used++;
    at = &q->groups[group];
    *at = (struct group){ .message = message, .due = due, .lane = lane, .place = NOT_IN_HEAP };
    if (lane != NONE)
        q->lanes[lane].uses++;
    return group;
}

/* ---- lane names */

static uint32_t *lane_bucket(struct queue *q, const uint8_t *name, size_t length)
{
    uint32_t hash = 2166136261u;

    for (size_t at = 0; at < length; at++)
        hash = (hash ^ name[at]) * 16777619u;
    return &q->lane_buckets[hash & (q->lane_bucket_count - 1)];
}

uint32_t lane_find(struct queue *q, const void *name, size_t length)
{
    uint32_t lane = *lane_bucket(q, name, length);

    while (lane != NONE && (q->lanes[lane].length != length || memcmp(q->lanes[lane].name, name, length) != 0))
        lane = q->lanes[lane].next;
    return lane;
}

static void lane_release(struct queue *q, uint32_t lane)
{
    struct lane *at;
    uint32_t *link;

    if (lane == NONE || --q->lanes[lane].uses)
        return;
    at = &q->lanes[lane];
    link = lane_bucket(q, at->name, at->length);
    while (*link != lane)
        link = &q->lanes[*link].next;
    *link = at->next;
    q->index_bytes -= at->length + sizeof *at;
    free(at->name);
    at->name = NULL;
    at->next = q->lane_free;
    q->lane_free = lane;
}

static int lanes_grow(struct queue *q)
{
    uint32_t room = q->lane_room ? q->lane_room * 2 : 64;
    struct lane *lanes = realloc(q->lanes, room * sizeof *lanes);
    uint32_t *buckets;

    if (!lanes)
        return Q_MEMORY;
    q->lanes = lanes;
    q->lane_room = room;
    if (room <= q->lane_bucket_count || !(buckets = malloc(room * sizeof *buckets)))
        return Q_OK; /* longer chains */
    free(q->lane_buckets);
    q->lane_buckets = buckets;
    q->lane_bucket_count = room;
    memset(buckets, 0xff, room * sizeof *buckets);
    for (uint32_t lane = 0; lane < q->lane_used; lane++)
        if (lanes[lane].name) {
            uint32_t *home = lane_bucket(q, lanes[lane].name, lanes[lane].length);
            lanes[lane].next = *home;
            *home = lane;
        }
    return Q_OK;
}

/* *lane names `name`; a new one has no uses yet and goes when its first user goes. */
int lane_intern(struct queue *q, const void *name, size_t length, uint32_t *lane)
{
    uint32_t *home;
    struct lane *at;

    *lane = lane_find(q, name, length);
    if (*lane != NONE)
        return Q_OK;
    if (q->lane_free == NONE && q->lane_used == q->lane_room && lanes_grow(q) != Q_OK)
        return Q_MEMORY;
    *lane = q->lane_free != NONE ? q->lane_free : q->lane_used;
    at = &q->lanes[*lane];
    uint8_t *copy = malloc(length ? length : 1);
    if (!copy)
        return Q_MEMORY;
    memcpy(copy, name, length);
    if (q->lane_free != NONE)
        q->lane_free = at->next;
    else
        q->lane_used++;
    home = lane_bucket(q, copy, length);
    *at = (struct lane){ .name = copy, .length = (uint32_t)length, .next = *home };
    *home = *lane;
    q->index_bytes += length + sizeof *at;
    return Q_OK;
}
