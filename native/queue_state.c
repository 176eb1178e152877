/* What facts do to recipients: done, failed with a note, waiting. Appends and replay both come through here. */
#include "queue_internal.h"

#include <stdlib.h>
#include <string.h>

/* This recipient's slot becomes `slot` (a group, SLOT_DONE or SLOT_FAILED); its old group goes with its last one. */
void state_settle(struct queue *q, struct message *message, uint32_t index, uint32_t slot)
{
    uint32_t old = message->slots[index];

    if (slot < SLOT_FAILED) {
        struct group *to = &q->groups[slot];
        to->count++;
        if (to->place == NOT_IN_HEAP)
            q->out++;
        else
            *(to->fresh ? &q->fresh : &q->waiting) += 1;
    } else {
        message->undone--;
    }
    message->slots[index] = slot;
    if (old < SLOT_FAILED) {
        struct group *from = &q->groups[old];
        if (from->place == NOT_IN_HEAP)
            q->out--;
        else
            *(from->fresh ? &q->fresh : &q->waiting) -= 1;
        if (--from->count == 0)
            group_free(q, old);
    }
}

int state_is_undone(const struct message *message, uint32_t index)
{
    return message->slots[index] != SLOT_DONE && message->slots[index] != SLOT_FAILED;
}

/* I14 */
int state_is_over(const struct message *message)
{
    return message->undone == 0 && !message->notes;
}

/* Recipients that have never been planned get a group; it is out until group_wait. */
int state_start(struct queue *q, struct message *message)
{
    uint32_t group = NONE;

    if (index_room(q) != Q_OK)
        return Q_MEMORY;
    for (uint32_t index = 0; index < message->count; index++) {
        if (message->slots[index] != NONE)
            continue;
        if (group == NONE) {
            group = group_new(q, message, NONE, DUE_NOW);
            q->groups[group].fresh = 1;
        }
        state_settle(q, message, index, group);
    }
    return Q_OK;
}

/* The text for the bounce. All notes of a message must fit beside it in a copy (I8): what is too much is left out. */
int state_note(struct queue *q, struct message *message, uint32_t index, const void *text, uint32_t length)
{
    uint32_t before = message->notes ? message->notes->so_far : 0;
    struct note *note;

    if (length > Q_NOTE_MAX)
        length = Q_NOTE_MAX;
    if (before + length > capacity(q) / 8)
        length = 0;
    note = malloc(sizeof *note + length);
    if (!note)
        return Q_MEMORY;
    *note = (struct note){ .next = message->notes, .index = index, .length = length, .so_far = before + length,
                           .finish = NONE };
    if (length)
        memcpy(note->text, text, length);
    message->notes = note;
    q->living += record_bytes(8 + (uint64_t)length); /* a copy says it again (I16) */
    return Q_OK;
}

uint32_t message_finish(const struct message *message)
{
    return message->notes ? message->notes->finish : NONE;
}

/* When nothing is left undone and there are notes, the message itself falls due. Before: a group is free, which is
   so when the last recipient has just left its own. */
void state_finish(struct queue *q, struct message *message)
{
    if (message->undone || !message->notes || message_finish(message) != NONE)
        return;
    message->notes->finish = group_new(q, message, NONE, DUE_NOW);
    group_wait(q, message->notes->finish, DUE_NOW);
}
