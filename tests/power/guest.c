/* The only program of the machine that loses its power: process 1, which mounts the disk and works the store.
   Settings come by the kernel's command line: power_type, power_options, power_weak, power_seed, power_steps. */
#include "real.h"
#include "model.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define MARKS "/dev/vda1"
#define FILES "/dev/vda2"
#define REOPEN 150 /* steps between two idle exits */

static void must(int result, const char *what)
{
    if (result >= 0)
        return;
    printf("%s: %s\n", what, strerror(errno));
    abort();
}

static const char *setting(const char *name, const char *otherwise)
{
    const char *value = getenv(name);

    return value ? value : otherwise;
}

/* /modules/list names the kernel's modules in the order they need each other. */
static void load_modules(void)
{
    char name[64], path[128];
    FILE *list = fopen("/modules/list", "re");

    while (list && fscanf(list, "%63s", name) == 1) {
        snprintf(path, sizeof path, "/modules/%s", name);
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        must((int)syscall(SYS_finit_module, fd, "", 0), path);
        close(fd);
    }
}

static void start_machine(void)
{
    setvbuf(stdout, NULL, _IOLBF, 0);
    mkdir("/dev", 0755);
    mkdir("/mnt", 0755);
    must(mount("dev", "/dev", "devtmpfs", 0, ""), "devtmpfs");
    load_modules();
    for (int tries = 0; access(FILES, F_OK) < 0 && tries < 3000; tries++)
        usleep(10000); /* no event tells without a device manager */
    must(mount(FILES, "/mnt", setting("power_type", "ext4"), 0, setting("power_options", "")), FILES);
}

static void work(void)
{
    uint32_t steps = (uint32_t)atoi(setting("power_steps", "1000"));
    size_t sure, blocks;

    start_over(strtoull(setting("power_seed", "1"), NULL, 10), 0);
    blocks = marks_replay(MARKS, SIZE_MAX, &sure);
    printf("recalled %zu facts\n", sure);
    marks_keep(MARKS, blocks);
    if (open_queue() != Q_OK)
        broken("it does not open", ENTRIES, 0);
    check();
    real_root("/mnt", (enum weakness)atoi(setting("power_weak", "0"))); /* a store that was made badly never opens again */
    puts("working");
    for (uint32_t number = 0; number < steps; number++) {
        if (number % REOPEN == REOPEN - 1)
            come_and_go();
        if (!q)
            broken("it does not open again", ENTRIES, number);
        step(number);
        marks_flush();
    }
    settle();
    marks_flush();
    let_go();
}

int main(void)
{
    doing = "in the guest";
    start_machine();
    real_root("/mnt", SOUND);
    work();
    puts("worked");
    reboot(RB_AUTOBOOT);
    return 0;
}
