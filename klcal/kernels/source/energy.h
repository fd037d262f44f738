/* Squares of values, added up by columns as integers: klcal/kernels/energy.py does the same in NumPy, to the bit.

   A value is m · 2^e with m of ENERGY_BITS bits. Its square is added to the cell of its column and of e / 4, in units of
   the square of the smallest value of that cell. So the sum does not depend on the order of batches. */
#ifndef KLCAL_ENERGY_H
#define KLCAL_ENERGY_H

#include "common.h"
#include "squares.h"

#define ENERGY_LANES 16 /* values side by side */
#define ENERGY_ROWS 15  /* of them: so many squares of 28 bits add up in 32 */
#define ENERGY_BLOCK (16 * ENERGY_ROWS) /* rows whose sums are handed over together, where they lie together: 15 KiB */
#define ENERGY_WINDOW 4 /* cells below the greatest that have sums of their own */

typedef uint32_t Lanes __attribute__((vector_size(4 * ENERGY_LANES)));
typedef int32_t Signed __attribute__((vector_size(4 * ENERGY_LANES)));
typedef uint64_t WideLanes __attribute__((vector_size(8 * ENERGY_LANES)));

#define EITHER(mask, one, other) (((Lanes)(mask) & (one)) | (~(Lanes)(mask) & (other)))
#define OCTAVES_OF(magnitudes) EITHER((magnitudes) >> 23 != 0, (magnitudes) >> 23, ONES)
#define ONES ((Lanes){1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1})

/* As square_of, for finite values. */
#define SQUARES_OF(squares, magnitudes)                                                                                \
    Lanes octaves = OCTAVES_OF(magnitudes);                                                                            \
    Lanes kept = ((magnitudes) & 0x7fffffu) | ((Lanes)((magnitudes) >> 23 != 0) & 0x800000u);                          \
    kept = (kept + (1u << (22 - ENERGY_BITS))) >> (23 - ENERGY_BITS);                                                  \
    Lanes squares = kept * kept << (octaves % 4 * 2);

INLINE int has_any(const Lanes *lanes) {
    uint64_t words[ENERGY_LANES / 2], any = 0;
    memcpy(words, lanes, sizeof words);
    for (int64_t i = 0; i < ENERGY_LANES / 2; i++) any |= words[i];
    return any != 0;
}

/* Squares of some rows, at most ENERGY_ROWS: sums by cells from `top` down; what lies below is added one by one. */
INLINE void added_rows(const uint32_t *patterns, int64_t rows, int64_t stride, uint32_t top, WideLanes *sums,
                       int64_t *energy, int64_t step) {
    Lanes some[ENERGY_WINDOW] = {{0}}, below = {0}, magnitudes;
    for (int64_t row = 0; row < rows; row++) {
        memcpy(&magnitudes, patterns + row * stride, sizeof magnitudes);
        magnitudes &= ENERGY_MAGNITUDE;
        SQUARES_OF(squares, magnitudes)
        Lanes under = top - octaves / 4;
        for (uint32_t cell = 0; cell < ENERGY_WINDOW; cell++) some[cell] += (Lanes)(under == cell) & squares;
        below |= (Lanes)(under >= ENERGY_WINDOW) & magnitudes;
    }
    for (uint32_t cell = 0; cell < ENERGY_WINDOW; cell++) sums[cell] += __builtin_convertvector(some[cell], WideLanes);
    for (int64_t row = 0; row < rows && has_any(&below); row++) { /* seldom, and then in one row of them */
        memcpy(&magnitudes, patterns + row * stride, sizeof magnitudes);
        magnitudes &= ENERGY_MAGNITUDE;
        Lanes far = (Lanes)(top - OCTAVES_OF(magnitudes) / 4 >= ENERGY_WINDOW) & magnitudes;
        for (int64_t lane = 0; lane < ENERGY_LANES && has_any(&far); lane++)
            energy[lane * step + cell_of(far[lane])] += square_of(far[lane]); /* 0 of all others */
    }
}

/* Raises magnitudes to those of a row, where these are greater. */
INLINE void raise_to(Lanes *mosts, const void *row) {
    Lanes magnitudes;
    memcpy(&magnitudes, row, sizeof magnitudes);
    __builtin_prefetch((const char *)row + sizeof magnitudes); /* rows may lie too far apart for the machine to guess */
    magnitudes &= ENERGY_MAGNITUDE;
    Signed less = (Signed)(*mosts - magnitudes); /* a comparison would make the next row wait for twice as long */
    *mosts -= (Lanes)(less & (less >> 31));
}

/* Rows of lanes, at most ENERGY_BLOCK, `stride` apart. The cells of a lane are those of its column, `step` after the one
   before it; where this is 0, all are of one column. */
INLINE void added_squares(const uint32_t *patterns, int64_t rows, int64_t stride, int64_t *energy, int64_t step) {
    Lanes mosts = {0}, others = {0};
    WideLanes sums[ENERGY_WINDOW] = {{0}};
    uint32_t most = 0;
    int64_t row = 0;
    for (; row + 1 < rows; row += 2) {
        raise_to(&mosts, patterns + row * stride);
        raise_to(&others, patterns + (row + 1) * stride);
    }
    if (row < rows) raise_to(&mosts, patterns + row * stride);
    raise_to(&mosts, &others);
    for (int64_t lane = 0; lane < ENERGY_LANES; lane++) most = mosts[lane] > most ? mosts[lane] : most;
    uint32_t top = cell_of(most), is_finite = most < ENERGY_INFINITE;
    for (row = 0; row < rows && is_finite; row += ENERGY_ROWS) {
        int64_t some = rows - row < ENERGY_ROWS ? rows - row : ENERGY_ROWS;
        added_rows(patterns + row * stride, some, stride, top, sums, energy, step);
    }
    for (uint32_t cell = 0; cell < ENERGY_WINDOW && cell <= top && is_finite; cell++) {
        int64_t sum = 0;
        for (int64_t lane = 0; lane < ENERGY_LANES && !step; lane++) sum += (int64_t)sums[cell][lane];
        energy[top - cell] += sum;
        for (int64_t lane = 0; lane < ENERGY_LANES && step; lane++)
            energy[lane * step + top - cell] += (int64_t)sums[cell][lane];
    }
    for (row = 0; row < rows && !is_finite; row++)
        for (int64_t lane = 0; lane < ENERGY_LANES; lane++) {
            uint32_t magnitude = patterns[row * stride + lane] & ENERGY_MAGNITUDE;
            energy[lane * step + place_of_square(magnitude)] += square_of(magnitude);
        }
}

/* Adds values, (outer, columns, run); energy is (columns, ENERGY_WIDTH). */
PUBLIC VARIANTS void klcal_energy(const uint32_t *patterns, int64_t outer, int64_t columns, int64_t run, int64_t *energy) {
    int64_t row = columns * run, in_lanes = run == 1 ? columns / ENERGY_LANES * ENERGY_LANES : 0;
    for (int64_t first = 0; first < outer && in_lanes; first += ENERGY_ROWS) {
        int64_t rows = outer - first < ENERGY_ROWS ? outer - first : ENERGY_ROWS;
        for (int64_t column = 0; column < in_lanes; column += ENERGY_LANES)
            added_squares(patterns + first * row + column, rows, row, energy + column * ENERGY_WIDTH, ENERGY_WIDTH);
    }
    for (int64_t turn = 0; turn < outer; turn++)
        for (int64_t column = in_lanes; column < columns; column++) {
            const uint32_t *some = patterns + turn * row + column * run;
            int64_t i = 0, *own = energy + column * ENERGY_WIDTH;
            for (int64_t rows; (rows = (run - i) / ENERGY_LANES) > 0; i += rows * ENERGY_LANES) {
                rows = rows < ENERGY_BLOCK ? rows : ENERGY_BLOCK;
                added_squares(some + i, rows, ENERGY_LANES, own, 0);
            }
            for (; i < run; i++) own[place_of_square(some[i] & ENERGY_MAGNITUDE)] += square_of(some[i] & ENERGY_MAGNITUDE);
        }
}

#endif
