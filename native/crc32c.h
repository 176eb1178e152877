/* CRC32C (Castagnoli), as the queue's records and segment headers carry it. */
#ifndef QMAILD_CRC32C_H
#define QMAILD_CRC32C_H

#include <stddef.h>
#include <stdint.h>

/* The checksum of `length` bytes, continuing from `crc` (0 to begin). Never fails.
   crc32c(0, "123456789", 9) is 0xe3069283. */
uint32_t crc32c(uint32_t crc, const void *bytes, size_t length);

/* The same by table, whatever the processor offers; tests hold the two against each other. */
uint32_t crc32c_by_table(uint32_t crc, const void *bytes, size_t length);

#endif
