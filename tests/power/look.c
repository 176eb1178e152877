/* What a machine left behind when its power went, held against what it knew then.
   Usage: look MARKS BLOCKS ROOT: the first BLOCKS of the marks are what was told; the store is ROOT/q. Prints what was
   looked at; a broken promise is said and aborts. */
#include "real.h"
#include "model.h"

#include <stdio.h>
#include <stdlib.h>

int main(int count, char **words)
{
    struct queue_counts counts;
    size_t sure, blocks;

    if (count != 4)
        return 100;
    doing = "after the cut";
    real_root(words[3], SOUND);
    start_over(1, 0);
    blocks = marks_replay(words[1], strtoull(words[2], NULL, 10), &sure);
    if (open_queue() != Q_OK)
        broken("it does not open again", ENTRIES, 0);
    queue_counts(q, &counts);
    check_to_the_end();
    printf("blocks %zu sure %zu messages %llu damaged %llu torn %llu served %d\n", blocks, sure,
           (unsigned long long)counts.messages, (unsigned long long)counts.damaged, (unsigned long long)counts.torn,
           counts.checkpoint && !counts.checkpoints_refused);
    return 0;
}
