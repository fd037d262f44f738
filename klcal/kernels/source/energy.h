/* Squares of values, added up by columns as integers: klcal/kernels/energy.py says the same in NumPy, to the bit.

   A value is m · 2^e with m of ENERGY_BITS bits. Its square is added to the cell of its column and of e / 4, in units of
   the square of the least value of that cell: so any order of any batches gives the same. */
#ifndef KLCAL_ENERGY_H
#define KLCAL_ENERGY_H

#include "common.h"

#define ENERGY_BITS 10 /* of a mantissa, behind the leading one: its square is 0.1 % off at most */
#define ENERGY_CELLS 64 /* of 4 octaves each */

/* Adds rows of values; energy is (columns, ENERGY_CELLS). NaN and infinities are left out. */
PUBLIC void klcal_energy(const uint32_t *patterns, int64_t rows, int64_t columns, int64_t *energy) {
    for (int64_t row = 0; row < rows; row++, patterns += columns)
        for (int64_t column = 0; column < columns; column++) {
            uint32_t magnitude = patterns[column] & 0x7fffffffu, exponent = magnitude >> 23;
            if (exponent == 255) continue;
            uint32_t mantissa = (magnitude & 0x7fffffu) | (exponent ? 0x800000u : 0);
            exponent += !exponent;
            int64_t kept = (mantissa + (1u << (22 - ENERGY_BITS))) >> (23 - ENERGY_BITS);
            energy[column * ENERGY_CELLS + exponent / 4] += kept * kept << (exponent % 4 * 2);
        }
}

#endif
