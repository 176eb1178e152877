/* The message behind DATA as it streams in: where it ends, what is stored of it, whether CR or LF stands alone.
   Pure: no system calls, no memory of its own. */
#ifndef QMAILD_BODY_H
#define QMAILD_BODY_H

#include <stddef.h>
#include <stdint.h>

enum { BODY_WELL = 0, BODY_BARE_LINE_END = 1, BODY_TOO_LARGE = 2 };
enum { BODY_AT_LINE_START = 0, BODY_IN_LINE = 1, BODY_AFTER_CR = 2, BODY_AFTER_DOT = 3, BODY_AFTER_DOT_CR = 4, BODY_ENDED = 5 };

/* A message begins with all fields 0 but the limit, which is its most stored bytes (0: any number). */
struct body {
    uint64_t size, limit; /* size: bytes stored so far */
    uint32_t state, problem;
};

/* Look at the next bytes. Returns how many belong to the message: all of them unless it ended (state BODY_ENDED).
   text has room for as many bytes as data; *stored of them are what is to be stored: LF line ends, dots unstuffed.
   Once there is a problem nothing is, and the message is read to its end all the same. The outcome does not depend
   on how the bytes are cut, but for which problem of two is named. */
size_t body_scan(struct body *body, const void *data, size_t length, void *text, size_t *stored);

#endif
