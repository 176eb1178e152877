/* Faults for a real process, by LD_PRELOAD: errors of syncs and writes, and a clock that jumps. See faults.py. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

/* Shared with the test, which writes what shall happen while the process runs. */
struct orders {
    int64_t clock;       /* seconds that CLOCK_REALTIME is ahead */
    int32_t sync_error;  /* errno of fsync and fdatasync; 0: they work */
    int32_t write_error; /* errno of pwrite and fallocate */
    int32_t failed;      /* how often one of them was made to fail */
    int32_t is_loaded;   /* the process has us */
};

static struct orders none;
static struct orders *orders = &none;

__attribute__((constructor)) static void begin(void)
{
    const char *path = getenv("QMAILD_TEST_FAULTS");
    int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    void *mapped;

    if (fd < 0)
        return;
    mapped = mmap(NULL, sizeof(struct orders), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (mapped != MAP_FAILED) {
        orders = mapped;
        orders->is_loaded = 1;
    }
}

static int fails(int32_t error)
{
    if (!error)
        return 0;
    __atomic_add_fetch(&orders->failed, 1, __ATOMIC_SEQ_CST);
    errno = error;
    return 1;
}

int fsync(int fd)
{
    return fails(orders->sync_error) ? -1 : (int)syscall(SYS_fsync, fd);
}

int fdatasync(int fd)
{
    return fails(orders->sync_error) ? -1 : (int)syscall(SYS_fdatasync, fd);
}

ssize_t pwrite64(int fd, const void *bytes, size_t length, off64_t offset)
{
    return fails(orders->write_error) ? -1 : syscall(SYS_pwrite64, fd, bytes, length, offset);
}

ssize_t pwrite(int fd, const void *bytes, size_t length, off_t offset)
{
    return pwrite64(fd, bytes, length, offset);
}

int fallocate64(int fd, int mode, off64_t offset, off64_t length)
{
    return fails(orders->write_error) ? -1 : (int)syscall(SYS_fallocate, fd, mode, offset, length);
}

int fallocate(int fd, int mode, off_t offset, off_t length)
{
    return fallocate64(fd, mode, offset, length);
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
    int result = (int)syscall(SYS_clock_gettime, clock, now);

    if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        now->tv_sec += orders->clock;
    return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone)
{
    struct timespec exact;

    (void)zone;
    clock_gettime(CLOCK_REALTIME, &exact);
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *where)
{
    struct timespec exact;

    clock_gettime(CLOCK_REALTIME, &exact);
    if (where)
        *where = exact.tv_sec;
    return exact.tv_sec;
}
