/* The bytes of records and headers, nothing else. queue.h has the format. */
#ifndef QMAILD_QUEUE_RECORD_H
#define QMAILD_QUEUE_RECORD_H

#include "queue.h"

#define RECORD_MAGIC 0x31524d51u
#define RECORD_HEAD 40u
#define MESSAGE_HEAD 104u
#define SEGMENT_START 4096u /* the header's block */
#define SEGMENT_TAIL 4096u  /* its copy's */
#define SEGMENT_HEAD 96u
#define FORMAT_VERSION 1u
#define FORMAT_TEXT "qmaild queue 1\n"

enum record_type { MESSAGE = 1, DONE = 2, FAIL = 3, DEFER = 4, END = 5, OLDEST = 6 };
enum { MARK_COPY = 1, MARK_LARGE = 2, MARK_SURE = 4 };

/* little-endian bytes */
static inline void put16(uint8_t *at, uint16_t value)
{
    at[0] = (uint8_t)value;
    at[1] = (uint8_t)(value >> 8);
}
static inline void put32(uint8_t *at, uint32_t value)
{
    put16(at, (uint16_t)value);
    put16(at + 2, (uint16_t)(value >> 16));
}
static inline void put64(uint8_t *at, uint64_t value)
{
    put32(at, (uint32_t)value);
    put32(at + 4, (uint32_t)(value >> 32));
}
static inline uint16_t take16(const uint8_t *at)
{
    return (uint16_t)(at[0] | at[1] << 8);
}
static inline uint32_t take32(const uint8_t *at)
{
    return (uint32_t)take16(at) | (uint32_t)take16(at + 2) << 16;
}
static inline uint64_t take64(const uint8_t *at)
{
    return (uint64_t)take32(at) | (uint64_t)take32(at + 4) << 32;
}

/* The length of a record with such a body. */
static inline uint64_t record_bytes(uint64_t body)
{
    return (RECORD_HEAD + body + 7) & ~UINT64_C(7);
}

struct message_view {
    int64_t birth;
    uint32_t flags, count;
    const uint8_t *origin, *sender, *addresses, *content;
    uint32_t origin_length, sender_length, addresses_length, content_length, serves_index;
    uint64_t ends, serves, large;
};
/* 1 if a whole, unharmed record of this segment stands at `at` within `room` bytes. */
int record_is_whole(const uint8_t *at, uint64_t room, uint64_t generation, uint64_t stamp);
void record_seal(uint8_t *at, uint64_t generation, uint64_t stamp);
/* 0 if the record is not a well-formed message (I12). */
int record_view(const uint8_t *record, struct message_view *view);
uint64_t message_record_length(const struct queue_message *message);
void message_record_fill(uint8_t *record, const struct queue_message *message);
/* Runs of indexes: bytes needed, then written. Order is kept; neighbours that count up share a run. */
uint32_t runs_length(const uint32_t *indexes, uint32_t count);
void runs_fill(uint8_t *at, const uint32_t *indexes, uint32_t count);
struct segment;
void segment_head_fill(uint8_t *head, const struct segment *segment);
/* 1 read, 0 not a header, Q_FORMAT another version. */
int segment_head_take(const uint8_t *head, struct segment *segment);

#endif
