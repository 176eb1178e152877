/* The machine's calls that Python lacks or gets wrong: accounts with three answers, giving up all power, batched syncs.
   Every function answers 0 or a positive errno, unless it says otherwise. */
#ifndef QMAILD_SYSTEM_H
#define QMAILD_SYSTEM_H

#include <stddef.h>
#include <stdint.h>

enum { SYSTEM_FOUND = 0, SYSTEM_ABSENT = -1 };

struct system_account {
    uint32_t uid, gid;
    char *name, *home, *shell; /* in `text` */
    char *text;
};

/* SYSTEM_FOUND: *account is filled; system_account_free lets go of it. SYSTEM_ABSENT: the name service is sure that there
   is none. Else the errno of the trouble: ask again later. */
int system_account_by_name(const char *name, struct system_account *account);
int system_account_by_uid(uint32_t uid, struct system_account *account);
void system_account_free(struct system_account *account);

/* All groups of this account, `gid` among them. *count: room before, number after. ERANGE: the room was too small. */
int system_groups_of(const char *name, uint32_t gid, uint32_t *groups, int *count);

/* Become this uid and gid with these groups and no other power, for good. After 0: real, effective and saved ids are the given
   ones, the capability sets but the bounding one are empty, and setresuid(0) has been seen to fail. Otherwise the
   errno of the step that failed (EPERM where a check did); the process must then end itself, for it may be anything.
   uid 0 and gid 0 are EINVAL, and nothing has changed. */
int system_become(uint32_t uid, uint32_t gid, const uint32_t *groups, size_t count);

/* Start writing all these files out, then fsync each in turn; errors[i] is its errno or 0. Never fails. */
void system_write_out(const int *fds, int *errors, size_t count);

#endif
