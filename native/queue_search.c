/* What stands in the queue, in pages: all of it, or what goes to one place. A page costs what it looks at, never more. */
#include "queue_internal.h"

#include <string.h>

#define READ_WORK 32u /* what reading a record costs, in recipients looked at; and as much for each KiB of it */

/* Does the lane tell whether its recipients are meant? */
enum verdict { NOT_MEANT, MEANT, ASK };

static int begins(const struct lane *lane, const void *prefix, size_t length)
{
    return lane->length >= length && memcmp(lane->name, prefix, length) == 0;
}

static enum verdict lane_verdict(const struct queue *q, uint32_t lane, const struct queue_search *search)
{
    const struct lane *at = lane == NONE ? NULL : &q->lanes[lane];

    if (!at)
        return ASK;
    if (at->length == search->lane_length && begins(at, search->lane, search->lane_length))
        return MEANT;
    return begins(at, search->telling, search->telling_length) && !begins(at, search->shared, search->shared_length)
               ? NOT_MEANT
               : ASK;
}

static enum verdict verdict_of(const struct queue *q, const struct message *message, uint32_t index,
                               const struct queue_search *search)
{
    uint32_t slot = message->slots[index];

    return slot < SLOT_FAILED ? lane_verdict(q, q->groups[slot].lane, search) : NOT_MEANT;
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
        enum verdict verdict = verdict_of(q, message, index, search);
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
        enum verdict verdict = verdict_of(q, message, index, search);
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
    job->part_count = meant(q, message, &view, search, q->parts, message->count);
    return Q_OK;
}
