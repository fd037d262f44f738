/* Sorts patterns by their digits, the last one first (radix sort), in a time that does not depend on the patterns. */
#ifndef KLCAL_DIGITS_H
#define KLCAL_DIGITS_H

#include "common.h"

#define DIGIT_BITS 11        /* three digits are a pattern; a table of 8 KiB */
#define SHORT_DIGIT_BITS 8   /* for few patterns: one more pass is faster than clearing and scanning a large table */
#define SHORT 2048           /* the limit of few */

/* One pass, by `bits` bits from `shift` on. */
INLINE void by_digit(const uint32_t *restrict from, uint32_t *restrict to, int64_t size, int shift, int bits)
{
    uint32_t place[1 << DIGIT_BITS];
    uint32_t mask = (1u << bits) - 1, total = 0;
    memset(place, 0, sizeof *place << bits);
    for (int64_t i = 0; i < size; i++) place[from[i] >> shift & mask]++;
    for (uint32_t digit = 0; digit <= mask; digit++) {
        uint32_t count = place[digit];
        place[digit] = total;
        total += count;
    }
    for (int64_t i = 0; i < size; i++) to[place[from[i] >> shift & mask]++] = from[i];
}

/* Sorts, and returns the one of two arrays that has the result. */
INLINE uint32_t *by_digits(uint32_t *keys, uint32_t *other, int64_t size)
{
    uint32_t differ = 0;
    for (int64_t i = 0; i < size; i++) differ |= keys[i] ^ keys[0];
    if (!differ) return keys;
    int first = __builtin_ctz(differ), bits = 32 - __builtin_clz(differ) - first;
    int most = size < SHORT ? SHORT_DIGIT_BITS : DIGIT_BITS, digits = (bits + most - 1) / most;
    int each = (bits + digits - 1) / digits;
    for (int digit = 0; digit < digits; digit++, first += each) {
        by_digit(keys, other, size, first, each);
        uint32_t *sorted = other;
        other = keys, keys = sorted;
    }
    return keys;
}
#endif
