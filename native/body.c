/* RFC 5321 4.5.2. Only CR LF . CR LF ends a message, and no CR or LF that stands alone is ever stored: no other server can
   see two messages where this one sees one (SMTP smuggling, CVE-2023-51764 and its kin). */
#include "body.h"

#include <string.h>

static void note(struct body *body, uint32_t problem)
{
    if (!body->problem)
        body->problem = problem;
}

/* The rest of a line, or what there is of it: from `at`, in a line, to its LF or to the end. Returns where to go on. */
static const uint8_t *scan_line(struct body *body, const uint8_t *at, const uint8_t *end, uint8_t **text)
{
    const uint8_t *feed = memchr(at, '\n', (size_t)(end - at)), *stop = feed ? feed : end;
    size_t length = (size_t)(stop - at), has_cr = length && stop[-1] == '\r';

    if (!body->problem) {
        memcpy(*text, at, length - has_cr);
        *text += length - has_cr;
    }
    if (!feed) {
        body->state = has_cr ? BODY_AFTER_CR : BODY_IN_LINE;
        return end;
    }
    if (has_cr) {
        *(*text)++ = '\n';
        body->state = BODY_AT_LINE_START;
    } else {
        note(body, BODY_BARE_LINE_END);
        body->state = BODY_IN_LINE;
    }
    return feed + 1;
}

/* One byte where CR LF or a dot may be in the making. Returns 1 if it was taken, 0 if it is the line's. */
static size_t step(struct body *body, uint8_t byte, uint8_t **text)
{
    uint32_t before = body->state;

    body->state = BODY_IN_LINE;
    switch (before) {
    case BODY_AT_LINE_START:
        if (byte != '.')
            return 0;
        body->state = BODY_AFTER_DOT;
        return 1;
    case BODY_AFTER_DOT: /* which is not stored, whatever follows */
        if (byte != '\r')
            return 0;
        body->state = BODY_AFTER_DOT_CR;
        return 1;
    case BODY_AFTER_DOT_CR:
    case BODY_AFTER_CR:
        if (byte != '\n') {
            note(body, BODY_BARE_LINE_END);
            return 0;
        }
        body->state = before == BODY_AFTER_CR ? BODY_AT_LINE_START : BODY_ENDED;
        if (before == BODY_AFTER_CR)
            *(*text)++ = '\n';
        return 1;
    default:
        return 0;
    }
}

size_t body_scan(struct body *body, const void *data, size_t length, void *text, size_t *stored)
{
    const uint8_t *at = data, *end = at + length;
    uint8_t *out = text;

    while (at < end && body->state != BODY_ENDED) {
        at += step(body, *at, &out);
        if (body->state == BODY_IN_LINE && at < end)
            at = scan_line(body, at, end, &out);
    }
    /* The CRs of line ends are gone, so one search finds any other. */
    if (!body->problem && out > (uint8_t *)text && memchr(text, '\r', (size_t)(out - (uint8_t *)text)))
        note(body, BODY_BARE_LINE_END);
    if (!body->problem) {
        body->size += (uint64_t)(out - (uint8_t *)text);
        if (body->limit && body->size > body->limit)
            note(body, BODY_TOO_LARGE);
    }
    *stored = body->problem ? 0 : (size_t)(out - (uint8_t *)text);
    return (size_t)(at - (const uint8_t *)data);
}
