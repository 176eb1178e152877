/* CRC32C: one instruction for eight bytes where the processor has SSE4.2, a table elsewhere. */
#include "crc32c.h"

#include <pthread.h>
#include <string.h>

#define POLYNOMIAL 0x82f63b78u /* 0x1edc6f41 with its bits reversed */

static uint32_t table[256];
static uint32_t (*chosen)(uint32_t, const void *, size_t);
static pthread_once_t prepared = PTHREAD_ONCE_INIT;

static uint32_t by_table(uint32_t crc, const void *bytes, size_t length)
{
    const uint8_t *at = bytes;

    crc = ~crc;
    while (length--)
        crc = table[(crc ^ *at++) & 0xff] ^ (crc >> 8);
    return ~crc;
}

#ifdef __x86_64__
__attribute__((target("sse4.2")))
static uint32_t by_instruction(uint32_t crc, const void *bytes, size_t length)
{
    const uint8_t *at = bytes;
    uint64_t wide = ~crc;

    for (; length >= 8; length -= 8, at += 8) {
        uint64_t word;
        memcpy(&word, at, 8);
        wide = __builtin_ia32_crc32di(wide, word);
    }
    crc = (uint32_t)wide;
    while (length--)
        crc = __builtin_ia32_crc32qi(crc, *at++);
    return ~crc;
}
#endif

static void prepare(void)
{
    for (uint32_t value = 0; value < 256; value++) {
        uint32_t crc = value;
        for (int bit = 0; bit < 8; bit++)
            crc = (crc >> 1) ^ ((crc & 1) ? POLYNOMIAL : 0);
        table[value] = crc;
    }
    chosen = by_table;
#ifdef __x86_64__
    if (__builtin_cpu_supports("sse4.2"))
        chosen = by_instruction;
#endif
}

uint32_t crc32c(uint32_t crc, const void *bytes, size_t length)
{
    pthread_once(&prepared, prepare);
    return chosen(crc, bytes, length);
}

uint32_t crc32c_by_table(uint32_t crc, const void *bytes, size_t length)
{
    pthread_once(&prepared, prepare);
    return by_table(crc, bytes, length);
}
