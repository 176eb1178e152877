/* Lanes by name, from their first group to their last. It belongs to the owner's thread. */
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

/* ---- names */

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
void lane_release(struct queue *q, uint32_t lane)
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
