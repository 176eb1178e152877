/* Lanes: groups of recipients in due order, whose turn it is, and the lanes' names. It belongs to the owner's thread. */
#include "queue_internal.h"

#include <stdlib.h>
#include <string.h>

int lanes_start(struct queue *q)
{
    q->lane_bucket_count = 256;
    q->lane_buckets = malloc(q->lane_bucket_count * sizeof *q->lane_buckets);
    q->group_free = q->lane_free = q->turn_first = q->turn_last = NONE;
    q->woken = INT64_MIN;
    if (q->system.random(q->system.context, &q->lane_seed, sizeof q->lane_seed) < 0)
        q->lane_seed = 0; /* slower against an enemy, not wrong */
    if (!q->lane_buckets)
        return Q_MEMORY;
    memset(q->lane_buckets, 0xff, q->lane_bucket_count * sizeof *q->lane_buckets);
    return Q_OK;
}

/* After: they may start again. */
void lanes_stop(struct queue *q)
{
    for (uint32_t lane = 0; lane < q->lane_used; lane++) {
        free(q->lanes[lane].name);
        free(q->lanes[lane].heap.at);
    }
    free(q->groups);
    free(q->unplanned.at);
    free(q->asleep);
    free(q->lanes);
    free(q->lane_buckets);
    q->groups = NULL;
    q->unplanned = (struct heap){ NULL, 0, 0 };
    q->asleep = q->lane_buckets = NULL;
    q->lanes = NULL;
    q->group_room = q->group_used = q->lane_room = q->lane_used = q->lane_bucket_count = q->asleep_used = 0;
}

/* ---- heaps of groups, by due time, then by number: first come, first served */

static int group_before(const struct queue *q, uint32_t left, uint32_t right)
{
    const struct group *one = &q->groups[left], *two = &q->groups[right];

    if (one->due != two->due)
        return one->due < two->due;
    return one->message->number < two->message->number;
}

static void heap_put(struct queue *q, struct heap *heap, uint32_t place, uint32_t group)
{
    heap->at[place] = group;
    q->groups[group].place = place;
}

/* The group goes to its place in the heap, from `place` up or down. */
static void heap_settle(struct queue *q, struct heap *heap, uint32_t place, uint32_t group)
{
    uint32_t child;

    while (place && group_before(q, group, heap->at[(place - 1) / 2])) {
        heap_put(q, heap, place, heap->at[(place - 1) / 2]);
        place = (place - 1) / 2;
    }
    while ((child = 2 * place + 1) < heap->used) {
        if (child + 1 < heap->used && group_before(q, heap->at[child + 1], heap->at[child]))
            child++;
        if (!group_before(q, heap->at[child], group))
            break;
        heap_put(q, heap, place, heap->at[child]);
        place = child;
    }
    heap_put(q, heap, place, group);
}

static int heap_widen(struct queue *q, struct heap *heap, uint32_t room)
{
    uint32_t *wider = heap->room >= room ? heap->at : realloc(heap->at, room * sizeof *wider);

    if (!wider)
        return Q_MEMORY;
    heap->at = wider;
    if (heap->room < room) {
        q->index_bytes += (room - heap->room) * sizeof *wider;
        heap->room = room;
    }
    return Q_OK;
}

/* ---- whose turn it is

   A lane with something due stands in turn, and goes to the back when one message of it was handed out. One whose
   first group is for later stands among the sleepers, a heap by that time. One with its limit out stands in neither,
   until something of it comes back. Every lane in turn was due at `woken`, the time of the last look. */

static int64_t lane_due(const struct queue *q, uint32_t lane)
{
    return q->groups[q->lanes[lane].heap.at[0]].due;
}

static int lane_before(const struct queue *q, uint32_t left, uint32_t right)
{
    return group_before(q, q->lanes[left].heap.at[0], q->lanes[right].heap.at[0]);
}

static void asleep_put(struct queue *q, uint32_t place, uint32_t lane)
{
    q->asleep[place] = lane;
    q->lanes[lane].place = place;
}

static void asleep_settle(struct queue *q, uint32_t place, uint32_t lane)
{
    uint32_t child;

    while (place && lane_before(q, lane, q->asleep[(place - 1) / 2])) {
        asleep_put(q, place, q->asleep[(place - 1) / 2]);
        place = (place - 1) / 2;
    }
    while ((child = 2 * place + 1) < q->asleep_used) {
        if (child + 1 < q->asleep_used && lane_before(q, q->asleep[child + 1], q->asleep[child]))
            child++;
        if (!lane_before(q, q->asleep[child], lane))
            break;
        asleep_put(q, place, q->asleep[child]);
        place = child;
    }
    asleep_put(q, place, lane);
}

static void lane_leaves(struct queue *q, uint32_t lane)
{
    struct lane *at = &q->lanes[lane];
    uint32_t last;

    if (at->stand == ASLEEP) {
        last = q->asleep[--q->asleep_used];
        if (last != lane)
            asleep_settle(q, at->place, last);
    } else if (at->stand == IN_TURN) {
        *(at->before == NONE ? &q->turn_first : &q->lanes[at->before].after) = at->after;
        *(at->after == NONE ? &q->turn_last : &q->lanes[at->after].before) = at->before;
    }
    at->stand = RESTING;
}

static void lane_takes_turn(struct queue *q, uint32_t lane)
{
    struct lane *at = &q->lanes[lane];

    lane_leaves(q, lane);
    at->stand = IN_TURN;
    at->before = q->turn_last;
    at->after = NONE;
    *(q->turn_last == NONE ? &q->turn_first : &q->lanes[q->turn_last].after) = lane;
    q->turn_last = lane;
}

static int lane_is_full(const struct queue *q, const struct lane *lane)
{
    return q->lane_limit && lane->groups - lane->heap.used >= q->lane_limit;
}

/* The lane's groups have changed: where does it stand now? */
static void lane_stands(struct queue *q, uint32_t lane)
{
    struct lane *at = &q->lanes[lane];

    if (!at->heap.used || lane_is_full(q, at)) {
        lane_leaves(q, lane);
        return;
    }
    if (at->stand == IN_TURN && lane_due(q, lane) <= q->woken)
        return;
    if (at->stand != ASLEEP) {
        lane_leaves(q, lane);
        at->stand = ASLEEP;
        at->place = q->asleep_used++;
    }
    asleep_settle(q, at->place, lane);
}

/* Lanes that have become due take their turn. A clock that went back sends those to sleep that are due no more. */
static void lanes_wake(struct queue *q, int64_t now)
{
    int went_back = now < q->woken;

    q->woken = now;
    for (uint32_t lane = went_back ? q->turn_first : NONE, next; lane != NONE; lane = next) {
        next = q->lanes[lane].after;
        lane_stands(q, lane);
    }
    while (q->asleep_used && lane_due(q, q->asleep[0]) <= now)
        lane_takes_turn(q, q->asleep[0]);
}

uint32_t fresh_first(const struct queue *q, int64_t now)
{
    return q->unplanned.used && q->groups[q->unplanned.at[0]].due <= now ? q->unplanned.at[0] : NONE;
}

uint32_t retry_first(struct queue *q, int64_t now)
{
    lanes_wake(q, now);
    return q->turn_first == NONE ? NONE : q->lanes[q->turn_first].heap.at[0];
}

void lane_had_turn(struct queue *q, uint32_t lane)
{
    if (q->lanes[lane].stand == IN_TURN)
        lane_takes_turn(q, lane);
}

int queue_next_due(struct queue *q, int which, int64_t *due)
{
    if (which == QUEUE_FRESH && q->unplanned.used)
        *due = q->groups[q->unplanned.at[0]].due;
    else if (which == QUEUE_RETRY && q->turn_first != NONE)
        *due = lane_due(q, q->turn_first);
    else if (which == QUEUE_RETRY && q->asleep_used)
        *due = lane_due(q, q->asleep[0]);
    else
        return 0;
    if (*due < 0)
        *due = 0;
    return 1;
}

void queue_limit(struct queue *q, uint32_t per_lane)
{
    q->lane_limit = per_lane;
    for (uint32_t lane = 0; lane < q->lane_used; lane++)
        if (q->lanes[lane].name)
            lane_stands(q, lane);
}

/* ---- groups */

int index_room(struct queue *q)
{
    uint32_t room = q->group_room ? q->group_room * 2 : 256;
    struct group *groups;

    if (q->group_free != NONE || q->group_used < q->group_room)
        return Q_OK;
    /* Every group has a place reserved among the unplanned: any may be the last before its message's finish. */
    if (room > GROUPS_MAX || heap_widen(q, &q->unplanned, room) != Q_OK)
        return Q_MEMORY;
    groups = realloc(q->groups, room * sizeof *groups);
    if (!groups)
        return Q_MEMORY;
    q->groups = groups;
    q->index_bytes += (room - q->group_room) * sizeof *groups;
    q->group_room = room;
    return Q_OK;
}

static struct heap *heap_of(struct queue *q, const struct group *group)
{
    return group->lane == NONE ? &q->unplanned : &q->lanes[group->lane].heap;
}

/* What saying such a group again takes (I16): a deferral's record with one run. */
static uint64_t defer_bytes(const struct queue *q, uint32_t lane)
{
    return lane == NONE ? 0 : record_bytes(12 + (uint64_t)q->lanes[lane].length + 8);
}

/* An empty group, out. Before: index_room said Q_OK, and lane_intern for its lane. The lane's use is the group's. */
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
        q->lanes[lane].groups++;
    q->living += defer_bytes(q, lane);
    return group;
}

static void group_leave(struct queue *q, uint32_t group)
{
    struct group *at = &q->groups[group];
    struct heap *heap = heap_of(q, at);
    uint32_t last;

    if (at->place == NOT_IN_HEAP)
        return;
    *(at->fresh ? &q->fresh : &q->waiting) -= at->count;
    q->out += at->count;
    last = heap->at[--heap->used];
    if (last != group)
        heap_settle(q, heap, at->place, last);
    at->place = NOT_IN_HEAP;
}

/* The group leaves its heap and its recipients are out. */
void group_take_out(struct queue *q, uint32_t group)
{
    group_leave(q, group);
    if (q->groups[group].lane != NONE)
        lane_stands(q, q->groups[group].lane);
}

/* The group waits until `due`. There is room: its place was reserved when it was made. */
void group_wait(struct queue *q, uint32_t group, int64_t due)
{
    struct group *at = &q->groups[group];
    struct heap *heap = heap_of(q, at);

    group_leave(q, group);
    at->due = due;
    q->out -= at->count;
    *(at->fresh ? &q->fresh : &q->waiting) += at->count;
    heap->used++;
    heap_settle(q, heap, heap->used - 1, group);
    if (at->lane != NONE)
        lane_stands(q, at->lane);
}

int group_is_ready(const struct queue *q, uint32_t group, int64_t now)
{
    const struct group *at = &q->groups[group];

    return at->place != NOT_IN_HEAP && at->due <= now && (at->lane == NONE || !lane_is_full(q, &q->lanes[at->lane]));
}

static void lane_release(struct queue *q, uint32_t lane);

void group_free(struct queue *q, uint32_t group)
{
    struct group *at = &q->groups[group];

    group_leave(q, group);
    q->out -= at->count;
    q->living -= defer_bytes(q, at->lane);
    if (at->lane != NONE)
        lane_release(q, at->lane);
    at->message = NULL;
    at->count = q->group_free;
    q->group_free = group;
}

/* ---- lane names */

/* FNV-1a from a start of our own, its halves folded: strangers choose the names of lanes, and must not choose their bucket. */
static uint32_t *lane_bucket(struct queue *q, const uint8_t *name, size_t length)
{
    uint32_t hash = q->lane_seed;

    for (size_t at = 0; at < length; at++)
        hash = (hash ^ name[at]) * 16777619u;
    return &q->lane_buckets[(hash ^ hash >> 16) & (q->lane_bucket_count - 1)];
}

uint32_t lane_find(struct queue *q, const void *name, size_t length)
{
    uint32_t lane = *lane_bucket(q, name, length);

    while (lane != NONE && (q->lanes[lane].length != length || memcmp(q->lanes[lane].name, name, length) != 0))
        lane = q->lanes[lane].next;
    return lane;
}

/* One group less; with its last one the lane goes. */
static void lane_release(struct queue *q, uint32_t lane)
{
    struct lane *at = &q->lanes[lane];
    uint32_t *link;

    at->groups--;
    lane_stands(q, lane);
    if (at->groups)
        return;
    link = lane_bucket(q, at->name, at->length);
    while (*link != lane)
        link = &q->lanes[*link].next;
    *link = at->next;
    q->index_bytes -= at->length + sizeof *at + at->heap.room * sizeof *at->heap.at;
    free(at->name);
    free(at->heap.at);
    *at = (struct lane){ .next = q->lane_free };
    q->lane_free = lane;
}

static int lanes_grow(struct queue *q)
{
    uint32_t room = q->lane_room ? q->lane_room * 2 : 64;
    uint32_t *asleep = realloc(q->asleep, room * sizeof *asleep), *buckets;
    struct lane *lanes;

    if (!asleep)
        return Q_MEMORY;
    q->asleep = asleep;
    lanes = realloc(q->lanes, room * sizeof *lanes);
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

static int lane_new(struct queue *q, const void *name, size_t length, uint32_t *lane)
{
    uint8_t *copy;
    uint32_t *home;

    if (q->lane_free == NONE && q->lane_used == q->lane_room && lanes_grow(q) != Q_OK)
        return Q_MEMORY;
    copy = malloc(length ? length : 1);
    if (!copy)
        return Q_MEMORY;
    memcpy(copy, name, length);
    *lane = q->lane_free;
    if (*lane != NONE)
        q->lane_free = q->lanes[*lane].next;
    else
        *lane = q->lane_used++;
    home = lane_bucket(q, copy, length);
    q->lanes[*lane] = (struct lane){ .name = copy, .length = (uint32_t)length, .next = *home };
    *home = *lane;
    q->index_bytes += length + sizeof(struct lane);
    return Q_OK;
}

/* Room for one more group. One that has none yet goes if there is no memory. */
int lane_room(struct queue *q, uint32_t lane)
{
    struct lane *at = &q->lanes[lane];

    if (at->groups < at->heap.room)
        return Q_OK;
    if (heap_widen(q, &at->heap, at->heap.room * 2 + 6) == Q_OK) /* what malloc gives at least: 6, 18, 42... */
        return Q_OK;
    if (!at->groups) {
        at->groups = 1;
        lane_release(q, lane);
    }
    return Q_MEMORY;
}

/* *lane names `name`, and has room for one more group. A new one goes when its last group goes. */
int lane_intern(struct queue *q, const void *name, size_t length, uint32_t *lane)
{
    *lane = lane_find(q, name, length);
    if (*lane == NONE && lane_new(q, name, length, lane) != Q_OK)
        return Q_MEMORY;
    return lane_room(q, *lane);
}
