/* The crash model's disk, where it is a real one: files below a root, and a memory that outlives the machine. */
#ifndef POWER_REAL_H
#define POWER_REAL_H

#include <stddef.h>

/* Ways to break the core, to see that a test finds it: which of its syncs do nothing. */
enum weakness { SOUND, NO_DATA_SYNC, NO_SYNC, NO_DIRECTORY_SYNC };

/* Before start_over: where the model's paths begin, and what is left out. */
void real_root(const char *path, enum weakness weakness);

/* The marks: facts in the order they were told, in 512-byte blocks of a file or a raw device. The answer of both
   is how many blocks are there. marks_replay recalls the first `most` of them and counts what was known to be durable. */
size_t marks_replay(const char *path, size_t most, size_t *sure);
/* From here on, each fact told is on the device before any later byte of the store is. */
void marks_keep(const char *path, size_t after);
/* Write down what was told since. */
void marks_flush(void);

#endif
