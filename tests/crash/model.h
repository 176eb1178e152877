/* What the crash tests share: a client of the core that remembers what it was promised. */
#ifndef CRASH_MODEL_H
#define CRASH_MODEL_H

#include "disk.h"

#define SEGMENT (64u << 10)
#define ENTRIES 400
#define HEAD 32u /* of a content: what it is */

extern struct disk *disk;
extern struct queue *q; /* NULL while it is closed */
extern const char *doing;

/* Say which promise was broken, about which message, and abort. */
void broken(const char *what, uint32_t id, uint64_t detail);
void start_over(uint64_t workload_seed, uint64_t disk_seed);
void run_workload(void);
void step(uint32_t number);
void settle(void);
int open_queue(void);
void let_go(void);
void forget_tickets(void);
void forget_numbers(void);
void expect_all(void);
/* Look at every message and hold it against the promises. */
void check(void);
/* Deliver everything, and see that nothing is left. */
void drain(void);
/* The message's content is whole; the answer is its id. */
uint32_t content_check(const uint8_t *content, uint32_t length);

#endif
