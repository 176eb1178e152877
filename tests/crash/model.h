/* What the crash tests share: a client of the core that remembers what it was promised. */
#ifndef CRASH_MODEL_H
#define CRASH_MODEL_H

#include "disk.h"

#define SEGMENT (64u << 10)
#define HEAD 32u /* of a content: what it is */
#define RECORD_HEAD 40u
#ifndef ENTRIES /* a test on a real disk sets its own sizes */
#define ENTRIES 400
#define OPS 4000
#define COUNT_MAX 4
#define LARGE_MOST 30000
#define THREADS 0
#endif

#ifndef CHECKPOINT
#define CHECKPOINT 20000 /* bytes of log between two */
#define CHECKPOINT_SLICE 3 /* messages at a time, at first */
#endif

enum kind { PLAIN, BOUNCE, FORWARD };
enum ask { NOTHING, ADD, SERVED, FAILING, ENDING };
enum known { ASKED, SURE, REFUSED };

/* Something the client has asked the store for, and what it knows of the outcome. */
struct fact {
    uint32_t ask, known, id, index, kind, about, count, length, large, unused;
    uint64_t number;
};

extern struct disk *disk;
extern struct queue *q; /* NULL while it is closed */
extern const char *doing;

/* Called, if set, when the client asks and again when it learns the outcome; a record asked for is not written before. */
extern void (*tell)(const struct fact *fact);
/* What was told, again, in the same order: after start_over, before open_queue. */
void recall(const struct fact *fact);

/* Say which promise was broken, about which message, and abort. */
void broken(const char *what, uint32_t id, uint64_t detail);
void start_over(uint64_t workload_seed, uint64_t disk_seed);
/* What follows the first call that fails. HURRY: a small message, and the power goes as soon as it is acknowledged. WAIT:
   nothing is committed any more, but what goes on by itself goes on for a while. LEAVE: a few steps more, and the queue is
   left open. */
extern enum course { GO_ON, HURRY, WAIT, LEAVE } course;
extern uint32_t checkpoint_slice;
void run_workload(void);
/* After it: all that waits is served, while messages come that are as large as a record may be. Whole segments go, several at once. */
void ebb(void);
void step(uint32_t number);
void settle(void);
int open_queue(void);
/* Open it, and see that it is what it is without its checkpoint. The answer is 1 if that served, 0 if there is none
   or it did not fit. Before: the disk is as a restart leaves it. */
int open_and_compare(void);
void let_go(void);
/* Close it and open it again: an idle exit. */
void come_and_go(void);
void forget_tickets(void);
void forget_numbers(void);
void expect_all(void);
/* Look at every message and hold it against the promises. */
void check(void);
/* The same when the store has just been opened: what it shows is promised from now on. */
void check_opened(void);
/* Deliver everything, and see that nothing is left. */
void drain(void);
/* Both, then open it once more, look again, and close it. */
void check_to_the_end(void);
/* The message's content is whole; the answer is its id. */
uint32_t content_check(const uint8_t *content, uint32_t length);

#endif
