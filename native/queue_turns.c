/* Whose turn it is: new mail by itself, and lanes one after the other. It belongs to the owner's thread. */
#include "queue_internal.h"

/* A lane with something due stands in turn, and goes to the back when one message of it was handed out. One whose
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

int lane_is_full(const struct queue *q, const struct lane *lane)
{
    return q->lane_limit && lane->groups - lane->heap.used >= q->lane_limit;
}

/* The lane's groups have changed: where does it stand now? */
void lane_stands(struct queue *q, uint32_t lane)
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
