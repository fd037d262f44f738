/* How often each float32 key, or each 16- or 8-bit pattern, occurs in an array. klcal/sketches/numpy_counting.py does the
   same in NumPy. All state is in arrays of the caller, so several threads may count, each in its own tables. */
#ifndef KLCAL_COUNTING_H
#define KLCAL_COUNTING_H

#include "common.h"
#include "keys.h"

#define KEY_SHIFT 13          /* bits of a float32 pattern below its key */
#define KEYS (1 << 19)        /* keys of all patterns */
#define TAKEN 8               /* neighbouring keys whose counts are taken at once: most of them do not occur */

/* As FLOAT_WAYS, of patterns. kernels/counting.py knows all three. */
#define SHORT_WAYS 4
#define BYTE_WAYS 8

/* The distinct patterns, as long as there are few, lie in bins of two; (2^number_bits, 2) patterns stand before
   (2^number_bits, 2, FLOAT_WAYS) counts: side by side, a count that is written would delay the next pattern that is read.
   Both of a bin are compared, for a branch between them is often guessed wrong; of 4,000 values in 2¹⁵ bins, one in
   400 is elsewhere than in its own. Patterns are inverted, so that 0, the mark of an empty place, is a NaN. Behind the
   counts is the list of the places that are taken, in the order in which they were. */
#define GOLDEN 0x9e3779b1u /* 2³² over the golden ratio: multiples of it lie far apart */

typedef double __attribute__((aligned(1), may_alias)) Double;
typedef uint64_t __attribute__((aligned(1), may_alias)) Word;
typedef uint16_t __attribute__((aligned(1), may_alias)) Short;

typedef struct {
    int64_t number_bits; /* there are 2^number_bits bins */
    int64_t limit, distinct; /* the limit of distinct values, and their number; zeros do not count */
    int64_t in_use;
    int64_t taken; /* places */
} Few;

INLINE uint32_t *counts_of(uint32_t *bins, const Few *few) { return bins + ((uint64_t)2 << few->number_bits); }

INLINE uint32_t *places_of(uint32_t *bins, const Few *few) {
    return counts_of(bins, few) + ((uint64_t)2 << few->number_bits) * FLOAT_WAYS;
}

/* float64 values as float32, with zeros for those beyond it, which are counted. */
INLINE void rounded_singles(const Double *values, int64_t size, uint32_t *singles, Seen *seen) {
    uint32_t overflowed = 0, underflowed = 0;
    for (int64_t i = 0; i < size; i++) {
        double value = values[i];
        union { float value; uint32_t bits; } single = {(float)value};
        uint32_t magnitude = single.bits & MAGNITUDE;
        uint32_t is_beyond = (magnitude == INFINITE) & (fabs(value) < INFINITY);
        overflowed += is_beyond;
        underflowed += (magnitude == 0) & (value != 0);
        singles[i] = is_beyond ? 0 : single.bits;
    }
    seen->overflowed += overflowed;
    seen->underflowed += underflowed;
    seen->zeros -= overflowed;
}

/* The place of an inverted pattern, perhaps a new one; -1 if there would be too many distinct values. */
static int64_t place_of(uint32_t *bins, uint32_t inverted, Few *few) {
    uint32_t last = (2u << few->number_bits) - 1, place = ((inverted * GOLDEN) >> (32 - few->number_bits)) * 2;
    while (bins[place] && bins[place] != inverted) place = (place + 1) & last;
    if (bins[place]) return place;
    int is_value = (~inverted & MAGNITUDE) != 0;
    if (is_value && few->distinct == few->limit) return -1;
    few->distinct += is_value;
    bins[place] = inverted;
    places_of(bins, few)[few->taken++] = place;
    return place;
}

/* Counts finite patterns, at most BLOCK, in the bins. Returns how many were counted before there were too many distinct
   values. All places are found before any is counted: a sum that waits for an earlier one then delays nothing else. */
INLINE int64_t counted_few(const Bits *bits, int64_t size, uint32_t *bins, Few *few) {
    uint32_t shift = 32 - (uint32_t)few->number_bits, places[BLOCK], elsewhere = 0;
    uint32_t *counts = counts_of(bins, few);
    for (int64_t i = 0; i < size; i++) {
        uint32_t inverted = ~bits[i];
        int32_t place = (int32_t)(((inverted * GOLDEN) >> shift) * 2);
        uint32_t is_first = bins[place] == inverted, is_second = bins[place + 1] == inverted;
        places[i] = (uint32_t)place + !is_first;
        elsewhere |= !(is_first | is_second);
    }
    int64_t found = size, i = 0;
    if (elsewhere) {
        for (found = 0; found < size; found++) {
            if (bins[places[found]] == ~bits[found]) continue;
            int64_t place = place_of(bins, ~bits[found], few);
            if (place < 0) break;
            places[found] = (uint32_t)place;
        }
    }
    for (; i + 4 <= found; i += 4)
        for (int64_t way = 0; way < 4; way++) counts[places[i + way] * FLOAT_WAYS + way % FLOAT_WAYS]++;
    for (; i < found; i++) counts[places[i] * FLOAT_WAYS]++;
    return found;
}

/* Counts values: among the few as long as these are in use, then in the table, (KEYS + SPARE, FLOAT_WAYS). */
PUBLIC VARIANTS void klcal_count_floats(const void *values, int64_t size, int64_t is_double, uint32_t *bins, Few *few,
                                        uint32_t *table, Seen *seen) {
    uint32_t singles[BLOCK], finite[BLOCK], keys[BLOCK];
    for (int64_t start = 0; start < size; start += BLOCK) {
        int64_t some = size - start < BLOCK ? size - start : BLOCK, known = 0;
        const Bits *bits = (const Bits *)values + start;
        if (is_double) {
            rounded_singles((const Double *)values + start, some, singles, seen);
            bits = singles;
        }
        if (has_nonfinite(bits, some)) {
            without_nonfinite(bits, some, finite, seen);
            bits = finite;
        }
        if (few->in_use) {
            known = counted_few(bits, some, bins, few);
            few->in_use = known == some;
        }
        if (known == some) continue;
        keys_of(bits + known, some - known, KEY_SHIFT, keys, seen);
        counted_keys(keys, some - known, table);
    }
}

/* Counts 16-bit patterns in a table, (2¹⁶, SHORT_WAYS). */
PUBLIC VARIANTS void klcal_count_shorts(const Short *values, int64_t size, uint32_t *table) {
    int64_t i = 0;
    for (; i + 4 <= size; i += 4) {
        uint64_t word = *(const Word *)(values + i);
        table[(word & 0xffff) * SHORT_WAYS]++;
        table[(word >> 16 & 0xffff) * SHORT_WAYS + 1 % SHORT_WAYS]++;
        table[(word >> 32 & 0xffff) * SHORT_WAYS + 2 % SHORT_WAYS]++;
        table[(word >> 48) * SHORT_WAYS + 3 % SHORT_WAYS]++;
    }
    for (; i < size; i++) table[values[i] * SHORT_WAYS]++;
}

/* Counts 8-bit patterns in a table, (2⁸, BYTE_WAYS). */
PUBLIC VARIANTS void klcal_count_bytes(const uint8_t *values, int64_t size, uint32_t *table) {
    int64_t i = 0;
    for (; i + 8 <= size; i += 8) {
        uint64_t word = *(const Word *)(values + i);
        for (int way = 0; way < 8; way++) table[(word >> 8 * way & 0xff) * BYTE_WAYS + way]++;
    }
    for (; i < size; i++) table[values[i] * BYTE_WAYS]++;
}

/* Takes the counts of the keys from first to last out of the table. Returns how many keys occur; these are written with
   their counts. */
INLINE int64_t taken(uint32_t *table, int64_t ways, int64_t first, int64_t last, int64_t *keys, int64_t *counts) {
    int64_t found = 0;
    for (int64_t start = first; start < last; start += 16) { /* most keys of an ordinary tensor do not occur */
        int64_t end = start + 16 < last ? start + 16 : last;
        uint32_t any = 0;
        for (int64_t i = start * ways; i < end * ways; i++) any |= table[i];
        if (!any) continue;
        for (int64_t key = start; key < end; key++) {
            int64_t count = 0;
            for (int64_t way = 0; way < ways; way++) count += table[key * ways + way];
            keys[found] = key;
            counts[found] = count;
            found += count != 0;
        }
        memset(table + start * ways, 0, (size_t)((end - start) * ways) * sizeof *table);
    }
    return found;
}

PUBLIC VARIANTS int64_t klcal_take_counts(uint32_t *table, int64_t ways, int64_t first, int64_t last, int64_t *keys,
                                          int64_t *counts) {
    if (ways == SHORT_WAYS) return taken(table, SHORT_WAYS, first, last, keys, counts);
    return taken(table, ways, first, last, keys, counts);
}

/* Takes the pattern at a place of the bins, and its count, out of the bins. */
INLINE uint32_t taken_few(uint32_t *bins, const Few *few, uint32_t place, uint32_t *times) {
    uint32_t *counts = counts_of(bins, few) + (uint64_t)place * FLOAT_WAYS, pattern = ~bins[place];
    *times = 0;
    for (int64_t way = 0; way < FLOAT_WAYS; way++) {
        *times += counts[way];
        counts[way] = 0;
    }
    bins[place] = 0;
    return pattern;
}

INLINE void none_of_few(Few *few) {
    few->distinct = few->taken = 0;
    few->in_use = 1;
}

/* Takes all patterns out of the bins, in any order, each with its count: the pattern is the upper half of a word, the
   count the lower one. Returns how many there are. */
PUBLIC int64_t klcal_take_few(uint32_t *bins, Few *few, uint64_t *pairs) {
    int64_t found = few->taken;
    for (int64_t i = 0; i < found; i++) {
        uint32_t times, pattern = taken_few(bins, few, places_of(bins, few)[i], &times);
        pairs[i] = (uint64_t)pattern << 32 | times;
    }
    none_of_few(few);
    return found;
}

/* Takes the counts of buckets out of the table, after moving the values of the bins to it.

   Zeros are added to those in `seen`. Counts fit in 31 bits if there were fewer than 2³¹ values. Returns the number of
   buckets; writes the patterns at which they begin, ascending, and their counts. Table and bins are empty afterwards. */
PUBLIC VARIANTS int64_t klcal_take_buckets(uint32_t *bins, Few *few, uint32_t *table, Seen *seen, uint32_t *buckets,
                                           int32_t *counts) {
    uint32_t patterns[BLOCK], times[BLOCK], keys[BLOCK];
    int64_t found = 0;
    for (int64_t start = 0; start < few->taken; start += BLOCK) {
        int64_t some = few->taken - start < BLOCK ? few->taken - start : BLOCK;
        for (int64_t i = 0; i < some; i++) patterns[i] = taken_few(bins, few, places_of(bins, few)[start + i], times + i);
        keys_of(patterns, some, KEY_SHIFT, keys, seen);
        for (int64_t i = 0; i < some; i++) table[(uint64_t)keys[i] * FLOAT_WAYS] += times[i];
    }
    none_of_few(few);
    for (int64_t i = KEYS * FLOAT_WAYS; i < (KEYS + SPARE) * FLOAT_WAYS; i++) {
        seen->zeros += table[i];
        table[i] = 0;
    }
    uint32_t least = (uint32_t)seen->nearest, tops[] = {(uint32_t)seen->top, (uint32_t)seen->bottom};
    for (uint32_t sign = 0; sign < 2; sign++) { /* between the extremes of either sign */
        uint32_t low = least + (sign << 31), high = tops[sign];
        if (seen->nearest > MAGNITUDE || high < low) continue;
        int64_t last = (high >> KEY_SHIFT) + 1;
        for (int64_t start = low >> KEY_SHIFT; start < last; start += TAKEN) { /* beyond the last, none of this sign occurs */
            uint32_t *here = table + start * FLOAT_WAYS, sums[TAKEN], any = 0;
            for (int64_t i = 0; i < TAKEN; i++) any |= sums[i] = here[i * FLOAT_WAYS] + here[i * FLOAT_WAYS + 1];
            if (!any) continue;
            for (int64_t i = 0; i < TAKEN; i++) {
                buckets[found] = (uint32_t)(start + i) << KEY_SHIFT;
                counts[found] = (int32_t)sums[i];
                found += sums[i] != 0;
            }
            memset(here, 0, TAKEN * FLOAT_WAYS * sizeof *here);
        }
    }
    return found;
}

#endif
