/* A message behind DATA. The first byte says how it is cut, the second what its limit is, the rest is sent.

   What the scanner makes of it must be what one makes of it who sees it whole and looks for one thing at a time: the end, then
   each line's fault, then its dot. Every piece lies in memory of exactly its length, and so does what it may store. */
#include "target.h"

#include <string.h>

#include "body.h"

struct outcome {
    uint8_t *text;
    size_t length, taken;
    uint32_t problem;
    int is_ended;
};

static uint8_t *find_pair(uint8_t *at, uint8_t *end)
{
    for (; at + 1 < end; at++)
        if (at[0] == '\r' && at[1] == '\n')
            return at;
    return NULL;
}

/* As RFC 5321 4.5.2 says it. A message without an end is looked at as far as its last whole line. */
static struct outcome expect(uint8_t *sent, size_t length)
{
    struct outcome out = { .text = malloc(length + 1) };
    uint8_t *at = sent, *end = sent + length, *pair;

    must(out.text);
    while (!out.is_ended && (pair = find_pair(at, end))) {
        out.is_ended = pair - at == 1 && *at == '.';
        for (uint8_t *byte = at; byte < pair; byte++)
            if (*byte == '\r' || *byte == '\n')
                out.problem = BODY_BARE_LINE_END;
        if (!out.is_ended) {
            at += at < pair && *at == '.';
            memcpy(out.text + out.length, at, (size_t)(pair - at));
            out.length += (size_t)(pair - at);
            out.text[out.length++] = '\n';
        }
        at = pair + 2;
    }
    out.taken = (size_t)(at - sent);
    return out;
}

static struct outcome scan(const uint8_t *sent, size_t length, size_t piece, uint64_t limit)
{
    struct body body = { .limit = limit };
    struct outcome out = { .text = malloc(length + 1) };

    must(out.text);
    while (out.taken < length && body.state != BODY_ENDED) {
        size_t size = length - out.taken < piece ? length - out.taken : piece, stored = 0, taken;
        uint8_t *given = malloc(size), *text = malloc(size);
        uint32_t before = body.problem;
        must(given && text);
        memcpy(given, sent + out.taken, size);
        taken = body_scan(&body, given, size, text, &stored);
        must(taken == size || (body.state == BODY_ENDED && taken && taken < size));
        must(stored <= taken && !(body.problem && stored) && !(before && body.problem != before));
        memcpy(out.text + out.length, text, stored);
        out.length += stored;
        out.taken += taken;
        free(given);
        free(text);
    }
    out.is_ended = body.state == BODY_ENDED;
    out.problem = body.problem;
    must(out.problem || (body.size == out.length && (!limit || body.size <= limit)));
    must(out.problem != BODY_TOO_LARGE || limit);
    return out;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    static const uint64_t limits[] = { 0, 1, 10, 100, 1000, 1u << 20 };
    size_t sent_length = length > 2 ? length - 2 : 0;
    uint8_t *sent;
    struct outcome expected;

    if (!sent_length)
        return 0;
    sent = malloc(sent_length);
    must(sent);
    memcpy(sent, bytes + 2, sent_length);
    expected = expect(sent, sent_length);
    for (int way = 0; way < 2; way++) {
        uint64_t limit = limits[bytes[1] % (sizeof limits / sizeof *limits)];
        struct outcome found = scan(sent, sent_length, way ? bytes[0] % 16u + 1 : sent_length, limit);
        int is_too_large = limit && expected.length > limit;
        must(found.is_ended == expected.is_ended);
        if (found.is_ended) {
            must(found.taken == expected.taken);
            must(!!found.problem == (expected.problem || is_too_large));
            must(found.problem != BODY_BARE_LINE_END || expected.problem);
            must(found.problem || (found.length == expected.length && !memcmp(found.text, expected.text, found.length)));
        }
        free(found.text);
    }
    free(expected.text);
    free(sent);
    return 0;
}
