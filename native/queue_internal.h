/* What the files of the queue core share. queue.h is the contract; this is the furniture. */
#ifndef QMAILD_QUEUE_INTERNAL_H
#define QMAILD_QUEUE_INTERNAL_H

#include "queue.h"

#include <pthread.h>
#include <stdarg.h>

#define RECORD_MAGIC 0x31524d51u
#define RECORD_HEAD 40u
#define MESSAGE_HEAD 104u
#define SEGMENT_START 4096u /* the header's block */
#define SEGMENT_TAIL 4096u  /* its copy's */
#define SEGMENT_HEAD 96u
#define FORMAT_VERSION 1u
#define FORMAT_TEXT "qmaild queue 1\n"
#define BLOCK_FULL (1u << 20) /* a block this long is handed over by itself, so that writing overlaps appending */
#define COPY_SLICE (256u << 10) /* copied forward between two looks at the event loop */
#define READ_RETRY (300 * INT64_C(1000000)) /* an unreadable message is tried again after five minutes */
#define DUE_NOW INT64_MIN      /* never planned: before everything */
#define DUE_RETRY (INT64_MIN + 1)
#define NONE UINT32_MAX
#define SLOT_DONE (UINT32_MAX - 1) /* a recipient's slot is its group, or one of these */
#define SLOT_FAILED (UINT32_MAX - 2)
#define GROUPS_MAX (UINT32_MAX - 8)
#define NOT_IN_HEAP UINT32_MAX
#define PATH_ROOM 4200

enum record_type { MESSAGE = 1, DONE = 2, FAIL = 3, DEFER = 4, END = 5, OLDEST = 6 };
enum { MARK_COPY = 1, MARK_LARGE = 2 };

struct segment {
    struct segment *next; /* in the log, oldest first; or among the void ones */
    struct message *first, *last; /* what lives here; the owner's */
    uint64_t generation, stamp, size, previous, previous_end, oldest, next_number;
    uint64_t used;        /* where the next record goes; under the lock */
    uint64_t limit;       /* where replay stops: size - SEGMENT_TAIL, or what a later header says */
    uint32_t name, undecided; /* blocks written and not yet collected; under the lock */
    int fd;
    uint8_t bad;          /* a sync failed here (I6) */
    uint8_t closed;       /* no further record: a later header may say where this one ends */
    uint8_t intact;       /* a header was readable */
};

struct note {
    struct note *next;
    uint32_t index, length;
    uint8_t text[];
};

struct message {
    uint64_t number;
    int64_t birth;
    struct message *chain, *before, *after;
    struct segment *segment; /* NULL: not durable yet */
    struct note *notes;
    uint64_t large;
    uint32_t offset, length, count, undone;
    uint32_t finish;   /* the group that stands for "finish", or NONE */
    uint32_t notes_length;
    uint16_t busy;     /* pending commits that speak of this message (I9) */
    uint8_t flags;     /* COPYING, ENDING, UNREADABLE */
    uint32_t slots[];  /* for each recipient */
};
enum { COPYING = 1, ENDING = 2, UNREADABLE = 4 };

/* Recipients of one message in one lane with one due time. Lane heaps can stand where the one heap is. */
struct group {
    struct message *message; /* NULL: free, and `count` links to the next free one */
    int64_t due;
    uint32_t lane, count, place; /* place in the heap, NOT_IN_HEAP while out */
    uint8_t fresh;               /* never planned */
    uint8_t copied;              /* already restated by the copy being made */
};

struct lane {
    uint8_t *name;
    uint32_t length, uses, next; /* next in its bucket or among the free */
};

struct block {
    struct block *next;
    struct segment *segment; /* where it was written */
    uint8_t *bytes;
    uint64_t ticket, offset;
    size_t used, room;
    int failed;
};

struct staged {
    struct staged *next, *next_job;
    uint64_t number, size;
    int fd, error;
    enum { WRITING, SYNCING, SYNCED, STAGE_FAILED } state;
    int aborted;
};

/* A pending commit that says: this recipient is done. */
struct serving {
    uint64_t number;
    uint32_t index;
};

struct numbers {
    uint64_t *at;
    size_t used, room;
};

struct queue {
    struct queue_system system;
    struct queue_options options;
    char directory[PATH_ROOM - 64];
    char error[512];
    int lock_fd, directory_fd, segments_fd, large_fd, event_fd;

    /* the index: the owner's */
    struct message **buckets;
    uint64_t bucket_count, message_count, index_bytes;
    struct group *groups;
    uint32_t group_room, group_used, group_free;
    uint32_t *heap;
    uint32_t heap_used, heap_room;
    struct lane *lanes;
    uint32_t *lane_buckets;
    uint32_t lane_room, lane_used, lane_free, lane_bucket_count;
    uint64_t fresh, waiting, out, unborn, living, large_living, damaged, torn; /* unborn: recipients not durable yet */
    struct serving *servings;
    size_t serving_count, serving_room;
    struct segment *released; /* void, but not yet durably so (I7) */
    struct segment *aside;    /* at open: what has no header */
    uint64_t missing;         /* at open: a generation of the log that is not there */
    struct block *filling;
    uint64_t last_ticket, decided;
    uint64_t oldest_said;
    uint8_t *buffer, *record; /* indexes; the record read last */
    size_t buffer_room, record_room;
    int whole; /* what is appended now stays in one block */
    struct queue_part *parts;
    size_t parts_room;
    struct numbers failed, staged_done, staged_failed;
    struct staged *stages;
    int copy_stuck;

    /* shared: under the lock */
    pthread_mutex_t lock;
    pthread_cond_t work, decided_some, prepare;
    struct block *queued, *results, *spare_blocks;
    struct segment *log, *active, *spare;
    uint64_t generation, next_number, oldest, oldest_durable, queued_bytes;
    uint32_t next_name, segment_count;
    struct staged *sync_jobs, *sync_results;
    int asked;     /* queued blocks may be written */
    int broken;    /* a failure waits for the owner */
    int preparing; /* the preparer is asked for a spare */
    int no_room;   /* minus errno of the last try to make a spare, or 0 */
    int waited;    /* the committer has asked for a spare and waits for the answer */
    int stopping, writing;
    pthread_t committer, preparer;
};

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

/* queue_record.c: bytes of records and headers, nothing else */
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
void segment_head_fill(uint8_t *head, const struct segment *segment);
/* 1 read, 0 not a header, Q_FORMAT another version. */
int segment_head_take(const uint8_t *head, struct segment *segment);

/* queue_index.c: messages, groups, lanes, the heap */
int index_start(struct queue *q);
void index_stop(struct queue *q);
struct message *index_find(struct queue *q, uint64_t number);
struct message *index_new(struct queue *q, uint64_t number, const struct message_view *view);
void index_drop(struct queue *q, struct message *message);
void message_place(struct queue *q, struct message *message, struct segment *segment, uint32_t offset, uint32_t length);
void message_unplace(struct queue *q, struct message *message);
uint32_t group_new(struct queue *q, struct message *message, uint32_t lane, int64_t due);
void group_wait(struct queue *q, uint32_t group, int64_t due);
void group_take_out(struct queue *q, uint32_t group);
void group_free(struct queue *q, uint32_t group);
int lane_intern(struct queue *q, const void *name, size_t length, uint32_t *lane);
uint32_t lane_find(struct queue *q, const void *name, size_t length);
int index_room(struct queue *q); /* room for one more group, or Q_MEMORY */

/* queue_state.c: what facts do to recipients; used by appends and by replay alike */
int state_start(struct queue *q, struct message *message);
void state_settle(struct queue *q, struct message *message, uint32_t index, uint32_t slot);
int state_note(struct queue *q, struct message *message, uint32_t index, const void *note, uint32_t length);
void state_finish(struct queue *q, struct message *message);
int state_is_over(const struct message *message);
int state_is_undone(const struct message *message, uint32_t index);

/* queue_append.c */
uint8_t *append_record(struct queue *q, uint16_t type, uint16_t marks, uint64_t number, uint64_t length);
void append_push(struct queue *q);
void append_end(struct queue *q, struct message *message);
struct block *block_take(struct queue *q, size_t room);
void block_give(struct queue *q, struct block *block);
uint64_t capacity(const struct queue *q); /* of a new segment */
uint64_t free_room(struct queue *q);      /* bytes that can still be appended without a new segment; under the lock */
void serving_forget(struct queue *q, uint64_t number, uint32_t index);

/* queue_commit.c: the committer, the preparer */
int threads_start(struct queue *q);
void threads_stop(struct queue *q);
void notify(struct queue *q);
void want_spare(struct queue *q, int now); /* under the lock; now: even if there is plenty of room */
void segment_path(const struct queue *q, uint32_t name, char path[PATH_ROOM]);

/* queue_collect.c, queue_copy.c */
void copy_and_release(struct queue *q);
void large_unlink(struct queue *q, uint64_t number);

/* queue_replay.c, queue_open.c */
int replay_all(struct queue *q);
int replay_settle(struct queue *q);

/* queue_large.c */
void large_path(const struct queue *q, uint64_t number, char path[PATH_ROOM]);
void large_sync_step(struct queue *q); /* under the lock; lets go of it meanwhile */
int large_collect(struct queue *q);
int large_tidy(struct queue *q);
struct staged *stage_find(struct queue *q, uint64_t number);
void stage_forget(struct queue *q, struct staged *staged);
void large_stop(struct queue *q);

/* queue_read.c */
int message_read(struct queue *q, struct message *message, struct message_view *view);

int buffer_need(struct queue *q, size_t length);
int numbers_add(struct numbers *numbers, uint64_t number);
__attribute__((format(printf, 3, 4))) int fail_with(struct queue *q, int code, const char *format, ...);
int code_of(int error); /* Q_SPACE, Q_MEMORY or Q_IO for minus errno */

#endif
