/* What the files of the queue core share. queue.h is the contract; this is the furniture. */
#ifndef QMAILD_QUEUE_INTERNAL_H
#define QMAILD_QUEUE_INTERNAL_H

#include "queue_record.h"

#include <pthread.h>
#include <stdarg.h>

#define BLOCK_FULL (1u << 20) /* a block this long is handed over by itself, so that writing overlaps appending */
#define COPY_SLICE (256u << 10) /* copied forward between two looks at the event loop */
#define READ_RETRY (300 * INT64_C(1000000)) /* an unreadable message is tried again after five minutes */
#define MANY 100u /* recipients; a message with so many is handed out with what is due */
#define MANY_EARLY INT64_C(1000) /* a millisecond early for each of them */
#define DUE_NOW INT64_MIN      /* never planned: before everything */
#define DUE_RETRY (INT64_MIN + 1)
#define NONE UINT32_MAX
#define SLOT_DONE (UINT32_MAX - 1) /* a recipient's slot is its group, or one of these */
#define SLOT_FAILED (UINT32_MAX - 2)
#define GROUPS_MAX (UINT32_MAX - 8)
#define NOT_IN_HEAP UINT32_MAX
#define PATH_ROOM 4200

struct segment {
    struct segment *next; /* in the log, oldest first; or among the void ones */
    struct message *first, *last; /* what lives here; the owner's */
    uint64_t generation, stamp, size, previous, previous_end, oldest, next_number;
    uint64_t used;        /* where the next record goes; under the lock */
    uint64_t there;       /* at open: how long the file is, whatever its header says */
    uint64_t limit;       /* where replay stops: size - SEGMENT_TAIL, or what a later header says */
    uint32_t name, undecided; /* blocks written and not yet collected; under the lock */
    int fd;
    uint8_t bad;          /* a sync failed here (I6) */
    uint8_t closed;       /* no further record: a later header may say where this one ends */
    uint8_t intact;       /* a header was readable */
    uint8_t told;         /* at open: a later header says where this one ends */
};

struct note {
    struct note *next;
    uint32_t index, length;
    uint32_t so_far; /* the length of this note and all before it */
    uint32_t finish; /* of the newest note: the group that stands for "finish", or NONE */
    uint8_t text[];
};

struct message {
    uint64_t number;
    struct message *before, *after; /* in the segment it lives in */
    struct segment *segment; /* NULL: not durable yet */
    struct note *notes;      /* newest first */
    uint64_t large;
    uint32_t offset, length, count, undone;
    uint16_t busy;     /* pending commits that speak of this message (I9) */
    uint8_t flags;     /* COPYING, ENDING, UNREADABLE */
    uint32_t slots[];  /* for each recipient */
};
enum { COPYING = 1, ENDING = 2, UNREADABLE = 4 };

/* Recipients of one message in one lane with one due time. */
struct group {
    struct message *message; /* NULL: free, and `count` links to the next free one */
    int64_t due;
    uint32_t lane;               /* NONE: never planned, or the message's finish */
    uint32_t count, place;       /* place in its lane's heap, NOT_IN_HEAP while out */
    uint8_t fresh;               /* never planned */
    uint8_t copied;              /* already restated by the copy being made */
};

struct heap {
    uint32_t *at, used, room;
};

enum lane_stand { RESTING, IN_TURN, ASLEEP };
struct lane {
    uint8_t *name;          /* NULL: free */
    struct heap heap;       /* the groups that wait */
    uint32_t groups;        /* that wait or are out */
    uint32_t length, next;  /* next in its bucket or among the free */
    uint32_t before, after; /* its neighbours in turn */
    uint32_t place;         /* among the sleepers */
    uint8_t stand;          /* lane_stand */
    uint8_t mark;           /* during a search: what it means */
    uint32_t turn, written; /* in that turn's checkpoint it is lane number `written` */
};

/* A place in the order of numbers; any message made or dropped makes it void. */
struct place {
    size_t shelf;
    uint32_t at;
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

/* A place in the log, and all that stands before it. */
struct position {
    uint64_t generation, stamp, offset;
};

/* At open, before a checkpoint was tried. */
struct before {
    uint64_t oldest, next_number, damaged, torn;
};

/* The checkpoint being made, and what is known of the last one (I17). */
struct checkpoint {
    /* the owner's */
    enum { CHECKPOINT_NONE, CHECKPOINT_FILLING, CHECKPOINT_SETTLING, CHECKPOINT_NAMING } phase;
    int unfit;                 /* the one being made gets no name */
    uint32_t turn, lanes;      /* lanes that have `turn` are written, this many */
    uint64_t stamp, messages, length;
    uint64_t after, end;       /* messages up to `after` are written down; those from `end` on are none of its own */
    uint64_t ticket;           /* when it is decided, all that was written down is durable */
    uint64_t grown;            /* bytes of log since the place the last one starts at */
    uint64_t grown_before;     /* of those, before the place this one starts at */
    uint64_t next_at;          /* the next one is due when this much has grown */
    uint64_t size;             /* of the one there is, 0 if there is none */
    uint64_t made, refused, replayed; /* replayed: bytes of log read at open */
    struct before before;
    uint8_t *bytes;            /* a chunk; the preparer's while there is a job */
    size_t used, room;
    /* the preparer's while there is a job */
    uint64_t written, synced;
    int fd;
    /* shared: under the lock */
    enum { NO_JOB, JOB_WRITE, JOB_NAME, JOB_DROP, JOB_REMOVE } job;
    int error;
};

struct queue {
    struct queue_system system;
    struct queue_options options;
    char directory[PATH_ROOM - 64];
    char error[512];
    int lock_fd, directory_fd, segments_fd, large_fd, event_fd;

    /* the index: the owner's */
    struct shelved *shelves;
    size_t shelf_count, shelf_room;
    uint64_t message_count, index_bytes;
    struct group *groups;
    uint32_t group_room, group_used, group_free;
    struct heap unplanned; /* groups of no lane that wait */
    struct lane *lanes;
    uint32_t *lane_buckets, *asleep;
    uint32_t lane_room, lane_used, lane_free, lane_bucket_count, lane_limit, lane_seed;
    uint32_t asleep_used, turn_first, turn_last;
    int64_t woken;
    uint64_t fresh, waiting, out, unborn, living, large_living, damaged, torn; /* unborn: recipients not durable yet */
    struct serving *servings;
    size_t serving_count, serving_room;
    struct position taken;    /* the end of what is durable and taken in */
    uint32_t again;           /* blocks of facts that are on their way once more (I6) */
    struct checkpoint checkpoint;
    struct segment limbo;     /* at open: messages of the checkpoint whose place the log has yet to tell */
    struct segment *released; /* void, but not yet durably so (I7, I18) */
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

/* queue_index.c: messages by number and by segment */
int index_start(struct queue *q);
void index_stop(struct queue *q);
struct message *index_find(struct queue *q, uint64_t number);
struct message *index_new(struct queue *q, uint64_t number, const struct message_view *view);
void index_drop(struct queue *q, struct message *message);
struct message *index_next(struct queue *q, uint64_t after); /* the first above `after`, or NULL */
struct place index_after(const struct queue *q, uint64_t number);
struct message *index_step(const struct queue *q, struct place *place); /* what stands there, and go on; NULL: the end */
void message_place(struct queue *q, struct message *message, struct segment *segment, uint32_t offset, uint32_t length);
void message_unplace(struct queue *q, struct message *message);

/* queue_groups.c: groups of recipients, and heaps of them: by due time, then by number (first come, first served) */
static inline int group_before(const struct queue *q, uint32_t left, uint32_t right)
{
    const struct group *one = &q->groups[left], *two = &q->groups[right];

    if (one->due != two->due)
        return one->due < two->due;
    return one->message->number < two->message->number;
}
int heap_widen(struct queue *q, struct heap *heap, uint32_t room);
int index_room(struct queue *q); /* room for one more group, or Q_MEMORY */
uint32_t group_new(struct queue *q, struct message *message, uint32_t lane, int64_t due);
void group_wait(struct queue *q, uint32_t group, int64_t due);
void group_take_out(struct queue *q, uint32_t group);
void group_free(struct queue *q, uint32_t group);
int group_is_ready(const struct queue *q, uint32_t group, int64_t now); /* it is due, and its lane may hand it out */

/* queue_turns.c: whose turn it is */
int lane_is_full(const struct queue *q, const struct lane *lane);
void lane_stands(struct queue *q, uint32_t lane);
uint32_t fresh_first(const struct queue *q, int64_t now); /* the group whose turn it is, or NONE */
uint32_t retry_first(struct queue *q, int64_t now);
void lane_had_turn(struct queue *q, uint32_t lane);

/* queue_lanes.c: lanes by name */
int lanes_start(struct queue *q);
void lanes_stop(struct queue *q);
int lane_intern(struct queue *q, const void *name, size_t length, uint32_t *lane);
int lane_room(struct queue *q, uint32_t lane);
uint32_t lane_find(struct queue *q, const void *name, size_t length);
void lane_release(struct queue *q, uint32_t lane);

/* queue_state.c: what facts do to recipients; used by appends and by replay alike */
int state_start(struct queue *q, struct message *message);
void state_settle(struct queue *q, struct message *message, uint32_t index, uint32_t slot);
int state_note(struct queue *q, struct message *message, uint32_t index, const void *note, uint32_t length);
void state_finish(struct queue *q, struct message *message);
uint32_t message_finish(const struct message *message);
int state_is_over(const struct message *message);
int state_is_undone(const struct message *message, uint32_t index);

/* queue_append.c */
void serving_forget(struct queue *q, uint64_t number, uint32_t index);

/* queue_blocks.c: records that wait for their commit */
uint8_t *append_record(struct queue *q, uint16_t type, uint16_t marks, uint64_t number, uint64_t length);
void append_push(struct queue *q);
struct block *block_take(struct queue *q, size_t room);
void block_give(struct queue *q, struct block *block);
uint64_t capacity(const struct queue *q); /* of a new segment */
uint64_t free_room(struct queue *q);      /* bytes that can still be appended without a new segment; under the lock */

/* queue_commit.c: the committer, and the threads */
int threads_start(struct queue *q);
void threads_stop(struct queue *q);
void notify(struct queue *q);

/* queue_prepare.c: the preparer */
int preparer_step(struct queue *q); /* under the lock; 1 if something was done */
void want_spare(struct queue *q, int now); /* under the lock; now: even if there is plenty of room */
void segment_path(const struct queue *q, uint32_t name, char path[PATH_ROOM]);

/* queue_collect.c, queue_copy.c */
int collect_results(struct queue *q, int *failed);
void copy_and_release(struct queue *q);
void large_unlink(struct queue *q, uint64_t number);

/* queue_directory.c, queue_segments.c: at open */
int directory_open(struct queue *q);
int segments_load(struct queue *q);
void segments_settle(struct queue *q);
void segment_discard(struct queue *q, struct segment *segment, int unlink);

/* queue_replay.c, queue_facts.c */
int replay_all(struct queue *q);
int replay_settle(struct queue *q);
int replay_record(struct queue *q, struct segment *segment, const uint8_t *record, uint64_t offset);

/* queue_checkpoint.c: making one */
void checkpoint_path(const struct queue *q, const char *suffix, char path[PATH_ROOM]);
uint64_t checkpoint_interval(const struct queue *q);
void checkpoint_turn(struct queue *q);
void checkpoint_give_up(struct queue *q);
void checkpoint_work(struct queue *q); /* under the lock; lets go of it meanwhile */
void checkpoint_last(struct queue *q);

/* queue_restore.c: beginning with one. 1: *from is where the log goes on. 0: there is none that fits. Or Q_MEMORY. */
int restore_begin(struct queue *q, struct position *from);
int restore_holds(struct queue *q);
int restore_undo(struct queue *q);

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
struct message *find_durable(struct queue *q, uint64_t number); /* or NULL, and the error says why */
int parts_need(struct queue *q, uint32_t count);
void job_fill(struct queue *q, const struct message *message, const struct message_view *view, struct queue_job *job);
void part_fill(struct queue *q, const struct message *message, uint32_t index, const uint8_t *address, uint32_t length,
               struct queue_part *part);

/* queue_open.c, queue_collect.c: what every part needs */
int buffer_need(struct queue *q, size_t length);
int numbers_add(struct numbers *numbers, uint64_t number);
__attribute__((format(printf, 3, 4))) int fail_with(struct queue *q, int code, const char *format, ...);
int io_failure(struct queue *q, int error, const char *path);
int code_of(int error); /* Q_SPACE, Q_MEMORY or Q_IO for minus errno */

#endif
