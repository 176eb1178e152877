/* Groups of recipients: what waits in due order, and what is out. It belongs to the owner's thread. */
#include "queue_internal.h"

#include <stdlib.h>

/* ---- heaps of groups, by due time, then by number: first come, first served */

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

int heap_widen(struct queue *q, struct heap *heap, uint32_t room)
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
