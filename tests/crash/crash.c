/* The machine dies at call n, or call n fails; it comes back, and the promises are checked.
   Usage: crash MODE WORKLOAD-SEED FIRST STRIDE, where MODE is lost, kept, torn, twice, inherited, faltering, hurried, waiting,
   believing (the power goes), ebbing, stranded (the same while whole segments go) or eio, enospc (call n fails), dying, full (all
   writes from call n on fail). Prints "points N served M": at M of them the store opened with a checkpoint. A broken promise
   aborts. */
#include "model.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint64_t served; /* openings for which a checkpoint was good */

static void recover_and_check(void)
{
    forget_tickets();
    served += (uint64_t)open_and_compare();
    check_to_the_end();
}

/* The process ends, killed or in order, and another one works on with the same cache. */
static void succeed(int killed)
{
    if (killed)
        disk_crash_at(disk, 1);
    let_go();
    disk_kill(disk);
    forget_tickets();
    if (open_queue() != Q_OK)
        broken("it does not open after a failure", ENTRIES, 0);
    check_opened();
    for (uint64_t more = disk_random(disk, 20); more; more--)
        step((uint32_t)more);
    disk_crash_at(disk, 1);
}

/* Die at call n; "twice": be killed, with the cache kept, then die again at any call of the recovery or soon after; "inherited":
   be killed, and the power goes when another process has worked on with what the cache has; "faltering":
   call n fails, and the power goes a little later; "hurried": call n fails, a small message is acknowledged at once, and the
   power goes before anything else is durable; "waiting": call n fails, nothing more is committed, and the power goes;
   "believing": call n fails, another process opens what the cache has, and the power goes when that has worked for a while. */
static int crash_point(const char *mode, uint64_t seed, uint64_t n)
{
    enum disk_loss loss = strcmp(mode, "lost") == 0 ? LOST : strcmp(mode, "kept") == 0 ? KEPT : TORN;

    start_over(seed, n);
    disk_crash_at(disk, n);
    if (strcmp(mode, "faltering") == 0) {
        disk_fail_at(disk, n, EIO, 0);
        disk_crash_at(disk, n + 1 + disk_random(disk, 30));
        loss = disk_random(disk, 3);
    }
    if (strcmp(mode, "hurried") == 0) {
        disk_crash_at(disk, 0);
        disk_fail_at(disk, n, EIO, 0);
        course = HURRY;
        loss = n % 3 ? TORN : LOST;
    }
    if (strcmp(mode, "waiting") == 0) {
        disk_crash_at(disk, 0);
        disk_fail_at(disk, n, EIO, 0);
        course = WAIT;
        checkpoint_slice = n % 2 ? CHECKPOINT_SLICE : 100;
        loss = LOST;
    }
    if (strcmp(mode, "believing") == 0) {
        disk_crash_at(disk, n % 3 == 1 ? n + 1 : 0); /* before the core has tidied up */
        disk_fail_at(disk, n, EIO, 0);
        course = LEAVE;
        loss = n % 3 ? LOST : TORN;
    }
    if (strcmp(mode, "inherited") == 0) {
        course = LEAVE;
        loss = n % 2 ? LOST : TORN;
    }
    run_workload();
    if (!disk_is_dead(disk) && !(course != GO_ON && disk_has_failed(disk)))
        return 0;
    if (course == LEAVE)
        succeed(disk_is_dead(disk) || n % 4 != 0);
    course = GO_ON;
    let_go();
    if (strcmp(mode, "twice") == 0) {
        if (n % 2)
            disk_kill(disk);
        else
            disk_restart(disk, TORN);
        disk_crash_at(disk, 1 + disk_random(disk, 60));
        forget_tickets();
        if (open_queue() == Q_OK) {
            check();
            for (uint32_t more = 0; more < 20 && !disk_is_dead(disk); more++)
                step(more);
        }
        let_go();
    }
    disk_restart(disk, loss);
    recover_and_check();
    return 1;
}

/* The workload is over, and the ebb begins. Its calls come three times, with each loss. "ebbing": the power goes. "stranded": the
   call fails, the process is killed at the next one, or later; another one opens what the cache has, and then the power goes. */
static int ebb_point(const char *mode, uint64_t seed, uint64_t n)
{
    uint64_t at = (n + 2) / 3;
    int is_stranded = strcmp(mode, "stranded") == 0;

    start_over(seed, n);
    run_workload();
    disk_crash_at(disk, at);
    if (is_stranded) {
        disk_fail_at(disk, at, EIO, 0);
        disk_crash_at(disk, at + 1 + (n % 3 == 2 ? disk_random(disk, 10) : 0));
    }
    ebb();
    if (!disk_is_dead(disk))
        return 0;
    if (is_stranded)
        succeed(1);
    let_go();
    disk_restart(disk, n % 3);
    recover_and_check();
    return 1;
}

/* Call n fails, once or from then on; then the power goes as well. */
static int failure_point(const char *mode, uint64_t seed, uint64_t n)
{
    int error = strcmp(mode, "enospc") == 0 || strcmp(mode, "full") == 0 ? ENOSPC : EIO;
    int lasting = strcmp(mode, "full") == 0 || strcmp(mode, "dying") == 0;
    uint64_t calls;

    start_over(seed, n);
    disk_fail_at(disk, n, error, lasting);
    run_workload();
    calls = disk_calls(disk);
    disk_fail_at(disk, 0, 0, 0);
    if (q) {
        check();
        settle();
        expect_all();
        check();
    }
    if (q && n % 3 == 0)
        drain();
    if (n % 2 == 0)
        let_go();
    disk_crash_at(disk, 1);
    let_go();
    disk_restart(disk, n % 4 < 2 ? LOST : TORN);
    recover_and_check();
    return calls >= n;
}

int main(int count, char **words)
{
    char text[128];
    uint64_t points = 0, seed, stride;
    int is_failure, is_ebb;

    if (count != 5)
        return 100;
    is_failure = strcmp(words[1], "eio") == 0 || strcmp(words[1], "enospc") == 0 || strcmp(words[1], "dying") == 0 ||
                 strcmp(words[1], "full") == 0;
    is_ebb = strcmp(words[1], "ebbing") == 0 || strcmp(words[1], "stranded") == 0;
    seed = strtoull(words[2], NULL, 10);
    stride = strtoull(words[4], NULL, 10);
    for (uint64_t n = strtoull(words[3], NULL, 10);; n += stride) {
        int more;
        snprintf(text, sizeof text, "%s, workload %llu, call %llu", words[1], (unsigned long long)seed,
                 (unsigned long long)n);
        doing = text;
        more = is_failure ? failure_point(words[1], seed, n) : is_ebb ? ebb_point(words[1], seed, n)
               : crash_point(words[1], seed, n);
        disk_free(disk);
        if (!more)
            break;
        points++;
    }
    printf("points %llu served %llu\n", (unsigned long long)points, (unsigned long long)served);
    return 0;
}
