/* The machine's calls that Python lacks or gets wrong. Only system calls and libc here; no policy. */
#include "system.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <pwd.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define TEXT_MOST (1u << 20) /* an account whose fields need more is not one */

/* getpwnam(3), RETURN VALUE: these errnos are given by some name services when there is simply no such account.
   EPERM is another of that list, but a denied lookup answers nothing: it stays trouble. */
static int is_absence(int error)
{
    return error == 0 || error == ENOENT || error == ESRCH || error == EBADF;
}

/* A name service that fails is passed over when the next one answers "no": with `passwd: files systemd` and no
   descriptor left, everyone but root and nobody is absent. So absence counts only while the first source can be read. */
static int confirm_absence(void)
{
    int fd = open("/etc/passwd", O_RDONLY | O_CLOEXEC);

    if (fd < 0)
        return errno == ENOENT ? SYSTEM_ABSENT : errno;
    close(fd);
    return SYSTEM_ABSENT;
}

/* by name if there is one, else by uid */
static int look_up(const char *name, uint32_t uid, struct system_account *account)
{
    struct passwd entry, *found = NULL;
    size_t room = 1024;
    int error;

    memset(account, 0, sizeof *account);
    do {
        char *wider;
        room *= 2;
        wider = realloc(account->text, room);
        if (!wider) {
            system_account_free(account);
            return ENOMEM;
        }
        account->text = wider;
        errno = 0;
        error = name ? getpwnam_r(name, &entry, account->text, room, &found)
                     : getpwuid_r((uid_t)uid, &entry, account->text, room, &found);
    } while ((error == ERANGE || error == EINTR) && room < TEXT_MOST);
    if (!found) {
        system_account_free(account);
        return is_absence(error) ? confirm_absence() : error;
    }
    account->uid = entry.pw_uid;
    account->gid = entry.pw_gid;
    account->name = entry.pw_name;
    account->home = entry.pw_dir;
    account->shell = entry.pw_shell;
    return SYSTEM_FOUND;
}

int system_account_by_name(const char *name, struct system_account *account)
{
    return look_up(name, 0, account);
}

int system_account_by_uid(uint32_t uid, struct system_account *account)
{
    return look_up(NULL, uid, account);
}

void system_account_free(struct system_account *account)
{
    free(account->text);
    account->text = NULL;
}

int system_groups_of(const char *name, uint32_t gid, uint32_t *groups, int *count)
{
    _Static_assert(sizeof(gid_t) == sizeof(uint32_t), "gid_t is 32 bits on Linux");
    return getgrouplist(name, gid, groups, count) < 0 ? ERANGE : 0;
}

/* ---- giving up power */

static int capabilities_are_gone(void)
{
    struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
    struct __user_cap_data_struct sets[2];

    if (syscall(SYS_capget, &header, sets) < 0)
        return 0;
    for (int half = 0; half < 2; half++)
        if (sets[half].effective || sets[half].permitted || sets[half].inheritable)
            return 0;
    for (unsigned long capability = 0; capability < 64; capability++) {
        int set = prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, capability, 0, 0);
        if (set > 0)
            return 0;
        if (set < 0)
            return errno == EINVAL && capability > 0; /* past the last one this kernel knows */
    }
    return 1;
}

static int drop_capabilities(void)
{
    struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
    struct __user_cap_data_struct none[2];

    memset(none, 0, sizeof none);
    if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) < 0 || syscall(SYS_capset, &header, none) < 0)
        return errno;
    return capabilities_are_gone() ? 0 : EPERM;
}

static int ids_are(uint32_t uid, uint32_t gid)
{
    uid_t real, effective, saved;
    gid_t real_group, effective_group, saved_group;

    return getresuid(&real, &effective, &saved) == 0 && real == uid && effective == uid && saved == uid &&
           getresgid(&real_group, &effective_group, &saved_group) == 0 && real_group == gid &&
           effective_group == gid && saved_group == gid;
}

static int groups_are(const uint32_t *groups, size_t count)
{
    gid_t *now = calloc(count + 1, sizeof *now);
    int found = now ? getgroups((int)count + 1, now) : -1, same = found == (int)count;

    for (int at = 0; same && at < found; at++) {
        size_t wanted = 0;
        while (wanted < count && groups[wanted] != now[at])
            wanted++;
        same = wanted < count;
    }
    free(now);
    return same;
}

int system_become(uint32_t uid, uint32_t gid, const uint32_t *groups, size_t count)
{
    int error;

    if (uid == 0 || gid == 0 || uid == UINT32_MAX || gid == UINT32_MAX)
        return EINVAL;
    if (setgroups(count, groups) < 0 || setresgid(gid, gid, gid) < 0 || setresuid(uid, uid, uid) < 0)
        return errno;
    error = drop_capabilities();
    if (error)
        return error;
    if (!ids_are(uid, gid) || !groups_are(groups, count))
        return EPERM;
    if (setresuid(0, 0, 0) == 0 || setresgid(0, 0, 0) == 0)
        return EPERM;
    return 0;
}

void system_write_out(const int *fds, int *errors, size_t count)
{
    for (size_t at = 0; at < count; at++)
        (void)!sync_file_range(fds[at], 0, 0, SYNC_FILE_RANGE_WRITE); /* a hint: fsync tells of errors */
    for (size_t at = 0; at < count; at++)
        errors[at] = fsync(fds[at]) < 0 ? errno : 0;
}
