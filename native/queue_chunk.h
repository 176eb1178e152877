/* What the files that write and read checkpoints share. queue.h has the format. */
#ifndef QMAILD_QUEUE_CHUNK_H
#define QMAILD_QUEUE_CHUNK_H

#include "queue_internal.h"

#define CHECKPOINT_VERSION 1u
#define CHECKPOINT_HEAD 72u
#define CHUNK_MAGIC 0x31434d51u
#define CHUNK_HEAD 32u
#define CHUNK_LAST 16u /* what the last chunk says */

/* Chunks of a checkpoint; what a run of recipients is there: one of these, or the group of the message so much above. */
enum { CHUNK_MESSAGES = 1, CHUNK_END = 2 };
enum { CHECKPOINT_FRESH = 0, CHECKPOINT_DONE = 1, CHECKPOINT_FAILED = 2, CHECKPOINT_GROUPS = 3 };

/* queue_chunk_put.c: to q->checkpoint.bytes */

/* The head, from q->taken and what was made durable. Errors: Q_MEMORY. */
int chunk_head_put(struct queue *q);
/* A chunk of messages, behind what is there, and room for the last chunk. 1: these were the last messages. 0: there are more.
   Or Q_MEMORY. */
int chunk_messages_put(struct queue *q);
/* The last chunk. Before: chunk_messages_put has made room for it. */
void chunk_end_put(struct checkpoint *making);

/* queue_chunk_take.c */

enum { FITS = 1, UNFIT = 0 }; /* or Q_MEMORY */

/* A checkpoint being read. */
struct restoring {
    struct queue *q;
    struct position from;
    const struct segment **segments; /* of the log, by generation */
    struct numbers lanes;            /* the index's lane for each of the checkpoint's */
    size_t segment_count;
    uint64_t stamp, size, oldest, next_number, messages, last; /* last: the number of the last message taken */
    uint8_t *bytes;
    size_t room;
    int fd;
};

/* The segment of the log that has this generation, or NULL. */
const struct segment *segment_of(const struct restoring *r, uint64_t generation);
/* Into the index: what a chunk of messages says, from `at` to `end`. */
int chunk_messages_take(struct restoring *r, const uint8_t *at, const uint8_t *end);

#endif
