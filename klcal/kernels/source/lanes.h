/* Sorts 16 columns of patterns at once, each in a SIMD lane, by a network of exchanges that knows no branches.
 *
 * The network is Batcher's bitonic one in the form that only ever moves the smaller pattern up. So rows that are not
 * there behave as rows of greatest patterns, and any number of rows will do. Two or three levels of it are done at a
 * time, in registers: that halves what is loaded and stored.
 */
#ifndef KLCAL_LANES_H
#define KLCAL_LANES_H

#include "turn.h"

#define LANES 16       /* patterns in a row: one cache line, one register of AVX-512 */
#define EIGHT 8        /* rows sorted in registers; a number of rows is a multiple of it */
#define NEAR_ROWS 512  /* rows that are exchanged while they stay in the L1 cache: 32 KiB */

#define EXCHANGE(a, b)                 \
    do {                               \
        uint32_t least = a < b ? a : b; \
        b = a < b ? b : a;             \
        a = least;                     \
    } while (0)

/* Sorts rows 0 to 7, in 19 exchanges. */
INLINE void sort_eight(uint32_t *restrict row)
{
    for (int64_t i = 0; i < LANES; i++) {
        uint32_t a = row[i], b = row[LANES + i], c = row[2 * LANES + i], d = row[3 * LANES + i];
        uint32_t e = row[4 * LANES + i], f = row[5 * LANES + i], g = row[6 * LANES + i], h = row[7 * LANES + i];
        EXCHANGE(a, c); EXCHANGE(b, d); EXCHANGE(e, g); EXCHANGE(f, h);
        EXCHANGE(a, e); EXCHANGE(b, f); EXCHANGE(c, g); EXCHANGE(d, h);
        EXCHANGE(a, b); EXCHANGE(c, d); EXCHANGE(e, f); EXCHANGE(g, h);
        EXCHANGE(c, e); EXCHANGE(d, f);
        EXCHANGE(b, e); EXCHANGE(d, g);
        EXCHANGE(b, c); EXCHANGE(d, e); EXCHANGE(f, g);
        row[i] = a, row[LANES + i] = b, row[2 * LANES + i] = c, row[3 * LANES + i] = d;
        row[4 * LANES + i] = e, row[5 * LANES + i] = f, row[6 * LANES + i] = g, row[7 * LANES + i] = h;
    }
}

/* The levels of distances 4, 2 and 1. */
INLINE void merge_eight(uint32_t *restrict row)
{
    for (int64_t i = 0; i < LANES; i++) {
        uint32_t a = row[i], b = row[LANES + i], c = row[2 * LANES + i], d = row[3 * LANES + i];
        uint32_t e = row[4 * LANES + i], f = row[5 * LANES + i], g = row[6 * LANES + i], h = row[7 * LANES + i];
        EXCHANGE(a, e); EXCHANGE(b, f); EXCHANGE(c, g); EXCHANGE(d, h);
        EXCHANGE(a, c); EXCHANGE(b, d); EXCHANGE(e, g); EXCHANGE(f, h);
        EXCHANGE(a, b); EXCHANGE(c, d); EXCHANGE(e, f); EXCHANGE(g, h);
        row[i] = a, row[LANES + i] = b, row[2 * LANES + i] = c, row[3 * LANES + i] = d;
        row[4 * LANES + i] = e, row[5 * LANES + i] = f, row[6 * LANES + i] = g, row[7 * LANES + i] = h;
    }
}

/* Exchanges between stretches of patterns that lie one behind the other. */
INLINE void exchange(uint32_t *restrict upper, uint32_t *restrict lower, int64_t size)
{
    for (int64_t i = 0; i < size; i++) {
        uint32_t a = upper[i], b = lower[i];
        EXCHANGE(a, b);
        upper[i] = a, lower[i] = b;
    }
}

/* Two levels: of four stretches, the first with the third and the second with the fourth, then neighbours. */
INLINE void exchange_twice(uint32_t *restrict p, uint32_t *restrict q, uint32_t *restrict r, uint32_t *restrict s,
                           int64_t size)
{
    for (int64_t i = 0; i < size; i++) {
        uint32_t a = p[i], b = q[i], c = r[i], d = s[i];
        EXCHANGE(a, c); EXCHANGE(b, d);
        EXCHANGE(a, b); EXCHANGE(c, d);
        p[i] = a, q[i] = b, r[i] = c, s[i] = d;
    }
}

/* Two levels of four rows: the first with the last and the inner two, then neighbours. */
INLINE void exchange_folded(uint32_t *restrict p, uint32_t *restrict q, uint32_t *restrict r, uint32_t *restrict s)
{
    for (int64_t i = 0; i < LANES; i++) {
        uint32_t a = p[i], b = q[i], c = r[i], d = s[i];
        EXCHANGE(a, d); EXCHANGE(b, c);
        EXCHANGE(a, b); EXCHANGE(c, d);
        p[i] = a, q[i] = b, r[i] = c, s[i] = d;
    }
}

/* How many of `size` rows from `first` on are there. */
INLINE int64_t present(int64_t first, int64_t rows, int64_t size)
{
    int64_t left = rows - first;
    return left < 0 ? 0 : left < size ? left : size;
}

/* A level: rows [first, rows) with those `distance` below. */
INLINE void level(uint32_t *restrict all, int64_t first, int64_t rows, int64_t distance)
{
    for (int64_t low = first; low + distance < rows; low += 2 * distance) {
        uint32_t *upper = all + low * LANES;
        exchange(upper, upper + distance * LANES, present(low + distance, rows, distance) * LANES);
    }
}

/* That level and the one of half the distance. */
INLINE void two_levels(uint32_t *restrict all, int64_t first, int64_t rows, int64_t distance)
{
    int64_t half = distance / 2;
    for (int64_t low = first; low + half < rows; low += 2 * distance) {
        uint32_t *p = all + low * LANES, *q = p + half * LANES, *r = q + half * LANES, *s = r + half * LANES;
        int64_t four = present(low + distance + half, rows, half) * LANES;
        exchange_twice(p, q, r, s, four);
        exchange(p + four, r + four, present(low + distance, rows, half) * LANES - four);
        exchange(p + four, q + four, present(low + half, rows, half) * LANES - four);
    }
}

/* The levels from `distance` down to `last`, two at a time. */
INLINE void levels(uint32_t *restrict all, int64_t first, int64_t rows, int64_t distance, int64_t last)
{
    int odd = 0;
    for (int64_t each = distance; each >= last; each /= 2) odd = !odd;
    if (odd) {
        level(all, first, rows, distance);
        distance /= 2;
    }
    for (; distance >= last; distance /= 4) two_levels(all, first, rows, distance);
}

/* All levels that are left in a block of rows that stays near. */
INLINE void near_levels(uint32_t *restrict all, int64_t first, int64_t rows, int64_t distance)
{
    levels(all, first, rows, distance, EIGHT);
    for (int64_t row = first; row < rows; row += EIGHT) merge_eight(all + row * LANES);
}

/* What begins a merge of two sorted halves: each row with its mirror image, then with those a quarter of `size` below. */
INLINE void fold(uint32_t *restrict all, int64_t first, int64_t rows, int64_t size)
{
    int64_t quarter = size / 4 * LANES;
    for (int64_t i = 0; i < size / 4; i++) {
        int64_t last = first + size - 1 - i;
        uint32_t *p = all + (first + i) * LANES, *q = p + quarter, *s = all + last * LANES, *r = s - quarter;
        if (last < rows) {
            exchange_folded(p, q, r, s);
            continue;
        }
        if (last - size / 4 < rows) exchange(q, r, LANES);
        if (first + i + size / 4 < rows) exchange(p, q, LANES);
    }
}

/* Sorts each column of `rows` rows, a multiple of EIGHT. */
INLINE void sort_columns(uint32_t *restrict all, int64_t rows)
{
    for (int64_t first = 0; first < rows; first += NEAR_ROWS) {
        int64_t end = first + present(first, rows, NEAR_ROWS);
        for (int64_t row = first; row < end; row += EIGHT) sort_eight(all + row * LANES);
        for (int64_t size = 2 * EIGHT; size < 2 * (end - first); size *= 2)
            for (int64_t low = first; low + size / 2 < end; low += size) {
                int64_t stop = low + present(low, end, size);
                fold(all, low, stop, size);
                near_levels(all, low, stop, size / 8);
            }
    }
    for (int64_t size = 2 * NEAR_ROWS; size < 2 * rows; size *= 2)
        for (int64_t low = 0; low + size / 2 < rows; low += size) {
            int64_t stop = low + present(low, rows, size);
            fold(all, low, stop, size);
            levels(all, low, stop, size / 8, NEAR_ROWS);
            for (int64_t first = low; first < stop; first += NEAR_ROWS)
                near_levels(all, first, first + present(first, stop, NEAR_ROWS), NEAR_ROWS / 2);
        }
}
#endif
