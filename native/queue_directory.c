/* The directory of a queue: whose it is, that nobody else has it open, and its format (queue.h, FILES). */
#include "queue_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static int make_directories(struct queue *q)
{
    static const char *const parts[] = { "", "/segments", "/large" };
    char path[PATH_ROOM];

    for (size_t part = 0; part < 3; part++) {
        int error;
        snprintf(path, sizeof path, "%s%s", q->directory, parts[part]);
        error = q->options.create ? q->system.mkdir(q->system.context, path, 0700) : 0;
        if (error < 0 && error != -EEXIST)
            return io_failure(q, error, path);
        error = q->system.owned(q->system.context, path);
        if (error == 0)
            return fail_with(q, Q_OWNER, "%s: expected a directory that belongs to uid %u", path, (unsigned)geteuid());
        if (error < 0)
            return io_failure(q, error, path);
    }
    return Q_OK;
}

static int open_lock(struct queue *q)
{
    char path[PATH_ROOM];
    int error;

    snprintf(path, sizeof path, "%s/lock", q->directory);
    q->lock_fd = q->system.open(q->system.context, path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (q->lock_fd < 0)
        return io_failure(q, q->lock_fd, path);
    error = q->system.lock(q->system.context, q->lock_fd);
    if (error == -EWOULDBLOCK)
        return fail_with(q, Q_LOCKED, "%s: another process has this queue open", path);
    return error < 0 ? io_failure(q, error, path) : Q_OK;
}

static int open_directories(struct queue *q)
{
    struct { int *fd; const char *name; } const parts[] = {
        { &q->directory_fd, "" }, { &q->segments_fd, "/segments" }, { &q->large_fd, "/large" } };
    char path[PATH_ROOM];

    for (size_t part = 0; part < 3; part++) {
        snprintf(path, sizeof path, "%s%s", q->directory, parts[part].name);
        *parts[part].fd = q->system.open(q->system.context, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
        if (*parts[part].fd < 0)
            return io_failure(q, *parts[part].fd, path);
    }
    return Q_OK;
}

static void count_name(void *argument, const char *name)
{
    *(size_t *)argument += name[0] != '.';
}

/* The queue's own name in the directory above. One that we may not read is not ours to sync, nor did we make a name in it. */
static int sync_above(struct queue *q)
{
    char path[PATH_ROOM], *end;
    int fd, error;

    snprintf(path, sizeof path, "%s", q->directory);
    for (end = path + strlen(path); end > path && end[-1] == '/'; end--)
        ;
    while (end > path && end[-1] != '/')
        end--;
    if (end == path)
        *end++ = '.';
    *end = 0;
    fd = q->system.open(q->system.context, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
    if (fd < 0)
        return fd == -EACCES ? Q_OK : io_failure(q, fd, path);
    error = q->system.sync(q->system.context, fd);
    q->system.close(q->system.context, fd);
    return error < 0 ? io_failure(q, error, path) : Q_OK;
}

/* The format file is made once, with everything above it durable, before there is any segment. */
static int make_format(struct queue *q, const char *path)
{
    char fresh[PATH_ROOM];
    size_t segments = 0;
    int64_t error;
    int fd;

    snprintf(fresh, sizeof fresh, "%s/segments", q->directory);
    error = q->system.list(q->system.context, fresh, count_name, &segments);
    if (error < 0)
        return io_failure(q, (int)error, fresh);
    if (segments || !q->options.create)
        return fail_with(q, Q_FORMAT, "%s is missing: expected \"qmaild queue 1\"", path);
    if (sync_above(q) != Q_OK)
        return Q_IO;
    snprintf(fresh, sizeof fresh, "%s/format.new", q->directory);
    fd = q->system.open(q->system.context, fresh, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    error = fd;
    if (fd >= 0) {
        error = q->system.write(q->system.context, fd, FORMAT_TEXT, strlen(FORMAT_TEXT), 0);
        if (error >= 0)
            error = q->system.sync(q->system.context, fd);
        q->system.close(q->system.context, fd);
    }
    if (error >= 0)
        error = q->system.rename(q->system.context, fresh, path);
    if (error >= 0)
        error = q->system.sync(q->system.context, q->directory_fd);
    return error < 0 ? io_failure(q, (int)error, path) : Q_OK;
}

static int check_format(struct queue *q)
{
    char path[PATH_ROOM], text[64] = "";
    int64_t got;
    int fd;

    snprintf(path, sizeof path, "%s/format", q->directory);
    fd = q->system.open(q->system.context, path, O_RDONLY | O_CLOEXEC, 0);
    if (fd == -ENOENT)
        return make_format(q, path);
    if (fd < 0)
        return io_failure(q, fd, path);
    got = q->system.read(q->system.context, fd, text, sizeof text - 1, 0);
    q->system.close(q->system.context, fd);
    if (got < 0)
        return io_failure(q, (int)got, path);
    if (strcmp(text, FORMAT_TEXT) != 0)
        return fail_with(q, Q_FORMAT, "%s: expected \"qmaild queue 1\", found \"%.30s\"", path, text);
    /* It may have been made by a process that died before its directory was durable. */
    got = q->system.sync(q->system.context, q->directory_fd);
    return got < 0 ? io_failure(q, (int)got, path) : Q_OK;
}

/* Before: q->directory is its path. After: the lock is held, and the directories are open. Errors: Q_OWNER, Q_LOCKED, Q_FORMAT,
   Q_IO, Q_SPACE. */
int directory_open(struct queue *q)
{
    int code = make_directories(q);

    if (code == Q_OK)
        code = open_lock(q);
    if (code == Q_OK)
        code = open_directories(q);
    return code == Q_OK ? check_format(q) : code;
}
