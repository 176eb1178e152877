/* The queue core: messages, their recipients' states and their due times, durable in an append-only log.

   It knows no policy, no address syntax and no clock: times are microseconds since the epoch, handed in.
   One thread (the owner) calls everything here. Two threads of the core's own do what may wait for the disk:
   the committer (writes and syncs the log) and the preparer (makes segments, syncs large files).

   INVARIANTS
   I1  A commit is reported durable only after fdatasync of its segment has succeeded. Nothing is promised before.
   I2  A record is written in one piece, into one segment. What one record says is one fact: a message with `ends`
       is there and the message it ends is gone, or neither; a message with `serves` likewise with the recipient.
   I3  The log has one order: segments by generation, records by offset. A fact about a message stands after its
       message record. Segments are released oldest first. So a fact whose message is not found is about a
       message that has ended, and is ignored.
   I4  Every record carries its segment's generation and stamp (random, drawn when the segment is taken into use).
       Bytes of an earlier use never match, and no message body can imitate a record.
   I5  A segment's header is durable before its first record is written. It says where the previous generation ends;
       what stands behind that, and any generation between the two, is void for good.
   I6  A sync that failed is final: its segment gets no further record, its end is the last durable byte (I5), its
       tickets fail, its new messages are dropped, its facts about other messages are appended again ahead of
       everything that waits, and the messages in it are copied forward. Facts in it that were durable before stay so.
   I7  A segment is written over or unlinked only after the statement "generations below T are void" (header or
       OLDEST record) that covers it is durable.
   I8  A copy of a message is its record, then its facts, again, under the same number. On replay a copy moves the
       message and keeps the states that are known; facts can be said twice without harm. A copy in the last batch (I18) may
       lack its facts: an open takes it out, if the message stands elsewhere.
   I9  A message with a pending `ends` or `serves` about it is not copied until that commit is decided.
   I10 The number of a durable message is never given again, nor any twice in one run: headers carry the next number,
       and replay goes past every number it sees. (One whose record a crash took was never promised.)
   I11 A large message's own file and its directory entry are durable before the record that names it is appended;
       the file is unlinked only after the end of the message is durable. Files no record names go at open.
   I12 Sizes read from disk are hostile: each is checked against what surrounds it before it is used.
   I13 A bad record costs only itself: replay goes on at the next record that is whole. The tail is where none follows. Bad
       records of the last batch are a torn write, and counted as that (I18); an open writes the head of an END of nothing over
       them, for the next batch will say that all before it was durable.
   I14 A recipient that is done or failed stays so. A message whose recipients are all done and that has no notes has
       ended, with or without an END record.
   I15 A refused or failed call leaves no trace, in memory or on disk.
   I16 (Large files and checkpoints aside.) Disk use stays within twice the living bytes plus two segments, once the copying
       that this needs is done, and then the store rests. Living are the bytes that a copy of all messages takes: their records,
       deferrals and notes. A checkpoint takes at most half the living bytes (or 256 KiB), and twice that while the next is made.
   I17 A checkpoint only saves reading. It is the index as it was while the log grew from P to E. It is begun when all before P
       is durable and taken in and no facts are on their way again (I6). It holds no message that is not durable. It gets its name
       only when everything appended before its last byte was made is durable, none of that having failed. So it says nothing
       that the log up to E does not, and leaves out nothing that stands before P. Replaying the log from P over it gives what
       the whole log gives: a fact that it holds already changes nothing (I8, I14); a deferral that it is ahead of is followed by
       the one it holds; a message that it lacks has ended (or its record or its file was lost), and what the log behind P brings
       back of that, the log behind P ends again (I3, I9). A message placed at or behind P, or in a segment that has gone, is only
       believed when the log behind P has told its place. A checkpoint that is not whole, not of this log, or followed by a log
       that is damaged leaves no trace: the whole log is replayed. (Of due times it keeps what no record tells too: that a retry
       was asked for, that what could not be read was put off. Nothing else in memory is untold.)

   I18 A sync that failed may leave bytes in the cache that no later sync writes, and who reads them there cannot tell. So the
       first record of a batch says that all before it in its segment is durable, and an open writes again and syncs what
       it has read behind the last such record of a segment whose end no later header tells, and that segment's header,
       before it tells or frees anything.

   FILES   DIR/format        "qmaild queue 1\n"
           DIR/lock          flock'ed by the one process that has the store open
           DIR/segments/NAME eight hex digits; all of one size, written through before use
           DIR/large/NUMBER  sixteen hex digits; the body of a large message
           DIR/checkpoint    may be missing; checkpoint.new while it is made

   SEGMENT HEADER   96 bytes at offset 0, again at size - 4096; integers little-endian here and below
       0  u64 "qmaildsg"     8 u32 version = 1      12 u32 CRC32C of 0..11 and 16..95
      16  u64 generation    24 u64 stamp            32 u64 segment size
      40  u64 previous generation (0: none)         48 u64 where the previous generation ends
      56  u64 oldest: generations below are void    64 u64 next message number    72 zero
   Records stand from offset 4096 to size - 4096, each at a multiple of 8.

   RECORD           40 bytes, then the body, then zeros up to a multiple of 8
       0  u32 0x31524d51     4 u32 CRC32C of bytes 8..length-1
       8  u64 generation    16 u64 stamp            24 u64 message number
      32  u32 length, all of it                     36 u16 type     38 u16 marks (1 copy, 2 large, 4 I18)
   MESSAGE 1   40 i64 birth, 48 u32 flags, 52 u32 recipients, 56 u32 length of origin, 60 of sender, 64 of recipients,
               68 u32 of content, 72 u64 ends, 80 u64 serves number, 88 u32 serves index, 92 u32 0,
               96 u64 bytes in its own file (0: none); 104 origin, sender, recipients (u16 length, bytes), content
   DONE    2   runs of recipients: (u32 first, u32 count)...
   FAIL    3   u32 index, u32 length of note, note
   DEFER   4   i64 due, u32 length of lane, lane, runs
   END     5   nothing; marks: 2 if the message has a file of its own
   OLDEST  6   nothing; the number is T: generations below T are void

   CHECKPOINT       72 bytes, then chunks, the last of them kind 2
       0  u64 "qmaildcp"     8 u32 version = 1      12 u32 CRC32C of 0..11 and 16..71
      16  u64 its stamp     24 u64 P: generation    32 u64 stamp           40 u64 offset
      48  u64 oldest        56 u64 next message number                     64 zero
   CHUNK            32 bytes, then what it says
       0  u32 0x31434d51     4 u32 CRC32C of bytes 8..length-1              8 u64 the checkpoint's stamp
      16  u64 where it stands in the file          24 u32 length, all of it                  28 u32 kind
   Kind 2: u64 messages, u64 lanes. Kind 1: messages. N is a number of seven bits a byte, lowest first, all but the last with bit 7:
   N number less the one before, N bytes in its own file, N generation, N offset / 8, N length / 8, N recipients;
   runs until all recipients are said: N (0 new, 1 done, 2 failed, 3 + group), N how many; groups count up in each message, and
   after a new one's N stand N lane, i64 due; lanes count up in the file, and after a new one's N stand N length, name; then
   a note for each that failed: N index, N length, text.                                                           */
#ifndef QMAILD_QUEUE_H
#define QMAILD_QUEUE_H

#include <stddef.h>
#include <stdint.h>

/* What a call answers: Q_OK, or why not. The text of the last failure is queue_error(). */
enum {
    Q_OK = 0,
    Q_OWNER = -1,   /* the directory belongs to someone else */
    Q_FORMAT = -2,  /* the directory is not a queue of this version */
    Q_LOCKED = -3,  /* another process has it open */
    Q_IO = -4,      /* the disk failed */
    Q_SPACE = -5,   /* the disk is full; again later */
    Q_UNKNOWN = -6, /* no such message, recipient or staged file */
    Q_STATE = -7,   /* the message or recipient is not in a state that allows it */
    Q_LIMIT = -8,   /* larger than a record can be */
    Q_MEMORY = -9,
    Q_DAMAGED = -10 /* a record that was good has become unreadable */
};

#define Q_SEGMENT_MIN (64u << 10)
#define Q_SEGMENT_MAX (1u << 30) /* offsets are 32 bits; a gigabyte leaves room to spare */
#define Q_RECIPIENTS_MAX 100000u
#define Q_NOTE_MAX 4096u  /* notes stay in memory until the bounce is made */
#define Q_LANE_MAX 1024u  /* channel + domain */

/* Every system call on the store's files. Each answers >= 0, or minus errno. `context` is the first argument of all. */
struct queue_system {
    void *context;
    int (*open)(void *, const char *path, int flags, unsigned mode);
    int (*close)(void *, int fd);
    int64_t (*read)(void *, int fd, void *bytes, size_t length, uint64_t offset);
    int64_t (*write)(void *, int fd, const void *bytes, size_t length, uint64_t offset);
    int (*sync_data)(void *, int fd);                /* fdatasync */
    int (*sync)(void *, int fd);                     /* fsync; a directory too */
    int (*push)(void *, int fd);                     /* begin to write it out and wait for nothing; NULL: cannot */
    int (*reserve)(void *, int fd, uint64_t length); /* fallocate from 0 */
    int (*unlink)(void *, const char *path);
    int (*rename)(void *, const char *from, const char *to);
    int (*mkdir)(void *, const char *path, unsigned mode);
    int (*size)(void *, int fd, uint64_t *bytes);
    int (*owned)(void *, const char *path); /* 1 our own directory, 0 someone else's or not a directory */
    int (*lock)(void *, int fd);            /* flock, exclusive, without waiting */
    int (*list)(void *, const char *path, void (*each)(void *, const char *name), void *argument);
    int (*random)(void *, void *bytes, size_t length);
};
extern const struct queue_system queue_linux;

struct queue_options {
    uint64_t segment_bytes; /* Q_SEGMENT_MIN..Q_SEGMENT_MAX, multiple of 4096; segments on disk keep theirs */
    int create;             /* make the directory if it is not there */
    int threads;            /* 0: no threads; queue_step() does their work (for the crash simulator) */
    uint64_t checkpoint_bytes; /* log written between two checkpoints; 0: as the last one's size makes sense */
    uint32_t checkpoint_slice; /* messages written down in one queue_collect; 0: about a millisecond's worth */
};

struct queue;

/* Open the store at `directory` (system NULL: queue_linux), replaying its segments; a checkpoint that fits saves reading
   most of them. After: *out is the store, everything durable is known, recipients that were out are due. Errors: Q_OWNER,
   Q_FORMAT, Q_LOCKED, Q_IO, Q_SPACE, Q_MEMORY, Q_LIMIT; then *out is NULL and `text` says what and where. Keeps I5, I10..I14,
   I17. */
int queue_open(struct queue **out, const char *directory, const struct queue_options *options,
               const struct queue_system *system, char *text, size_t text_room);
/* Commit what is appended, wait until that is decided, make a checkpoint if it is worth it, let go of everything. Never fails;
   what could not be made durable is as after a crash. */
void queue_close(struct queue *q);
/* Readable while queue_collect has something to say. */
int queue_eventfd(struct queue *q);
const char *queue_error(struct queue *q);
/* Without threads: do all that the threads would do now. */
void queue_step(struct queue *q);

/* APPENDING. Buffered in memory; nothing is promised until the commit that carries it is durable. None of them waits. */

struct queue_message {
    int64_t birth;
    uint32_t flags;
    uint32_t recipients;
    const void *origin, *sender, *addresses, *content; /* addresses: u16 length and bytes, for each recipient */
    size_t origin_length, sender_length, addresses_length, content_length;
    uint64_t ends;          /* 0: none */
    uint64_t serves;        /* 0: none */
    uint32_t serves_index;
    uint64_t staged;        /* 0: content is all of it; else a staged file whose sync has succeeded */
};
/* Before: ends is a living message that nothing else is ending; serves names an undone recipient nothing else serves.
   After: *number is the new message's (that of the staged file if there is one); it is due once durable.
   Errors: Q_SPACE (I16's room for marks is kept free), Q_IO (no segment can be made), Q_LIMIT, Q_UNKNOWN, Q_STATE,
   Q_MEMORY. Keeps I2, I10, I11, I15. */
int queue_add(struct queue *q, const struct queue_message *message, uint64_t *number);
/* These recipients are served. Those already done or failed are passed over. The last one ends the message, if it
   has no notes. Errors: Q_UNKNOWN (message, or any index out of range), Q_LIMIT, Q_MEMORY. Keeps I14, I15. */
int queue_done(struct queue *q, uint64_t number, const uint32_t *indexes, uint32_t count);
/* This recipient failed for good; the note (cut at Q_NOTE_MAX) is for the bounce. After the last undone recipient the
   message is due as "finish". Errors: Q_UNKNOWN, Q_MEMORY. */
int queue_fail(struct queue *q, uint64_t number, uint32_t index, const void *note, size_t length);
/* These recipients wait in `lane` until `due`. Errors: Q_UNKNOWN, Q_LIMIT (lane too long), Q_MEMORY. */
int queue_defer(struct queue *q, uint64_t number, const void *lane, size_t lane_length, int64_t due,
                const uint32_t *indexes, uint32_t count);
/* The message is over, whatever its recipients' states. Errors: Q_UNKNOWN, Q_MEMORY. */
int queue_end(struct queue *q, uint64_t number);
/* Hand what is appended to the committer. The answer is the ticket of the last record appended so far; if that is decided
   already, the eventfd says so once more. Never fails. */
uint64_t queue_commit(struct queue *q);

/* Take in what the threads have decided, then do some copying, releasing and writing down (I17). Resets the eventfd.
   After: *durable is the highest ticket decided (all up to it are durable but the failed ones); the arrays, valid until the next
   call, list failed tickets and staged files whose sync succeeded or failed. Errors: Q_MEMORY (call again). Keeps I1, I6..I9. */
struct queue_collected {
    uint64_t durable;
    const uint64_t *failed, *staged, *staged_failed;
    size_t failed_count, staged_count, staged_failed_count;
};
int queue_collect(struct queue *q, struct queue_collected *out);

/* READING AND DUE ORDER */

enum { QUEUE_ATTEMPT = 1, QUEUE_FINISH = 2 };
struct queue_part {
    uint32_t index;
    uint32_t offset, length; /* of the address, in queue_job.record */
    uint32_t state;          /* Q_NEW.. */
    uint32_t lane_length;
    const void *lane, *note; /* or NULL */
    uint32_t note_length;
    int64_t due;
};
enum { Q_NEW = 0, Q_WAITING = 1, Q_OUT = 2, Q_DONE = 3, Q_FAILED = 4 };
struct queue_job {
    uint64_t number;
    int64_t birth;
    uint32_t flags, kind;
    const uint8_t *record; /* valid until the next call */
    uint32_t record_length, origin_offset, origin_length, sender_offset, sender_length, content_offset, content_length;
    uint64_t large;        /* bytes in its own file, 0 if content is all */
    uint32_t undone;       /* recipients neither done nor failed, whatever the parts are */
    const struct queue_part *parts;
    uint32_t part_count;
};
/* Two classes fall due, each by itself, so that neither waits behind the other.
   QUEUE_FRESH: messages with recipients that were never deferred, and messages to finish; by due time, then by number.
   QUEUE_RETRY: what waits in lanes. Lanes with something due take turns: one message each, its earliest. A lane with
   its limit of messages out waits until one of them comes back, and holds up nobody. */
enum { QUEUE_FRESH = 1, QUEUE_RETRY = 2 };
/* The next message of this class: all its recipients due at `now`, of either class, become out, but for those in lanes with
   their limit out. (Of a message with a hundred recipients or more, those too that are due within a millisecond for
   each: it is not read once for every lane.) 1: *job is it. 0: nothing is due. A message that cannot be read is put off by five minutes and
   counted as damaged. Errors: Q_MEMORY. */
int queue_due(struct queue *q, int64_t now, int which, struct queue_job *job);
/* 1: *due is the earliest due time in this class (0 or less: now). 0: nothing waits, or only behind a limit. */
int queue_next_due(struct queue *q, int which, int64_t *due);
/* No lane has more than so many messages out (0: any number). Those out already stay out. */
void queue_limit(struct queue *q, uint32_t per_lane);
/* What is out of this message is due again now. Errors: Q_UNKNOWN. */
int queue_give_back(struct queue *q, uint64_t number);
/* What waits of this message is due now. Errors: Q_UNKNOWN. */
int queue_retry(struct queue *q, uint64_t number);
/* What waits of these recipients is due now, with those deferred together with them. Errors: Q_UNKNOWN (message, or any
   index out of range). */
int queue_retry_some(struct queue *q, uint64_t number, const uint32_t *indexes, uint32_t count);
/* The whole message with every recipient's state, as a job of kind 0. Errors: Q_UNKNOWN, Q_STATE (not durable
   yet), Q_DAMAGED, Q_IO, Q_MEMORY. */
int queue_show(struct queue *q, uint64_t number, struct queue_job *job);
/* The same with recipients from index `first` on only, `most` of them. */
int queue_show_some(struct queue *q, uint64_t number, uint32_t first, uint32_t most, struct queue_job *job);
/* As queue_show, with the first `most` undone recipients only. */
int queue_glance(struct queue *q, uint64_t number, uint32_t most, struct queue_job *job);
/* A descriptor of a large message's own file, the caller's to close. Errors: Q_UNKNOWN, Q_STATE (has none), Q_IO. */
int queue_open_large(struct queue *q, uint64_t number);
/* 1 if this recipient is out, 0 if not (or unknown). */
int queue_is_out(struct queue *q, uint64_t number, uint32_t index);
/* Up to `limit` durable message numbers above `after`, ascending; the answer is how many. */
size_t queue_list(struct queue *q, uint64_t after, uint64_t *numbers, size_t limit);

/* Which undone recipients are meant: those in the lanes `meant`; of those in the lanes `asked`, and of the new ones,
   those whose address ends with `suffix` (letters' case aside). Lanes: u16 length and bytes, for each. */
struct queue_search {
    const void *meant, *asked, *suffix;
    size_t meant_length, asked_length, suffix_length;
};
/* Up to `limit` durable message numbers above *after, ascending, that have a recipient who is meant (search NULL: all
   messages); the answer is how many. It stops earlier after `work`, which counts recipients looked at; reading a record costs
   more of it. After: *after is where to go on, 0 if that was the end. */
size_t queue_find(struct queue *q, const struct queue_search *search, uint64_t *after, uint64_t *numbers, size_t limit,
                  uint64_t work);
/* As queue_show, with the recipients who are meant only. */
int queue_match(struct queue *q, uint64_t number, const struct queue_search *search, struct queue_job *job);

struct queue_counts {
    uint64_t messages, fresh, waiting, out; /* messages; recipients never planned, waiting, out */
    uint64_t living, disk, segments;        /* bytes, bytes, files */
    uint64_t damaged, torn;                 /* records (or segments) skipped; tails cut */
    uint64_t pending;                       /* bytes appended and not yet decided */
    uint64_t index_bytes;                   /* memory of the index */
    uint64_t replayed;                      /* bytes of log read at open */
    uint64_t checkpoint;                    /* bytes of the checkpoint, 0 if there is none */
    uint64_t checkpoints_made, checkpoints_refused; /* since open; at open, because it did not fit the log */
};
void queue_counts(struct queue *q, struct queue_counts *out);

/* LARGE MESSAGES. A staged file is written from front to back, synced (on the preparer), then named by queue_add. */

/* After: *number is the file's and will be the message's. Errors: Q_IO, Q_SPACE, Q_MEMORY. */
int queue_stage(struct queue *q, uint64_t *number);
/* Errors: Q_UNKNOWN, Q_STATE (sync was asked for), Q_IO, Q_SPACE; the file is then good for abort only. */
int queue_stage_write(struct queue *q, uint64_t number, const void *bytes, size_t length);
/* The outcome comes by queue_collect. Errors: Q_UNKNOWN, Q_STATE (asked before). */
int queue_stage_sync(struct queue *q, uint64_t number);
/* A read-only descriptor of a staged file, the caller's to close. Errors: Q_UNKNOWN, Q_IO. */
int queue_stage_open(struct queue *q, uint64_t number);
/* Forget it. Errors: Q_UNKNOWN. */
int queue_stage_abort(struct queue *q, uint64_t number);

#endif
