/* A workload against the core and a model of what was promised. Contents say what they are, so that they can be checked. */
#include "model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define STEPS 170
#define EBB_ROUNDS 12
#define EBB_LARGEST 40000 /* most of a segment: what waits with it often does not fit into the one there is */
#define PUT_OFF (60 * INT64_C(1000000)) /* later than anything else here */

struct entry {
    uint64_t number;
    uint32_t kind, about, index, count, length;
    int large, acked, failed, end_asked, end_acked;
    int is_void; /* refused, and then something else was acknowledged: that was written behind it (I5) */
    enum ask asked[COUNT_MAX];
    int sure[COUNT_MAX];
};

struct op {
    enum ask ask;
    uint32_t id, index;
    uint64_t from, ticket; /* decided by a ticket in (from, ticket] */
    int decided;
};

static struct entry entries[ENTRIES];
static struct op ops[OPS];
static uint32_t entry_count, op_count;
static uint64_t workload, last_ticket, highest;
static int64_t clock_now;
struct disk *disk;
struct queue *q;
const char *doing = "";
enum course course;
uint32_t checkpoint_slice = CHECKPOINT_SLICE;
void (*tell)(const struct fact *fact);

void broken(const char *what, uint32_t id, uint64_t detail)
{
    fprintf(stderr, "%s: %s: message %u (number %llu), %llu\n", doing, what, id,
            (unsigned long long)(id < ENTRIES ? entries[id].number : 0), (unsigned long long)detail);
    abort();
}

static uint32_t roll(uint32_t below)
{
    workload = workload * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)(workload >> 33) % below;
}

/* ---- contents that know what they are */

static uint8_t filler(uint32_t id, uint32_t at)
{
    return (uint8_t)(id * 31 + at * 7 + at / 256);
}

static void content_fill(uint8_t *to, uint32_t id, uint32_t length)
{
    const struct entry *entry = &entries[id];
    uint32_t head[8] = { 0x51515151, id, entry->kind, entry->about, entry->index, entry->count, entry->length, 0 };

    memcpy(to, head, HEAD);
    for (uint32_t at = HEAD; at < length; at++)
        to[at] = filler(id, at);
}

uint32_t content_check(const uint8_t *content, uint32_t length)
{
    uint32_t head[8];

    if (length < HEAD)
        broken("content is too short", ENTRIES, length);
    memcpy(head, content, HEAD);
    if (head[0] != 0x51515151 || head[1] >= entry_count)
        broken("content is not one of ours", ENTRIES, head[1]);
    for (uint32_t at = HEAD; at < length; at++)
        if (content[at] != filler(head[1], at))
            broken("content differs", head[1], at);
    return head[1];
}

static uint32_t addresses_fill(uint8_t *to, uint32_t id, uint32_t count)
{
    uint32_t at = 0;

    for (uint32_t index = 0; index < count; index++) {
        int length = sprintf((char *)to + at + 2, "r%u-%u@example", id, index);
        to[at] = (uint8_t)length;
        to[at + 1] = 0;
        at += 2 + (uint32_t)length;
    }
    return at;
}

/* ---- the client */

static void tell_of(enum ask ask, enum known known, uint32_t id, uint32_t index)
{
    const struct entry *entry = &entries[id];

    if (tell)
        tell(&(struct fact){ .ask = ask, .known = known, .id = id, .index = ask == ADD ? entry->index : index,
                             .kind = entry->kind, .about = entry->about, .count = entry->count, .length = entry->length,
                             .large = (uint32_t)entry->large, .number = entry->number });
}

static void note_op(enum ask ask, uint32_t id, uint32_t index)
{
    if (op_count == OPS)
        abort();
    tell_of(ask, ASKED, id, index);
    ops[op_count++] = (struct op){ .ask = ask, .id = id, .index = index };
}

static int fresh_entry(enum kind kind, uint32_t about, uint32_t index, uint32_t count, uint32_t length)
{
    if (entry_count == ENTRIES)
        return 0;
    entries[entry_count] = (struct entry){
        .kind = kind, .about = about, .index = index, .count = count, .length = length };
    return 1;
}

static void add(enum kind kind, uint32_t about, uint32_t index, uint64_t staged, uint32_t length)
{
    static uint8_t content[SEGMENT], addresses[64 * COUNT_MAX];
    uint32_t id = entry_count, count = kind == PLAIN ? 1 + roll(COUNT_MAX) : 1;
    struct queue_message message = { .birth = clock_now, .flags = id, .origin = "test", .origin_length = 4,
        .sender = "s@example", .sender_length = 9, .addresses = addresses, .content = content, .staged = staged };
    uint64_t number;
    int code;

    if (!fresh_entry(kind, about, index, count, length))
        return;
    entries[id].large = staged != 0;
    message.recipients = count;
    message.addresses_length = addresses_fill(addresses, id, count);
    message.content_length = staged ? HEAD : length;
    content_fill(content, id, (uint32_t)message.content_length);
    if (kind == BOUNCE)
        message.ends = entries[about].number;
    if (kind == FORWARD) {
        message.serves = entries[about].number;
        message.serves_index = index;
    }
    code = queue_add(q, &message, &number);
    if (code == Q_OK) {
        if (number <= highest && !staged)
            broken("the number of a durable message again", id, number);
        entries[id].number = number;
        entry_count++;
        note_op(ADD, id, 0);
    } else if (staged) {
        queue_stage_abort(q, staged);
    }
}

/* The answer is what the core said, good until the next call. */
static struct queue_collected collect(void)
{
    struct queue_collected got;
    uint32_t refused[ENTRIES], refused_count = 0;
    int is_sure = 0;

    if (queue_collect(q, &got) != Q_OK)
        broken("collect", ENTRIES, 0);
    for (uint32_t id = 0; id < entry_count; id++)
        if (entries[id].failed)
            refused[refused_count++] = id;
    for (uint32_t at = 0; at < op_count; at++) {
        struct op *op = &ops[at];
        int failed = 0;
        if (op->decided || !op->ticket || op->ticket > got.durable)
            continue;
        for (size_t lost = 0; lost < got.failed_count; lost++)
            failed |= got.failed[lost] > op->from && got.failed[lost] <= op->ticket;
        op->decided = 1;
        is_sure |= !failed;
        tell_of(op->ask, failed ? REFUSED : SURE, op->id, op->index);
        if (op->ask == ADD && failed) {
            struct entry *entry = &entries[op->id];
            entry->failed = 1;
            if (entry->kind != PLAIN)
                queue_give_back(q, entries[entry->about].number);
        } else if (op->ask == ADD) {
            entries[op->id].acked = 1;
            if (entries[op->id].number > highest)
                highest = entries[op->id].number;
        } else if (op->ask == ENDING) {
            entries[op->id].end_acked |= !failed;
        } else {
            entries[op->id].sure[op->index] |= !failed;
        }
    }
    while (is_sure && refused_count) {
        struct entry *entry = &entries[refused[--refused_count]];
        uint64_t number = 0; /* it may have gone with a ticket before the one that failed */
        if (!queue_list(q, entry->number - 1, &number, 1) || number != entry->number)
            entry->is_void = 1;
    }
    return got;
}

static void commit(void)
{
    uint64_t ticket = queue_commit(q);

    for (uint32_t at = op_count; at-- && !ops[at].ticket;) {
        ops[at].from = last_ticket;
        ops[at].ticket = ticket;
    }
    last_ticket = ticket;
}

void settle(void)
{
    for (int round = 0; round < 4 && !disk_is_dead(disk); round++) {
        commit();
        queue_step(q);
        collect();
    }
}

static void add_large(void)
{
    static uint8_t body[LARGE_MOST];
    uint32_t length = 10000 + roll(LARGE_MOST - 10000), id = entry_count;
    struct queue_collected got;
    uint64_t number;

    for (uint32_t at = 0; at < length; at++)
        body[at] = filler(id, at);
    commit();
    queue_step(q);
    collect();
    if (queue_stage(q, &number) != Q_OK)
        return;
    if (queue_stage_write(q, number, body, length / 2) != Q_OK ||
        queue_stage_write(q, number, body + length / 2, length - length / 2) != Q_OK ||
        queue_stage_sync(q, number) != Q_OK) {
        queue_stage_abort(q, number);
        return;
    }
    queue_step(q);
    got = collect();
    if (got.staged_count != 1 || got.staged[0] != number)
        queue_stage_abort(q, number);
    else
        add(PLAIN, 0, 0, number, length);
}

static void serve(uint32_t id, uint32_t index)
{
    char note[64];
    uint32_t choice = id % 7 == 0 ? 9 : roll(10), length;
    struct entry *entry = &entries[id];

    if (choice < 5) {
        if (queue_done(q, entry->number, &index, 1) == Q_OK) {
            entry->asked[index] = SERVED;
            note_op(SERVED, id, index);
        }
    } else if (choice < 6 && entry->kind != BOUNCE) {
        length = (uint32_t)sprintf(note, "note %u %u", id, index);
        if (queue_fail(q, entry->number, index, note, length) == Q_OK) {
            entry->asked[index] = FAILING;
            note_op(FAILING, id, index);
        }
    } else if (choice < 7 && entry->kind == PLAIN) {
        add(FORWARD, id, index, 0, HEAD + roll(2000));
    } else {
        queue_defer(q, entry->number, "remote example", 14, clock_now + roll(40), &index, 1);
    }
}

static void attempt(void)
{
    int which = roll(2) ? QUEUE_FRESH : QUEUE_RETRY, other = QUEUE_FRESH + QUEUE_RETRY - which;
    struct queue_job job;

    if (queue_due(q, clock_now, which, &job) != 1 && queue_due(q, clock_now, other, &job) != 1)
        return;
    uint32_t id = content_check(job.record + job.content_offset, job.content_length);
    uint32_t count = job.part_count, indexes[COUNT_MAX];
    for (uint32_t part = 0; part < count; part++)
        indexes[part] = job.parts[part].index;
    if (entries[id].number != job.number)
        broken("another message's content", id, job.number);
    entries[id].acked = 1; /* only what is durable falls due */
    if (job.kind == QUEUE_FINISH && roll(3))
        add(BOUNCE, id, 0, 0, HEAD + roll(3000));
    else if (job.kind == QUEUE_FINISH)
        queue_give_back(q, job.number);
    else
        for (uint32_t part = 0; part < count; part++)
            serve(id, indexes[part]);
}

static void end_one(void)
{
    uint32_t id = entry_count ? roll(entry_count) : 0;

    if (entry_count && entries[id].acked && queue_end(q, entries[id].number) == Q_OK) {
        entries[id].end_asked = 1;
        note_op(ENDING, id, 0);
    }
}

/* ---- what must be true */

struct seen {
    int present;
    uint32_t state[COUNT_MAX];
};

static int may_be_gone(uint32_t id)
{
    const struct entry *entry = &entries[id];
    int all = 1;

    for (uint32_t index = 0; index < entry->count; index++) {
        int maybe = entry->asked[index] == SERVED;
        for (uint32_t other = 0; other < entry_count; other++)
            maybe |= entries[other].kind == FORWARD && entries[other].about == id && entries[other].index == index;
        all &= maybe;
    }
    for (uint32_t other = 0; other < entry_count; other++)
        all |= entries[other].kind == BOUNCE && entries[other].about == id;
    return all || entry->end_asked || !entry->acked;
}

static int must_be_gone(uint32_t id)
{
    const struct entry *entry = &entries[id];
    int all = 1;

    for (uint32_t index = 0; index < entry->count; index++) {
        int sure = entry->asked[index] == SERVED && entry->sure[index];
        for (uint32_t other = 0; other < entry_count; other++)
            sure |= entries[other].kind == FORWARD && entries[other].about == id && entries[other].index == index &&
                    entries[other].acked;
        all &= sure;
    }
    for (uint32_t other = 0; other < entry_count; other++)
        all |= entries[other].kind == BOUNCE && entries[other].about == id && entries[other].acked;
    return all || entry->end_acked;
}

/* Of the messages of this kind about this one: *there present, the answer whether one may have been and gone. */
static int offspring(const struct seen *seen, enum kind kind, uint32_t about, uint32_t index, int *there, int *sure)
{
    int gone = 0;

    *there = *sure = 0;
    for (uint32_t id = 0; id < entry_count; id++) {
        if (entries[id].kind != kind || entries[id].about != about || entries[id].index != index)
            continue;
        *there += seen[id].present;
        *sure |= entries[id].acked;
        gone |= !seen[id].present && may_be_gone(id) && entries[id].acked;
    }
    if (*there > 1)
        broken(kind == BOUNCE ? "two bounces" : "two forwards", about, index);
    return gone;
}

static void check_large(uint32_t id, uint64_t number, uint64_t length)
{
    static uint8_t body[LARGE_MOST + 1];
    struct queue_system system = disk_system(disk);
    int fd = queue_open_large(q, number);

    if (fd < 0)
        fd = queue_open_large(q, number);
    if (fd < 0 && disk_is_dead(disk))
        return;
    if (fd < 0 || length != entries[id].length ||
        (system.read(disk, fd, body, sizeof body, 0) != (int64_t)length &&
         system.read(disk, fd, body, sizeof body, 0) != (int64_t)length && !disk_is_dead(disk)))
        broken("a large message's file", id, length);
    for (uint32_t at = 0; at < length && !disk_is_dead(disk); at++)
        if (body[at] != filler(id, at))
            broken("a large message's content", id, at);
    system.close(disk, fd);
}

static void look(struct seen *seen, uint64_t number, uint64_t *undone)
{
    struct queue_job job;
    uint32_t id;

    if (queue_show(q, number, &job) != Q_OK && queue_show(q, number, &job) != Q_OK) { /* one call may fail */
        if (disk_is_dead(disk))
            return;
        broken(queue_error(q), ENTRIES, number);
    }
    id = content_check(job.record + job.content_offset, job.content_length);
    if (entries[id].number != number || seen[id].present || job.flags != id || job.part_count != entries[id].count ||
        (!job.large && job.content_length != entries[id].length))
        broken("a message is not what it was", id, number);
    seen[id].present = 1;
    if (!entries[id].acked)
        tell_of(ADD, SURE, id, 0);
    entries[id].acked = 1; /* what the store shows is durable: from now on it is held to it */
    for (uint32_t index = 0; index < job.part_count; index++) {
        const struct queue_part *part = &job.parts[index];
        char text[64];
        seen[id].state[index] = part->state;
        *undone += part->state != Q_DONE && part->state != Q_FAILED;
        snprintf(text, sizeof text, "r%u-%u@example", id, index);
        if (part->length != strlen(text) || memcmp(job.record + part->offset, text, part->length) != 0)
            broken("a recipient's address", id, index);
        snprintf(text, sizeof text, "note %u %u", id, index);
        if (part->state == Q_FAILED && (part->note_length != strlen(text) || memcmp(part->note, text, strlen(text))))
            broken("a recipient's note", id, index);
    }
    if (job.large)
        check_large(id, number, job.large);
}

static void check_recipients(const struct seen *seen, uint32_t id)
{
    const struct entry *entry = &entries[id];
    int there, sure, gone;

    for (uint32_t index = 0; index < entry->count; index++) {
        uint32_t state = seen[id].state[index];
        gone = offspring(seen, FORWARD, id, index, &there, &sure);
        if (!seen[id].present) {
            if (entry->asked[index] != SERVED && !entry->end_asked && entry->asked[index] != FAILING && entry->acked &&
                !there && !gone)
                broken("a recipient is lost with its message", id, index);
            continue;
        }
        if (state == Q_DONE && entry->asked[index] != SERVED && !there && !gone)
            broken("a recipient is done, and nobody served it", id, index);
        if (state == Q_FAILED && entry->asked[index] != FAILING)
            broken("a recipient failed, and nobody said so", id, index);
        if (state != Q_DONE && (there || sure))
            broken("a forward is there, and its recipient undone", id, index);
        if (state != Q_DONE && entry->asked[index] == SERVED && entry->sure[index])
            broken("a recipient that was served comes back", id, index);
        if (state != Q_FAILED && entry->asked[index] == FAILING && entry->sure[index])
            broken("a failed recipient comes back", id, index);
    }
}

void check(void)
{
    static struct seen seen[ENTRIES];
    static uint64_t numbers[ENTRIES];
    struct queue_counts counts;
    size_t found = queue_list(q, 0, numbers, ENTRIES);
    uint64_t undone = 0;
    int there, sure, gone, served = 0;

    memset(seen, 0, sizeof seen);
    for (size_t at = 0; at < found; at++)
        look(seen, numbers[at], &undone);
    if (disk_is_dead(disk))
        return;
    queue_counts(q, &counts);
    if (counts.fresh + counts.waiting + counts.out != undone)
        broken("the counts are wrong", ENTRIES, undone);
    for (uint32_t id = 0; id < entry_count; id++) {
        const struct entry *entry = &entries[id];
        if (!seen[id].present && !may_be_gone(id))
            broken("an acknowledged message is lost", id, 0);
        if (seen[id].present && entry->is_void)
            broken("a refused message comes back", id, 0);
        if (seen[id].present && must_be_gone(id))
            broken("an ended message comes back", id, 0);
        check_recipients(seen, id);
        gone = offspring(seen, BOUNCE, id, 0, &there, &sure);
        if (seen[id].present && (there || sure))
            broken("a bounce beside its message", id, 0);
        for (uint32_t index = 0; index < entry->count; index++)
            if (!seen[id].present && entry->acked && entry->asked[index] == FAILING && !entry->end_asked && !there &&
                !gone && (entry->sure[index] || !offspring(seen, FORWARD, id, index, &served, &sure)) && !served)
                broken("a bounce is lost", id, index);
    }
}

/* The look of a store that was opened goes out to the world: deliveries follow from it, bounces too. */
void check_opened(void)
{
    check();
    if (disk_is_dead(disk))
        return;
    for (uint32_t id = 0; id < entry_count; id++) {
        struct entry *entry = &entries[id];
        struct queue_job job;
        if (!entry->acked)
            continue;
        if (queue_show(q, entry->number, &job) != Q_OK && queue_show(q, entry->number, &job) != Q_OK) {
            if (disk_is_dead(disk))
                return;
            entry->end_asked = entry->end_acked = 1;
            continue;
        }
        for (uint32_t part = 0; part < job.part_count; part++)
            if (job.parts[part].state == (entry->asked[part] == SERVED ? Q_DONE : Q_FAILED)) /* not a forward's doing */
                entry->sure[part] = 1;
    }
}

/* Whatever happened, the store still works: a new message, then everything delivered, then nothing is left. */
void drain(void)
{
    static uint64_t numbers[ENTRIES];
    struct queue_job job;
    struct queue_counts counts;

    add(PLAIN, 0, 0, 0, 500);
    settle();
    for (size_t at = queue_list(q, 0, numbers, ENTRIES); at--;)
        queue_give_back(q, numbers[at]); /* what a refused call left out */
    if (!entry_count || !entries[entry_count - 1].acked)
        broken("no message is taken any more", entry_count, 0);
    for (int round = 0; round < 2000; round++) {
        while (queue_due(q, INT64_MAX, QUEUE_FRESH, &job) == 1 || queue_due(q, INT64_MAX, QUEUE_RETRY, &job) == 1) {
            uint32_t index[COUNT_MAX], count = job.part_count;
            for (uint32_t part = 0; part < count; part++)
                index[part] = job.parts[part].index;
            if (job.kind == QUEUE_FINISH)
                queue_end(q, job.number);
            else
                queue_done(q, job.number, index, count);
        }
        settle();
        queue_counts(q, &counts);
        if (!counts.messages)
            break;
    }
    if (counts.messages || counts.living)
        broken("messages that never fall due", ENTRIES, counts.messages);
    settle();
    queue_counts(q, &counts);
    if (counts.segments > 3)
        broken("segments are not released", ENTRIES, counts.segments);
    for (uint32_t id = 0; id < entry_count; id++)
        entries[id].end_asked = entries[id].end_acked = 1;
}

/* ---- the memory of a client whose machine dies with it */

void recall(const struct fact *fact)
{
    struct entry *entry;

    if (fact->id >= ENTRIES || fact->index >= COUNT_MAX || fact->id > entry_count)
        broken("a fact is not one of ours", fact->id, fact->index);
    entry = &entries[fact->id];
    if (fact->id == entry_count) {
        if (fact->ask != ADD || !fresh_entry(fact->kind, fact->about, fact->index, fact->count, fact->length))
            broken("a fact about nothing", fact->id, fact->ask);
        entry_count++;
        entry->large = (int)fact->large;
        entry->number = fact->number;
    }
    if (fact->ask == ADD && fact->known != ASKED) {
        entry->acked |= fact->known == SURE;
        entry->failed |= fact->known == REFUSED;
        if (entry->acked && entry->number > highest)
            highest = entry->number;
    } else if (fact->ask == ENDING) {
        entry->end_asked = 1;
        entry->end_acked |= fact->known == SURE;
    } else if (fact->ask == SERVED || fact->ask == FAILING) {
        entry->asked[fact->index] = fact->ask;
        entry->sure[fact->index] |= fact->known == SURE;
    }
}

/* ---- the workload */

int open_queue(void)
{
    struct queue_options options = { .segment_bytes = SEGMENT, .create = 1, .threads = THREADS,
                                     .checkpoint_bytes = CHECKPOINT, .checkpoint_slice = checkpoint_slice };
    struct queue_system system = disk_system(disk);
    char text[512];
    int code = queue_open(&q, "/q", &options, &system, text, sizeof text);

    if (code == Q_OK)
        queue_limit(q, 4);
    return code;
}

/* ---- with and without a checkpoint */

struct picture {
    uint64_t numbers[ENTRIES], sums[ENTRIES], messages, fresh, waiting, living, segments;
    size_t count;
};

static uint64_t summed(uint64_t sum, const void *bytes, size_t length)
{
    for (size_t at = 0; at < length; at++)
        sum = (sum ^ ((const uint8_t *)bytes)[at]) * UINT64_C(0x100000001b3);
    return sum;
}

static uint64_t summed_number(uint64_t sum, uint64_t number)
{
    return summed(sum, &number, sizeof number);
}

/* All that can be seen of a message. What is due by now is due now: no record says that a retry was asked for, nor that
   what was due could not be read and was put off by minutes. */
static uint64_t sum_of(uint64_t number)
{
    uint64_t sum = UINT64_C(0xcbf29ce484222325);
    struct queue_job job;

    if (queue_show(q, number, &job) != Q_OK)
        return 0;
    sum = summed(sum, job.record + RECORD_HEAD, job.record_length - RECORD_HEAD);
    sum = summed_number(sum, job.large);
    for (uint32_t at = 0; at < job.part_count; at++) {
        const struct queue_part *part = &job.parts[at];
        sum = summed_number(sum, part->state);
        sum = summed_number(sum, part->due <= clock_now || part->due >= PUT_OFF ? 0 : (uint64_t)part->due);
        sum = summed(sum, part->lane, part->lane_length);
        sum = summed(sum, part->note, part->note_length);
    }
    return sum;
}

/* A record whose own file went when its message was refused, or was never asked to stay, counts as damaged. */
static uint64_t files_never_promised(void)
{
    uint64_t count = 0;

    for (uint32_t id = 0; id < entry_count; id++)
        count += entries[id].large && !entries[id].acked;
    return count;
}

static void picture_take(struct picture *picture)
{
    struct queue_counts counts;

    queue_counts(q, &counts);
    if (counts.damaged > files_never_promised())
        broken("what a crash left is taken for damage", ENTRIES, counts.damaged);
    *picture = (struct picture){ .messages = counts.messages, .fresh = counts.fresh, .waiting = counts.waiting,
                                 .living = counts.living };
    picture->count = queue_list(q, 0, picture->numbers, ENTRIES);
    for (size_t at = 0; at < picture->count; at++)
        picture->sums[at] = sum_of(picture->numbers[at]);
}

int open_and_compare(void)
{
    static struct picture with, without;
    struct disk *own = disk;
    struct queue_counts counts;

    disk = disk_clone(own);
    disk_remove(disk, "/q/checkpoint");
    if (open_queue() != Q_OK)
        broken("it does not open without its checkpoint", ENTRIES, 0);
    picture_take(&without);
    let_go();
    disk_free(disk);
    disk = own;
    if (open_queue() != Q_OK)
        broken("it does not open again", ENTRIES, 0);
    picture_take(&with);
    for (size_t at = 0; at < with.count || at < without.count; at++) {
        if (at >= without.count || (at < with.count && with.numbers[at] < without.numbers[at]))
            broken("a message is there only with the checkpoint", ENTRIES, with.numbers[at]);
        if (at >= with.count || with.numbers[at] != without.numbers[at])
            broken("a message is there only without the checkpoint", ENTRIES, without.numbers[at]);
        if (with.sums[at] != without.sums[at])
            broken("a message is another with the checkpoint", ENTRIES, with.numbers[at]);
    }
    if (memcmp(&with, &without, sizeof with) != 0)
        broken("the counts are others with the checkpoint", ENTRIES, with.living);
    queue_counts(q, &counts);
    return counts.checkpoint && !counts.checkpoints_refused;
}

void start_over(uint64_t workload_seed, uint64_t disk_seed)
{
    memset(entries, 0, sizeof entries);
    entry_count = op_count = 0;
    last_ticket = highest = 0;
    clock_now = 1000;
    workload = workload_seed;
    disk = disk_new(disk_seed);
    q = NULL;
}

/* Facts wait for their commit while everything else goes on: a checkpoint must wait for them too. */
static void dawdle(void)
{
    attempt();
    for (int round = 0; round < 8 && !disk_is_dead(disk); round++) {
        queue_step(q);
        collect();
    }
}

void step(uint32_t number)
{
    uint32_t choice = roll(16);

    clock_now += roll(4);
    if (choice < 5)
        add(PLAIN, 0, 0, 0, HEAD + roll(6000));
    else if (choice < 11)
        attempt();
    else if (choice == 11)
        end_one();
    else if (choice == 12 && number % 3 == 0)
        add_large();
    else if (choice == 13)
        dawdle();
    if (roll(3) == 0)
        commit();
    if (roll(2) == 0)
        queue_step(q);
    if (roll(2) == 0)
        collect();
}

/* The disk works again and all was committed since: what was asked for and not refused is promised by now, for a failed
   commit loses messages but no facts. */
void expect_all(void)
{
    for (uint32_t id = 0; id < entry_count; id++) {
        entries[id].end_acked |= entries[id].end_asked;
        for (uint32_t index = 0; index < entries[id].count; index++)
            entries[id].sure[index] = 1;
    }
}

/* Damage took records, and the numbers with them. */
void forget_numbers(void)
{
    highest = 0;
}

/* Another process: tickets start again, what was not decided stays undecided. */
void forget_tickets(void)
{
    for (uint32_t at = 0; at < op_count; at++)
        ops[at].decided = 1;
    for (uint32_t id = 0; id < entry_count; id++)
        entries[id].failed = 0; /* it may show what the one before was refused */
    last_ticket = 0;
}

/* Close and open in the middle: an idle exit. */
void come_and_go(void)
{
    settle();
    queue_close(q);
    q = NULL;
    forget_tickets();
    if (disk_is_dead(disk))
        return;
    if (open_queue() != Q_OK && (disk_is_dead(disk) || open_queue() != Q_OK))
        return;
    check_opened();
}

/* A call has failed, and what failed waits for the next commit; a checkpoint must wait for it. */
static void linger(void)
{
    for (uint64_t rounds = disk_random(disk, 16); rounds; rounds--) {
        collect();
        queue_step(q);
    }
    disk_crash_at(disk, 1);
}

/* A call has failed: what the core does next must be safe before it has tidied up. */
static void hurry_on(void)
{
    collect();
    add(PLAIN, 0, 0, 0, HEAD);
    commit();
    disk_crash_at(disk, 3 + disk_random(disk, 4)); /* a write and a sync acknowledge it */
    queue_step(q);
    collect();
    disk_crash_at(disk, 1);
}

void run_workload(void)
{
    if (open_queue() != Q_OK && (disk_is_dead(disk) || open_queue() != Q_OK))
        return;
    for (uint32_t number = 0; number < STEPS && q && !disk_is_dead(disk); number++) {
        if (number == STEPS * 2 / 3)
            come_and_go();
        if (q)
            step(number);
        if (q && course != GO_ON && disk_has_failed(disk)) {
            if (course == HURRY)
                hurry_on();
            if (course == WAIT)
                linger();
            for (uint64_t more = disk_random(disk, 4); course == LEAVE && more; more--)
                step(number);
            return;
        }
    }
    if (q && !disk_is_dead(disk))
        settle();
}

/* All that this message was handed out for is done with. */
static void dispose(const struct queue_job *job)
{
    uint32_t id = content_check(job->record + job->content_offset, job->content_length);
    uint32_t count = job->part_count, indexes[COUNT_MAX];
    int is_finish = job->kind == QUEUE_FINISH;

    for (uint32_t part = 0; part < count; part++)
        indexes[part] = job->parts[part].index;
    entries[id].acked = 1;
    if (is_finish && queue_end(q, entries[id].number) == Q_OK) {
        entries[id].end_asked = 1;
        note_op(ENDING, id, 0);
    }
    for (uint32_t part = 0; part < count; part++)
        if (!is_finish && queue_done(q, entries[id].number, &indexes[part], 1) == Q_OK) {
            entries[id].asked[indexes[part]] = SERVED;
            note_op(SERVED, id, indexes[part]);
        }
}

void ebb(void)
{
    struct queue_job job;

    for (int round = 0; round < EBB_ROUNDS && !disk_is_dead(disk); round++) {
        clock_now += 10;
        while (queue_due(q, clock_now, QUEUE_FRESH, &job) == 1 || queue_due(q, clock_now, QUEUE_RETRY, &job) == 1)
            dispose(&job);
        if (roll(2))
            commit();
        add(PLAIN, 0, 0, 0, HEAD + roll(EBB_LARGEST));
        collect();
        if (roll(3))
            commit();
        queue_step(q);
        if (roll(2))
            collect();
    }
}

void let_go(void)
{
    if (q)
        queue_close(q);
    q = NULL;
}

void check_to_the_end(void)
{
    check();
    drain();
    let_go();
    if (open_queue() != Q_OK)
        broken("it does not open when drained", ENTRIES, 0);
    check();
    let_go();
}
