/* What stands in the queue, in pages: all of it, or what goes to one place. A page costs what it looks at, never more. */
#include "queue_internal.h"

#include <string.h>

#define READ_WORK 32u /* what reading a record costs, in recipients looked at; and as much for each KiB of it */

/* Does the lane tell whether its recipients are meant? */
enum { NOT_MEANT = 0, MEANT, ASK };

static void lanes_mark(struct queue *q, const uint8_t *names, size_t length, uint8_t mark)
{
    while (length >= 2 && take16(names) <= length - 2) {
        uint32_t lane = lane_find(q, names + 2, take16(names));
        length -= 2 + (size_t)take16(names);
        names += 2 + take16(names);
        if (lane != NONE)
            q->lanes[lane].mark = mark;
    }
}

/* Before and after a search; in between every lane tells. */
static void search_begin(struct queue *q, const struct queue_search *search)
{
    lanes_mark(q, search->asked, search->asked_length, ASK);
    lanes_mark(q, search->meant, search->meant_length, MEANT);
}

static void search_end(struct queue *q, const struct queue_search *search)
{
    lanes_mark(q, search->asked, search->asked_length, NOT_MEANT);
    lanes_mark(q, search->meant, search->meant_length, NOT_MEANT);
}

static uint8_t verdict_of(const struct queue *q, const struct message *message, uint32_t index)
{
    uint32_t slot = message->slots[index], lane = slot < SLOT_FAILED ? q->groups[slot].lane : NONE;

    return slot >= SLOT_FAILED ? NOT_MEANT : lane == NONE ? ASK : q->lanes[lane].mark;
}

static uint8_t lower(uint8_t letter)
{
    return letter >= 'A' && letter <= 'Z' ? (uint8_t)(letter | 0x20) : letter;
}

static int ends(const uint8_t *address, uint32_t length, const struct queue_search *search)
{
    const uint8_t *suffix = search->suffix;

    if (length < search->suffix_length)
        return 0;
    address += length - search->suffix_length;
    for (size_t at = 0; at < search->suffix_length; at++)
        if (lower(address[at]) != lower(suffix[at]))
            return 0;
    return 1;
}

/* The recipients that are meant go to `parts`, if there are any; the answer is how many, at most `most`. Before: the
   record was read. */
static uint32_t meant(struct queue *q, const struct message *message, const struct message_view *view,
                      const struct queue_search *search, struct queue_part *parts, uint32_t most)
{
    const uint8_t *at = view->addresses;
    uint32_t found = 0;

    for (uint32_t index = 0; index < message->count && found < most; index++) {
        uint32_t length = take16(at);
        uint8_t verdict = verdict_of(q, message, index);
        if (verdict == MEANT || (verdict == ASK && ends(at + 2, length, search))) {
            if (parts)
                part_fill(q, message, index, at + 2, length, &parts[found]);
            found++;
        }
        at += 2 + length;
    }
    return found;
}

/* Its record is read only if the lanes leave it open. One that cannot be read is not found by its addresses. */
static int is_found(struct queue *q, struct message *message, const struct queue_search *search, uint64_t *work)
{
    struct message_view view;
    int ask = 0;

    *work = 1;
    if (!search)
        return 1;
    *work += message->count;
    for (uint32_t index = 0; index < message->count; index++) {
        uint8_t verdict = verdict_of(q, message, index);
        if (verdict == MEANT)
            return 1;
        ask |= verdict == ASK;
    }
    if (!ask)
        return 0;
    *work += READ_WORK + message->length / 1024 * READ_WORK;
    return message_read(q, message, &view) == Q_OK && meant(q, message, &view, search, NULL, 1);
}

size_t queue_find(struct queue *q, const struct queue_search *search, uint64_t *after, uint64_t *numbers, size_t limit,
                  uint64_t work)
{
    struct place place = index_after(q, *after);
    size_t found = 0;

    if (search)
        search_begin(q, search);
    while (found < limit && work) {
        struct message *message = index_step(q, &place);
        uint64_t worked = 1;
        if (!message) {
            *after = 0;
            break;
        }
        *after = message->number;
        if (message->segment && is_found(q, message, search, &worked))
            numbers[found++] = message->number;
        work -= worked < work ? worked : work;
    }
    if (search)
        search_end(q, search);
    return found;
}

size_t queue_list(struct queue *q, uint64_t after, uint64_t *numbers, size_t limit)
{
    return queue_find(q, NULL, &after, numbers, limit, UINT64_MAX);
}

int queue_match(struct queue *q, uint64_t number, const struct queue_search *search, struct queue_job *job)
{
    struct message *message = find_durable(q, number);
    struct message_view view;
    int code;

    if (!message)
        return index_find(q, number) ? Q_STATE : Q_UNKNOWN;
    code = message_read(q, message, &view);
    if (code == Q_OK)
        code = parts_need(q, message->count);
    if (code != Q_OK)
        return code;
    job_fill(q, message, &view, job);
    search_begin(q, search);
    job->part_count = meant(q, message, &view, search, q->parts, message->count);
    search_end(q, search);
    return Q_OK;
}
