/* What the crash model asks of its disk, answered by the kernel; the threads of the core do their own work. */
#include "real.h"
#include "model.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define PATIENCE 30000 /* ms; longer than any sync takes */

static const char *root = "";
static enum weakness weak;

void real_root(const char *path, enum weakness weakness)
{
    root = path;
    weak = weakness;
}

static const char *below(char to[4096], const char *path)
{
    snprintf(to, 4096, "%s%s", root, path);
    return to;
}

static int real_open(void *context, const char *path, int flags, unsigned mode)
{
    char full[4096];

    return queue_linux.open(context, below(full, path), flags, mode);
}

static int real_unlink(void *context, const char *path)
{
    char full[4096];

    return queue_linux.unlink(context, below(full, path));
}

static int real_rename(void *context, const char *from, const char *to)
{
    char old[4096], fresh[4096];

    return queue_linux.rename(context, below(old, from), below(fresh, to));
}

static int real_mkdir(void *context, const char *path, unsigned mode)
{
    char full[4096];

    return queue_linux.mkdir(context, below(full, path), mode);
}

static int real_owned(void *context, const char *path)
{
    char full[4096];

    return queue_linux.owned(context, below(full, path));
}

static int real_list(void *context, const char *path, void (*each)(void *, const char *), void *argument)
{
    char full[4096];

    return queue_linux.list(context, below(full, path), each, argument);
}

static int64_t real_write(void *context, int fd, const void *bytes, size_t length, uint64_t offset)
{
    marks_flush();
    return queue_linux.write(context, fd, bytes, length, offset);
}

static int real_sync_data(void *context, int fd)
{
    return weak == NO_DATA_SYNC ? 0 : queue_linux.sync_data(context, fd);
}

static int real_sync(void *context, int fd)
{
    struct stat facts;

    if (weak == NO_SYNC || (weak == NO_DIRECTORY_SYNC && fstat(fd, &facts) == 0 && S_ISDIR(facts.st_mode)))
        return 0;
    return queue_linux.sync(context, fd);
}

/* ---- disk.h */

struct disk *disk_new(uint64_t seed)
{
    (void)seed;
    return NULL;
}

struct queue_system disk_system(struct disk *none)
{
    struct queue_system system = queue_linux;

    (void)none;
    system.open = real_open;
    system.unlink = real_unlink;
    system.rename = real_rename;
    system.mkdir = real_mkdir;
    system.owned = real_owned;
    system.list = real_list;
    system.write = real_write;
    system.sync_data = real_sync_data;
    system.sync = real_sync;
    return system;
}

int disk_is_dead(const struct disk *none)
{
    (void)none;
    return 0;
}

/* ---- instead of queue_step: the threads are at work, wait for them */

static void await(struct queue *store)
{
    struct pollfd event = { .fd = queue_eventfd(store), .events = POLLIN };
    uint64_t count;

    if (poll(&event, 1, PATIENCE) != 1)
        broken("the threads do not answer", ENTRIES, 0);
    if (read(event.fd, &count, sizeof count) != sizeof count)
        broken("the eventfd", ENTRIES, 0);
}

void await_decision(struct queue *store)
{
    struct queue_counts counts;

    queue_commit(store);
    for (queue_counts(store, &counts); counts.pending; queue_counts(store, &counts))
        await(store);
}

int stage_and_await(struct queue *store, uint64_t number)
{
    int code = queue_stage_sync(store, number);

    if (code == Q_OK)
        await(store);
    return code;
}
