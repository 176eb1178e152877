/* The bytes of records and segment headers (queue.h, FILES): filling them, and taking them apart without trust (I12). */
#include "crc32c.h"
#include "queue_internal.h"

#include <string.h>

int record_is_whole(const uint8_t *at, uint64_t room, uint64_t generation, uint64_t stamp)
{
    uint32_t length;

    if (room < RECORD_HEAD || take32(at) != RECORD_MAGIC)
        return 0;
    length = take32(at + 32);
    if (length < RECORD_HEAD || length > room || length % 8)
        return 0;
    if (take64(at + 8) != generation || take64(at + 16) != stamp)
        return 0;
    return crc32c(0, at + 8, length - 8) == take32(at + 4);
}

/* I4: what makes a record belong to this use of this segment. */
void record_seal(uint8_t *at, uint64_t generation, uint64_t stamp)
{
    put64(at + 8, generation);
    put64(at + 16, stamp);
    put32(at + 4, crc32c(0, at + 8, take32(at + 32) - 8));
}

static int addresses_are_sound(const struct message_view *view)
{
    uint32_t at = 0, seen = 0;

    while (view->addresses_length - at >= 2 && seen < view->count) {
        uint32_t length = take16(view->addresses + at);
        if (length > view->addresses_length - at - 2)
            return 0;
        at += 2 + length;
        seen++;
    }
    return at == view->addresses_length && seen == view->count;
}

int record_view(const uint8_t *record, struct message_view *view)
{
    uint32_t length = take32(record + 32);
    uint64_t sum;

    if (take16(record + 36) != MESSAGE || length < MESSAGE_HEAD)
        return 0;
    view->birth = (int64_t)take64(record + 40);
    view->flags = take32(record + 48);
    view->count = take32(record + 52);
    view->origin_length = take32(record + 56);
    view->sender_length = take32(record + 60);
    view->addresses_length = take32(record + 64);
    view->content_length = take32(record + 68);
    view->ends = take64(record + 72);
    view->serves = take64(record + 80);
    view->serves_index = take32(record + 88);
    view->large = take64(record + 96);
    sum = (uint64_t)MESSAGE_HEAD + view->origin_length + view->sender_length + view->addresses_length +
          view->content_length;
    if (sum > length || view->count == 0 || view->count > Q_RECIPIENTS_MAX)
        return 0;
    view->origin = record + MESSAGE_HEAD;
    view->sender = view->origin + view->origin_length;
    view->addresses = view->sender + view->sender_length;
    view->content = view->addresses + view->addresses_length;
    return addresses_are_sound(view);
}

uint64_t message_record_length(const struct queue_message *message)
{
    uint64_t sum = MESSAGE_HEAD;

    if (message->origin_length > Q_SEGMENT_MAX || message->sender_length > Q_SEGMENT_MAX ||
        message->addresses_length > Q_SEGMENT_MAX || message->content_length > Q_SEGMENT_MAX)
        return UINT64_MAX;
    sum += message->origin_length + message->sender_length + message->addresses_length + message->content_length;
    return (sum + 7) & ~UINT64_C(7);
}

static uint8_t *put_bytes(uint8_t *at, const void *bytes, size_t length)
{
    if (length)
        memcpy(at, bytes, length);
    return at + length;
}

void message_record_fill(uint8_t *record, const struct queue_message *message)
{
    uint8_t *at = record + MESSAGE_HEAD;

    put64(record + 40, (uint64_t)message->birth);
    put32(record + 48, message->flags);
    put32(record + 52, message->recipients);
    put32(record + 56, (uint32_t)message->origin_length);
    put32(record + 60, (uint32_t)message->sender_length);
    put32(record + 64, (uint32_t)message->addresses_length);
    put32(record + 68, (uint32_t)message->content_length);
    put64(record + 72, message->ends);
    put64(record + 80, message->serves);
    put32(record + 88, message->serves_index);
    at = put_bytes(at, message->origin, message->origin_length);
    at = put_bytes(at, message->sender, message->sender_length);
    at = put_bytes(at, message->addresses, message->addresses_length);
    put_bytes(at, message->content, message->content_length);
}

static uint32_t run_at(const uint32_t *indexes, uint32_t count, uint32_t from)
{
    uint32_t to = from + 1;

    while (to < count && indexes[to] == indexes[to - 1] + 1)
        to++;
    return to - from;
}

uint32_t runs_length(const uint32_t *indexes, uint32_t count)
{
    uint32_t length = 0;

    for (uint32_t at = 0; at < count; at += run_at(indexes, count, at))
        length += 8;
    return length;
}

void runs_fill(uint8_t *at, const uint32_t *indexes, uint32_t count)
{
    for (uint32_t from = 0; from < count; at += 8) {
        uint32_t run = run_at(indexes, count, from);
        put32(at, indexes[from]);
        put32(at + 4, run);
        from += run;
    }
}

static uint32_t head_checksum(const uint8_t *head)
{
    return crc32c(crc32c(0, head, 12), head + 16, SEGMENT_HEAD - 16);
}

void segment_head_fill(uint8_t *head, const struct segment *segment)
{
    memset(head, 0, SEGMENT_HEAD);
    memcpy(head, "qmaildsg", 8);
    put32(head + 8, FORMAT_VERSION);
    put64(head + 16, segment->generation);
    put64(head + 24, segment->stamp);
    put64(head + 32, segment->size);
    put64(head + 40, segment->previous);
    put64(head + 48, segment->previous_end);
    put64(head + 56, segment->oldest);
    put64(head + 64, segment->next_number);
    put32(head + 12, head_checksum(head));
}

int segment_head_take(const uint8_t *head, struct segment *segment)
{
    if (memcmp(head, "qmaildsg", 8) != 0 || take32(head + 12) != head_checksum(head))
        return 0;
    if (take32(head + 8) != FORMAT_VERSION)
        return Q_FORMAT;
    if (take64(head + 32) < Q_SEGMENT_MIN || take64(head + 32) > Q_SEGMENT_MAX || take64(head + 32) % 4096 ||
        take64(head + 16) == 0 || take64(head + 16) >> 62 || take64(head + 64) >> 62)
        return 0; /* 62 bits: no disk lasts that long, so these counters never wrap */
    if (take64(head + 40) >= take64(head + 16) || take64(head + 56) > take64(head + 16))
        return 0; /* nothing is behind what comes later, and no segment makes itself void */
    segment->size = take64(head + 32);
    segment->generation = take64(head + 16);
    segment->stamp = take64(head + 24);
    segment->previous = take64(head + 40);
    segment->previous_end = take64(head + 48);
    segment->oldest = take64(head + 56);
    segment->next_number = take64(head + 64);
    return 1;
}
