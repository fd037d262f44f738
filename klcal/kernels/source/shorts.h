/* Counts the bfloat16 values of a unit in a table of all patterns: sorting takes twice as long, if there are many values. */
#ifndef KLCAL_SHORTS_H
#define KLCAL_SHORTS_H

#include "runs.h"

#define SHORT_PATTERNS (1 << 16)
#define SHORT_BITS 7       /* of mantissa: if a sketch keeps as many of all values, it keeps the patterns whole */
#define SHORT_SIGN 0x8000u
#define SHORT_INFINITE 0x7f80u
#define LEAST_SHORTS 1024  /* values of a unit: looking through the table takes longer than sorting fewer */
#define MOST_SHORTS 65535  /* the largest count in the table */
#define SLOTS 32           /* counts that are looked at together: most are all 0 */

/* Writes the patterns of one sign, with magnitudes from `first` to `last`, from `at` on, and clears their counts. Returns
   the place behind the last. */
INLINE int64_t take_shorts(uint16_t *restrict table, uint32_t sign, uint32_t first, uint32_t last, struct sketch *to, int64_t at)
{
    for (uint32_t start = first / SLOTS * SLOTS; start <= last; start += SLOTS) {
        uint16_t *restrict some = table + (sign | start);
        uint64_t parts[SLOTS * sizeof *some / sizeof(uint64_t)], any = 0;
        memcpy(parts, some, sizeof parts);
        for (uint32_t i = 0; i < sizeof parts / sizeof *parts; i++) any |= parts[i];
        if (!any) continue;
        uint32_t places[SLOTS], n = 0;
        for (uint32_t i = 0; i < SLOTS; i++) {
            places[n] = i;
            n += some[i] != 0;
        }
        for (uint32_t i = 0; i < n; i++) {
            to->keys[at + i] = (sign | (start + places[i])) << 16;
            to->counts[at + i] = some[places[i]];
        }
        at += n;
        memset(some, 0, SLOTS * sizeof *some);
    }
    return at;
}

/* Counts zeros, NaN and infinities of one sign, and clears their counts. */
INLINE void take_special(uint16_t *table, uint32_t sign, int is_finite, struct sketch *to, int64_t unit, enum counter infinite)
{
    to->counters[ZEROS][unit] += table[sign];
    table[sign] = 0;
    if (is_finite) return;
    to->counters[infinite][unit] += table[sign | SHORT_INFINITE];
    for (uint32_t i = SHORT_INFINITE + 1; i < SHORT_SIGN; i++) to->counters[NANS][unit] += table[sign | i];
    memset(table + (sign | SHORT_INFINITE), 0, (SHORT_SIGN - SHORT_INFINITE) * sizeof *table);
}

/* Writes the sketch of a unit, its keys from `at` on, and returns their end. All counts of the table are 0 before and after. */
INLINE int64_t sketch_of_shorts(const stored16 *restrict values, int64_t size, uint16_t *restrict table, struct sketch *to,
                                int64_t unit, int64_t at)
{
    uint16_t least = 0xffff, greatest = 0;
    for (int64_t i = 0; i < size; i++) {
        uint16_t magnitude = values[i] & (uint16_t)~SHORT_SIGN, less_one = (uint16_t)(magnitude - 1);
        least = less_one < least ? less_one : least; /* 0 becomes the greatest */
        greatest = magnitude > greatest ? magnitude : greatest;
    }
    for (int64_t i = 0; i < size; i++) table[values[i]]++;
    int is_finite = greatest < SHORT_INFINITE;
    take_special(table, 0, is_finite, to, unit, POS_INFS);
    take_special(table, SHORT_SIGN, is_finite, to, unit, NEG_INFS);
    uint32_t first = (uint32_t)least + 1, last = is_finite ? greatest : SHORT_INFINITE - 1;
    int64_t begin = at, middle = least == 0xffff ? at : take_shorts(table, 0, first, last, to, at);
    at = least == 0xffff ? at : take_shorts(table, SHORT_SIGN, first, last, to, middle);
    const uint32_t *keys = to->keys;
    to->minimum[unit] = at > middle ? value_of(keys[at - 1]) : middle > begin ? value_of(keys[begin]) : HUGE_VAL;
    to->maximum[unit] = middle > begin ? value_of(keys[middle - 1]) : at > middle ? value_of(keys[middle]) : -HUGE_VAL;
    to->exact[unit] = 1;
    to->pieces[unit] = at - begin;
    return at;
}
#endif
