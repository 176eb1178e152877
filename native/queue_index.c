/* The index: messages in the order of their numbers, and by the segment they live in. It belongs to the owner's thread. */
#include "queue_internal.h"

#include <stdlib.h>
#include <string.h>

/* Messages stand on shelves, ascending; the shelves' first numbers stand in one array, ascending. Numbers count up, so
   that shelves are filled one after the other, and 8 bytes a message are all that the order costs. */
#define SHELF_ROOM 255u
#define SHELF_MERGED 192u /* two neighbours that fit into this become one; less than all, lest they part at once */

struct shelf {
    uint32_t used;
    struct message *at[SHELF_ROOM];
};

struct shelved {
    uint64_t from; /* no number on this shelf is below, none on those before it is at or above */
    struct shelf *shelf;
};

int index_start(struct queue *q)
{
    q->shelf_room = 16;
    q->shelves = malloc(q->shelf_room * sizeof *q->shelves);
    return q->shelves ? lanes_start(q) : Q_MEMORY;
}

static void notes_drop(struct queue *q, struct message *message)
{
    while (message->notes) {
        struct note *note = message->notes;
        message->notes = note->next;
        q->living -= record_bytes(8 + (uint64_t)note->length);
        free(note);
    }
}

/* After: an empty one may start again. */
void index_stop(struct queue *q)
{
    for (size_t shelf = 0; shelf < q->shelf_count; shelf++) {
        for (uint32_t at = 0; at < q->shelves[shelf].shelf->used; at++) {
            notes_drop(q, q->shelves[shelf].shelf->at[at]);
            free(q->shelves[shelf].shelf->at[at]);
        }
        free(q->shelves[shelf].shelf);
    }
    free(q->shelves);
    q->shelves = NULL;
    q->shelf_count = q->shelf_room = 0;
    lanes_stop(q);
    q->message_count = q->index_bytes = 0;
    q->fresh = q->waiting = q->out = q->unborn = q->living = q->large_living = 0;
}

/* ---- the order of numbers */

/* Where `number` is or would be: the last shelf that begins at or below it, and the first place there that is not
   below it. */
static struct place place_of(const struct queue *q, uint64_t number)
{
    size_t low = 0, high = q->shelf_count;
    struct place place = { 0, 0 };
    const struct shelf *shelf;
    uint32_t first = 0, last;
    uint64_t guess;

    while (high - low > 1) {
        size_t middle = (low + high) / 2;
        *(q->shelves[middle].from <= number ? &low : &high) = middle;
    }
    if (!q->shelf_count)
        return place;
    place.shelf = low;
    shelf = q->shelves[low].shelf;
    last = shelf->used;
    guess = number - q->shelves[low].from; /* right while nothing has gone from the shelf; huge if number is below */
    if (guess < last && shelf->at[guess]->number == number)
        first = last = (uint32_t)guess;
    while (first < last) {
        uint32_t middle = (first + last) / 2;
        if (shelf->at[middle]->number < number)
            first = middle + 1;
        else
            last = middle;
    }
    place.at = first;
    return place;
}

struct message *index_find(struct queue *q, uint64_t number)
{
    struct place place = place_of(q, number);
    struct message *message = index_step(q, &place);

    return message && message->number == number ? message : NULL;
}

struct place index_after(const struct queue *q, uint64_t number)
{
    return number == UINT64_MAX ? (struct place){ q->shelf_count, 0 } : place_of(q, number + 1);
}

struct message *index_step(const struct queue *q, struct place *place)
{
    if (place->shelf < q->shelf_count && place->at == q->shelves[place->shelf].shelf->used)
        *place = (struct place){ place->shelf + 1, 0 };
    return place->shelf < q->shelf_count ? q->shelves[place->shelf].shelf->at[place->at++] : NULL;
}

struct message *index_next(struct queue *q, uint64_t after)
{
    struct place place = index_after(q, after);

    return index_step(q, &place);
}

/* An empty shelf at this place in the row. */
static struct shelf *shelf_new(struct queue *q, size_t place, uint64_t from)
{
    struct shelf *shelf = malloc(sizeof *shelf);
    struct shelved *wider;

    if (shelf && q->shelf_count == q->shelf_room) {
        wider = realloc(q->shelves, q->shelf_room * 2 * sizeof *wider);
        if (!wider) {
            free(shelf);
            return NULL;
        }
        q->shelves = wider;
        q->shelf_room *= 2;
    }
    if (!shelf)
        return NULL;
    shelf->used = 0;
    memmove(q->shelves + place + 1, q->shelves + place, (q->shelf_count - place) * sizeof *q->shelves);
    q->shelves[place] = (struct shelved){ from, shelf };
    q->shelf_count++;
    q->index_bytes += sizeof *shelf + sizeof *q->shelves;
    return shelf;
}

static void shelf_drop(struct queue *q, size_t place)
{
    free(q->shelves[place].shelf);
    q->shelf_count--;
    memmove(q->shelves + place, q->shelves + place + 1, (q->shelf_count - place) * sizeof *q->shelves);
    q->index_bytes -= sizeof(struct shelf) + sizeof *q->shelves;
}

/* A full shelf gives its upper half to a new one behind it, or nothing if the newcomer goes behind its last. */
static int shelf_part(struct queue *q, struct place *place, uint64_t number)
{
    uint32_t keep = place->at == SHELF_ROOM ? SHELF_ROOM : SHELF_ROOM / 2;
    struct shelf *from = q->shelves[place->shelf].shelf;
    struct shelf *to = shelf_new(q, place->shelf + 1, keep == SHELF_ROOM ? number : from->at[keep]->number);

    if (!to)
        return Q_MEMORY;
    memcpy(to->at, from->at + keep, (SHELF_ROOM - keep) * sizeof *to->at);
    to->used = SHELF_ROOM - keep;
    from->used = keep;
    if (place->at > keep || keep == SHELF_ROOM)
        *place = (struct place){ place->shelf + 1, place->at - keep };
    return Q_OK;
}

static int shelve(struct queue *q, struct message *message)
{
    struct place place = place_of(q, message->number);
    struct shelf *shelf;

    if (!q->shelf_count && !shelf_new(q, 0, message->number))
        return Q_MEMORY;
    if (q->shelves[place.shelf].shelf->used == SHELF_ROOM && shelf_part(q, &place, message->number) != Q_OK)
        return Q_MEMORY;
    shelf = q->shelves[place.shelf].shelf;
    memmove(shelf->at + place.at + 1, shelf->at + place.at, (shelf->used - place.at) * sizeof *shelf->at);
    shelf->at[place.at] = message;
    shelf->used++;
    if (message->number < q->shelves[place.shelf].from)
        q->shelves[place.shelf].from = message->number; /* only ever on the first shelf */
    return Q_OK;
}

/* The shelf behind `left` joins it, if both together are few. */
static void shelves_merge(struct queue *q, size_t left)
{
    struct shelf *to, *from;

    if (left + 1 >= q->shelf_count)
        return;
    to = q->shelves[left].shelf;
    from = q->shelves[left + 1].shelf;
    if (to->used + from->used > SHELF_MERGED)
        return;
    memcpy(to->at + to->used, from->at, from->used * sizeof *to->at);
    to->used += from->used;
    shelf_drop(q, left + 1);
}

static void unshelve(struct queue *q, const struct message *message)
{
    struct place place = place_of(q, message->number);
    struct shelf *shelf = q->shelves[place.shelf].shelf;

    shelf->used--;
    memmove(shelf->at + place.at, shelf->at + place.at + 1, (shelf->used - place.at) * sizeof *shelf->at);
    if (!shelf->used) {
        shelf_drop(q, place.shelf);
        return;
    }
    shelves_merge(q, place.shelf);
    if (place.shelf)
        shelves_merge(q, place.shelf - 1);
}

/* ---- messages */

static size_t message_bytes(uint32_t count)
{
    return offsetof(struct message, slots) + (size_t)count * sizeof(uint32_t);
}

/* After: a message without a place or a group; every recipient's slot is NONE. NULL if memory ran out. */
struct message *index_new(struct queue *q, uint64_t number, const struct message_view *view)
{
    struct message *message = malloc(message_bytes(view->count));

    if (!message)
        return NULL;
    memset(message, 0, message_bytes(0));
    message->number = number;
    message->large = view->large;
    message->count = message->undone = view->count;
    memset(message->slots, 0xff, (size_t)view->count * sizeof(uint32_t));
    if (shelve(q, message) != Q_OK) {
        free(message);
        return NULL;
    }
    q->message_count++;
    q->index_bytes += message_bytes(view->count);
    return message;
}

void index_drop(struct queue *q, struct message *message)
{
    uint32_t finish = message_finish(message);

    if (!message->segment)
        q->unborn -= message->undone;
    for (uint32_t index = 0; index < message->count; index++)
        if (message->slots[index] < SLOT_FAILED)
            state_settle(q, message, index, SLOT_DONE);
    if (finish != NONE) {
        q->groups[finish].count = 0;
        group_free(q, finish);
    }
    message_unplace(q, message);
    unshelve(q, message);
    q->message_count--;
    q->index_bytes -= message_bytes(message->count);
    notes_drop(q, message);
    free(message);
}

/* ---- where they live */

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
