/* A disk that forgets: what was not synced may be lost, kept or torn when the power goes, sector by sector and name by name. */
#ifndef CRASH_DISK_H
#define CRASH_DISK_H

#include "queue.h"

#define SECTOR 512u

enum disk_loss { LOST, KEPT, TORN };

struct disk;

struct disk *disk_new(uint64_t seed);
void disk_free(struct disk *disk);
struct queue_system disk_system(struct disk *disk);

/* From call `at` on (1 is the next one) the machine is dead: that call and all later ones do nothing. 0: never. */
void disk_crash_at(struct disk *disk, uint64_t at);
/* Call `at` fails with `error` (an errno) and, if `lasting`, all later writes, syncs and reservations do too. */
void disk_fail_at(struct disk *disk, uint64_t at, int error, int lasting);
int disk_is_dead(const struct disk *disk);
/* The call that was to fail has failed. */
int disk_has_failed(const struct disk *disk);
uint64_t disk_calls(const struct disk *disk);
/* The machine is up again: what was not durable meets its fate, nothing is open. */
void disk_restart(struct disk *disk, enum disk_loss loss);
/* The process is gone, the machine is not: the cache stays, unsynced as it is. */
void disk_kill(struct disk *disk);

/* The same disk once more, nothing open on it. */
struct disk *disk_clone(const struct disk *disk);
/* Somebody takes this file away. 0 if there is none. */
int disk_remove(struct disk *disk, const char *path);

/* For damage: the bytes of the `which`-th file in `directory` (or of the one whose path that is), NULL past the last. */
uint8_t *disk_bytes(struct disk *disk, const char *directory, size_t which, uint64_t **size);
uint64_t disk_random(struct disk *disk, uint64_t below);

#endif
