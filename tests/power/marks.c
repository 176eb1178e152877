/* The memory of a client whose machine dies with it: facts, written around the cache as they become known. */
#include "real.h"
#include "crc32c.h"
#include "model.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BLOCK 512u
#define FACTS 10
#define MAGIC 0x6b72616du
#define TOLD 20000 /* more than are told between two writes */

struct block {
    uint32_t magic, check, sequence, count;
    struct fact facts[FACTS];
    uint8_t rest[BLOCK - 16 - FACTS * sizeof(struct fact)];
};

static struct fact told[TOLD];
static size_t told_count, sequence;
static int device = -1;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static uint32_t checksum(const struct block *block)
{
    return crc32c(0, (const uint8_t *)block + 8, BLOCK - 8);
}

size_t marks_replay(const char *path, size_t most, size_t *sure)
{
    struct block block;
    size_t at = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    *sure = 0;
    for (; fd >= 0 && at < most && pread(fd, &block, BLOCK, (off_t)(at * BLOCK)) == BLOCK; at++) {
        if (block.magic != MAGIC || block.sequence != at || block.check != checksum(&block) || block.count > FACTS)
            break;
        for (uint32_t fact = 0; fact < block.count; fact++) {
            recall(&block.facts[fact]);
            *sure += block.facts[fact].known == SURE;
        }
    }
    close(fd);
    return at;
}

static void remember(const struct fact *fact)
{
    pthread_mutex_lock(&lock);
    if (told_count == TOLD)
        broken("too many facts at once", fact->id, TOLD);
    told[told_count++] = *fact;
    pthread_mutex_unlock(&lock);
}

void marks_keep(const char *path, size_t after)
{
    sequence = after;
    device = open(path, O_RDWR | O_DIRECT | O_CLOEXEC);
    if (device < 0)
        broken("the device for the marks", ENTRIES, 0);
    tell = remember;
}

void marks_flush(void)
{
    static _Alignas(4096) struct block blocks[TOLD / FACTS];
    size_t count, length;

    pthread_mutex_lock(&lock);
    count = (told_count + FACTS - 1) / FACTS;
    for (size_t at = 0; at < count; at++) {
        size_t left = told_count - at * FACTS;
        blocks[at] = (struct block){ .magic = MAGIC, .sequence = (uint32_t)sequence++,
                                     .count = (uint32_t)(left < FACTS ? left : FACTS) };
        memcpy(blocks[at].facts, &told[at * FACTS], blocks[at].count * sizeof *told);
        blocks[at].check = checksum(&blocks[at]);
    }
    length = count * BLOCK;
    if (length && pwrite(device, blocks, length, (off_t)((sequence - count) * BLOCK)) != (ssize_t)length)
        broken("no room for marks", ENTRIES, sequence);
    told_count = 0;
    pthread_mutex_unlock(&lock);
}
