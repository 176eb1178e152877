/* The system calls under the store, as Linux has them. Reads and writes are whole or an error. */
#include "queue.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

static int answer(int result)
{
    return result < 0 ? -errno : result;
}

static int do_open(void *context, const char *path, int flags, unsigned mode)
{
    (void)context;
    return answer(open(path, flags, mode));
}

static int do_close(void *context, int fd)
{
    (void)context;
    return answer(close(fd));
}

/* Up to the end of the file; less than asked for only there. */
static int64_t do_read(void *context, int fd, void *bytes, size_t length, uint64_t offset)
{
    size_t done = 0;

    (void)context;
    while (done < length) {
        ssize_t got = pread(fd, (char *)bytes + done, length - done, (off_t)(offset + done));
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return -errno;
        if (got == 0)
            break;
        done += (size_t)got;
    }
    return (int64_t)done;
}

static int64_t do_write(void *context, int fd, const void *bytes, size_t length, uint64_t offset)
{
    size_t done = 0;

    (void)context;
    while (done < length) {
        ssize_t put = pwrite(fd, (const char *)bytes + done, length - done, (off_t)(offset + done));
        if (put < 0 && errno == EINTR)
            continue;
        if (put < 0)
            return -errno;
        done += (size_t)put;
    }
    return (int64_t)done;
}

static int do_sync_data(void *context, int fd)
{
    (void)context;
    return answer(fdatasync(fd));
}

static int do_sync(void *context, int fd)
{
    (void)context;
    return answer(fsync(fd));
}

static int do_push(void *context, int fd)
{
    (void)context;
    return answer(sync_file_range(fd, 0, 0, SYNC_FILE_RANGE_WRITE));
}

static int do_reserve(void *context, int fd, uint64_t length)
{
    (void)context;
    return answer(fallocate(fd, 0, 0, (off_t)length));
}

static int do_unlink(void *context, const char *path)
{
    (void)context;
    return answer(unlink(path));
}

static int do_rename(void *context, const char *from, const char *to)
{
    (void)context;
    return answer(rename(from, to));
}

static int do_mkdir(void *context, const char *path, unsigned mode)
{
    (void)context;
    return answer(mkdir(path, mode));
}

static int do_size(void *context, int fd, uint64_t *bytes)
{
    struct stat facts;

    (void)context;
    if (fstat(fd, &facts) < 0)
        return -errno;
    *bytes = (uint64_t)facts.st_size;
    return 0;
}

static int do_owned(void *context, const char *path)
{
    struct stat facts;

    (void)context;
    if (lstat(path, &facts) < 0)
        return -errno;
    return S_ISDIR(facts.st_mode) && facts.st_uid == geteuid();
}

static int do_lock(void *context, int fd)
{
    (void)context;
    return answer(flock(fd, LOCK_EX | LOCK_NB));
}

static int do_list(void *context, const char *path, void (*each)(void *, const char *), void *argument)
{
    DIR *directory = opendir(path);
    struct dirent *entry;
    int error;

    (void)context;
    if (!directory)
        return -errno;
    while (errno = 0, (entry = readdir(directory)))
        if (entry->d_name[0] != '.')
            each(argument, entry->d_name);
    error = -errno;
    closedir(directory);
    return error;
}

static int do_random(void *context, void *bytes, size_t length)
{
    (void)context;
    return getrandom(bytes, length, 0) == (ssize_t)length ? 0 : -EIO;
}

const struct queue_system queue_linux = {
    .open = do_open, .close = do_close, .read = do_read, .write = do_write,
    .sync_data = do_sync_data, .sync = do_sync, .push = do_push, .reserve = do_reserve,
    .unlink = do_unlink, .rename = do_rename, .mkdir = do_mkdir,
    .size = do_size, .owned = do_owned, .lock = do_lock, .list = do_list, .random = do_random,
};
