/* The simulated disk. The root is durable; names, sizes and sectors are not. */
#include "disk.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FILES 4096
#define NAMES 4096
#define HANDLES 256
#define PATH 96

struct file {
    uint8_t *now, *durable, *dirty; /* one dirty mark a sector */
    uint64_t size, durable_size, room;
    int directory;
    char path[PATH]; /* of a directory */
};

struct name {
    char path[PATH];
    struct file *now, *durable;
};

struct disk {
    struct file *files[FILES];
    struct name names[NAMES];
    struct file *handles[HANDLES];
    size_t file_count, name_count;
    uint64_t random, calls, crash_at, fail_at;
    int error, lasting, failing, dead;
};

uint64_t disk_random(struct disk *disk, uint64_t below)
{
    disk->random ^= disk->random << 13;
    disk->random ^= disk->random >> 7;
    disk->random ^= disk->random << 17;
    return below ? disk->random % below : disk->random;
}

static struct file *new_file(struct disk *disk)
{
    struct file *file = calloc(1, sizeof *file);

    if (disk->file_count == FILES)
        abort();
    disk->files[disk->file_count++] = file;
    return file;
}

static struct file *new_directory(struct disk *disk, const char *path)
{
    struct file *file = new_file(disk);

    file->directory = 1;
    snprintf(file->path, PATH, "%s", path);
    return file;
}

/* The root is "". */
static struct name *find_name(struct disk *disk, const char *path)
{
    for (size_t at = 0; at < disk->name_count; at++)
        if (strcmp(disk->names[at].path, strcmp(path, "/") == 0 ? "" : path) == 0)
            return &disk->names[at];
    return NULL;
}

static struct name *make_name(struct disk *disk, const char *path)
{
    struct name *name = find_name(disk, path);

    for (size_t at = 0; !name && at < disk->name_count; at++)
        if (!disk->names[at].now && !disk->names[at].durable)
            name = &disk->names[at];
    if (!name) {
        if (disk->name_count == NAMES)
            abort();
        name = &disk->names[disk->name_count++];
    }
    snprintf(name->path, PATH, "%s", path);
    return name;
}

struct disk *disk_new(uint64_t seed)
{
    struct disk *disk = calloc(1, sizeof *disk);

    disk->random = seed * UINT64_C(0x9e3779b97f4a7c15) + 1;
    make_name(disk, "")->now = new_directory(disk, "");
    disk->names[0].durable = disk->names[0].now;
    return disk;
}

void disk_free(struct disk *disk)
{
    for (size_t at = 0; at < disk->file_count; at++) {
        free(disk->files[at]->now);
        free(disk->files[at]->durable);
        free(disk->files[at]->dirty);
        free(disk->files[at]);
    }
    free(disk);
}

void disk_crash_at(struct disk *disk, uint64_t at)
{
    disk->crash_at = at ? disk->calls + at : 0;
}

void disk_fail_at(struct disk *disk, uint64_t at, int error, int lasting)
{
    disk->fail_at = at ? disk->calls + at : 0;
    disk->error = error;
    disk->lasting = lasting;
    disk->failing = 0;
}

int disk_is_dead(const struct disk *disk)
{
    return disk->dead;
}

int disk_has_failed(const struct disk *disk)
{
    return disk->fail_at && disk->calls >= disk->fail_at;
}

uint64_t disk_calls(const struct disk *disk)
{
    return disk->calls;
}

/* Minus errno if this call must not happen. needs_room: a full disk refuses it. */
static int fate(struct disk *disk, int needs_room)
{
    disk->calls++;
    if (disk->crash_at && disk->calls >= disk->crash_at)
        disk->dead = 1;
    if (disk->dead)
        return -EIO;
    if (disk->failing && needs_room)
        return -disk->error;
    if (disk->fail_at && disk->calls == disk->fail_at) {
        disk->failing = disk->lasting;
        return -disk->error;
    }
    return 0;
}

static void grow(struct file *file, uint64_t size)
{
    uint64_t room = (size + SECTOR - 1) / SECTOR * SECTOR;

    if (room <= file->room)
        return;
    room += room / 2 / SECTOR * SECTOR;
    file->now = realloc(file->now, room);
    file->durable = realloc(file->durable, room);
    file->dirty = realloc(file->dirty, room / SECTOR);
    memset(file->now + file->room, 0, room - file->room);
    memset(file->durable + file->room, 0, room - file->room);
    memset(file->dirty + file->room / SECTOR, 0, (room - file->room) / SECTOR);
    file->room = room;
}

static struct file *at_handle(struct disk *disk, int fd)
{
    if (fd < 0 || fd >= HANDLES || !disk->handles[fd])
        abort(); /* the core used a descriptor that is not open */
    return disk->handles[fd];
}

static int sim_open(void *context, const char *path, int flags, unsigned mode)
{
    struct disk *disk = context;
    struct name *name = find_name(disk, path);
    int error = fate(disk, flags & O_CREAT ? 1 : 0), fd = 3;

    (void)mode;
    if (error)
        return error;
    if (name && name->now && flags & O_EXCL)
        return -EEXIST;
    if (!name || !name->now) {
        if (!(flags & O_CREAT))
            return -ENOENT;
        name = make_name(disk, path);
        name->now = new_file(disk);
    }
    while (fd < HANDLES && disk->handles[fd])
        fd++;
    if (fd == HANDLES)
        abort(); /* descriptors leak */
    disk->handles[fd] = name->now;
    return fd;
}

static int sim_close(void *context, int fd)
{
    struct disk *disk = context;

    at_handle(disk, fd);
    disk->handles[fd] = NULL;
    return 0;
}

static int64_t sim_read(void *context, int fd, void *bytes, size_t length, uint64_t offset)
{
    struct disk *disk = context;
    struct file *file = at_handle(disk, fd);
    int error = fate(disk, 0);

    if (error)
        return error;
    if (offset >= file->size)
        return 0;
    if (length > file->size - offset)
        length = file->size - offset;
    memcpy(bytes, file->now + offset, length);
    return (int64_t)length;
}

static void put(struct file *file, const uint8_t *bytes, uint64_t length, uint64_t offset)
{
    if (!length)
        return;
    grow(file, offset + length);
    memcpy(file->now + offset, bytes, length);
    memset(file->dirty + offset / SECTOR, 1, (offset + length - 1) / SECTOR - offset / SECTOR + 1);
    if (offset + length > file->size)
        file->size = offset + length;
}

/* A write that fails, or that the crash meets, has done some of its work. */
static int64_t sim_write(void *context, int fd, const void *bytes, size_t length, uint64_t offset)
{
    struct disk *disk = context;
    struct file *file = at_handle(disk, fd);
    int was_dead = disk->dead, error = fate(disk, 1);

    if (!error || (!was_dead && disk->dead) || (!disk->dead && error == -EIO))
        put(file, bytes, error ? disk_random(disk, length + 1) : length, offset);
    return error ? error : (int64_t)length;
}

static void make_durable(struct disk *disk, struct file *file, int some)
{
    for (uint64_t sector = 0; sector < file->room / SECTOR; sector++) {
        if (file->dirty[sector] && !(some && disk_random(disk, 2)))
            memcpy(file->durable + sector * SECTOR, file->now + sector * SECTOR, SECTOR);
        file->dirty[sector] = 0;
    }
    if (!some || disk_random(disk, 2))
        file->durable_size = file->size;
}

static void names_durable(struct disk *disk, const char *directory)
{
    size_t length = strlen(directory);

    for (size_t at = 0; at < disk->name_count; at++) {
        struct name *name = &disk->names[at];
        if (strncmp(name->path, directory, length) == 0 && name->path[length] == '/' &&
            !strchr(name->path + length + 1, '/'))
            name->durable = name->now;
    }
}

/* A sync that fails has written something, and what it has not written it has forgotten to be dirty (as Linux does). */
static int sim_sync(void *context, int fd)
{
    struct disk *disk = context;
    struct file *file = at_handle(disk, fd);
    int error = fate(disk, 1);

    if (disk->dead)
        return error;
    if (file->directory && !error)
        names_durable(disk, file->path);
    else if (!file->directory)
        make_durable(disk, file, error != 0);
    return error;
}

static int sim_reserve(void *context, int fd, uint64_t length)
{
    struct disk *disk = context;
    struct file *file = at_handle(disk, fd);
    int error = fate(disk, 1);

    if (error)
        return error;
    grow(file, length);
    if (length > file->size)
        file->size = length;
    return 0;
}

static int sim_unlink(void *context, const char *path)
{
    struct disk *disk = context;
    struct name *name = find_name(disk, path);
    int error = fate(disk, 0);

    if (error)
        return error;
    if (!name || !name->now)
        return -ENOENT;
    name->now = NULL;
    return 0;
}

static int sim_rename(void *context, const char *from, const char *to)
{
    struct disk *disk = context;
    struct name *old = find_name(disk, from);
    struct file *file = old ? old->now : NULL;
    int error = fate(disk, 0);

    if (error)
        return error;
    if (!file)
        return -ENOENT;
    old->now = NULL;
    make_name(disk, to)->now = file;
    return 0;
}

static int sim_mkdir(void *context, const char *path, unsigned mode)
{
    struct disk *disk = context;
    struct name *name = find_name(disk, path);
    int error = fate(disk, 1);

    (void)mode;
    if (error)
        return error;
    if (name && name->now)
        return -EEXIST;
    make_name(disk, path)->now = new_directory(disk, path);
    return 0;
}

static int sim_size(void *context, int fd, uint64_t *bytes)
{
    struct disk *disk = context;
    int error = fate(disk, 0);

    *bytes = at_handle(disk, fd)->size;
    return error;
}

static int sim_owned(void *context, const char *path)
{
    struct disk *disk = context;
    struct name *name = find_name(disk, path);
    int error = fate(disk, 0);

    return error ? error : name && name->now ? name->now->directory : -ENOENT;
}

static int sim_lock(void *context, int fd)
{
    struct disk *disk = context;

    at_handle(disk, fd);
    return fate(disk, 0);
}

static int sim_list(void *context, const char *path, void (*each)(void *, const char *), void *argument)
{
    struct disk *disk = context;
    size_t length = strlen(path);
    int error = fate(disk, 0);

    for (size_t at = 0; !error && at < disk->name_count; at++) {
        const struct name *name = &disk->names[at];
        if (name->now && strncmp(name->path, path, length) == 0 && name->path[length] == '/' &&
            !strchr(name->path + length + 1, '/'))
            each(argument, name->path + length + 1);
    }
    return error;
}

static int sim_random(void *context, void *bytes, size_t length)
{
    struct disk *disk = context;

    for (size_t at = 0; at < length; at++)
        ((uint8_t *)bytes)[at] = (uint8_t)disk_random(disk, 256);
    return 0;
}

struct queue_system disk_system(struct disk *disk)
{
    return (struct queue_system){
        .context = disk, .open = sim_open, .close = sim_close, .read = sim_read, .write = sim_write,
        .sync_data = sim_sync, .sync = sim_sync, .reserve = sim_reserve, .unlink = sim_unlink,
        .rename = sim_rename, .mkdir = sim_mkdir, .size = sim_size, .owned = sim_owned, .lock = sim_lock,
        .list = sim_list, .random = sim_random,
    };
}

static int is_kept(struct disk *disk, enum disk_loss loss)
{
    return loss == KEPT || (loss == TORN && disk_random(disk, 2));
}

static void file_restart(struct disk *disk, struct file *file, enum disk_loss loss)
{
    for (uint64_t sector = 0; sector < file->room / SECTOR; sector++) {
        int kept = file->dirty[sector] && is_kept(disk, loss);
        if (kept)
            memcpy(file->durable + sector * SECTOR, file->now + sector * SECTOR, SECTOR);
        else
            memcpy(file->now + sector * SECTOR, file->durable + sector * SECTOR, SECTOR);
        file->dirty[sector] = 0;
    }
    if (is_kept(disk, loss))
        file->durable_size = file->size;
    file->size = file->durable_size;
}

/* What was in a directory whose own name was lost is lost with it; a directory comes before all in it. */
static void names_in_nothing_go(struct disk *disk)
{
    for (size_t at = 1; at < disk->name_count; at++) {
        struct name *name = &disk->names[at], *above;
        char path[PATH];
        snprintf(path, PATH, "%s", name->path);
        *strrchr(path, '/') = 0;
        above = find_name(disk, path);
        if (!above || !above->now)
            name->now = name->durable = NULL;
    }
}

void disk_kill(struct disk *disk)
{
    memset(disk->handles, 0, sizeof disk->handles);
    disk->crash_at = disk->fail_at = 0;
    disk->dead = disk->failing = 0;
}

void disk_restart(struct disk *disk, enum disk_loss loss)
{
    for (size_t at = 0; at < disk->name_count; at++) {
        struct name *name = &disk->names[at];
        if (name->now != name->durable && is_kept(disk, loss))
            name->durable = name->now;
        name->now = name->durable;
    }
    names_in_nothing_go(disk);
    for (size_t at = 0; at < disk->file_count; at++)
        if (!disk->files[at]->directory)
            file_restart(disk, disk->files[at], loss);
    disk_kill(disk);
}

static struct file *clone_of(struct disk *clone, struct file **files, struct file **clones, size_t *count, struct file *file)
{
    struct file *copy;

    if (!file)
        return NULL;
    for (size_t at = 0; at < *count; at++)
        if (files[at] == file)
            return clones[at];
    copy = new_file(clone);
    files[*count] = file;
    clones[(*count)++] = copy;
    grow(copy, file->size);
    copy->size = file->size;
    copy->durable_size = file->durable_size;
    copy->directory = file->directory;
    memcpy(copy->path, file->path, PATH);
    if (copy->room) {
        memcpy(copy->now, file->now, file->room < copy->room ? file->room : copy->room);
        memcpy(copy->durable, file->durable, file->room < copy->room ? file->room : copy->room);
    }
    return copy;
}

struct disk *disk_clone(const struct disk *disk)
{
    static struct file *files[FILES], *clones[FILES];
    struct disk *clone = disk_new(1);
    size_t count = 0;

    for (size_t at = 0; at < disk->name_count; at++) {
        struct name *name = &clone->names[clone->name_count];
        if (at == 0 || !disk->names[at].now) /* it has its own root */
            continue;
        memcpy(name->path, disk->names[at].path, PATH);
        name->now = name->durable = clone_of(clone, files, clones, &count, disk->names[at].now);
        clone->name_count++;
    }
    return clone;
}

int disk_remove(struct disk *disk, const char *path)
{
    struct name *name = find_name(disk, path);
    int there = name && name->now;

    if (name)
        name->now = name->durable = NULL;
    return there;
}

uint8_t *disk_bytes(struct disk *disk, const char *directory, size_t which, uint64_t **size)
{
    size_t length = strlen(directory);

    for (size_t at = 0; at < disk->name_count; at++) {
        const struct name *name = &disk->names[at];
        if (name->now && strncmp(name->path, directory, length) == 0 && (name->path[length] == '/' || !name->path[length]) &&
            !name->now->directory && which-- == 0) {
            *size = &name->now->size;
            return name->now->now;
        }
    }
    return NULL;
}
