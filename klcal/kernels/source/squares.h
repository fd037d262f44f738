/* The square of a value as an integer, and the cell that it is added to: on a CPU and on a device. */
#ifndef KLCAL_SQUARES_H
#define KLCAL_SQUARES_H

#define ENERGY_BITS 10  /* mantissa bits behind the leading one: a square is at most 0.1 % off */
#define ENERGY_CELLS 64 /* of 4 octaves each */
#define ENERGY_WIDTH 66 /* the cells, then the numbers of infinite values and of NaN */
#define ENERGY_MAGNITUDE 0x7fffffffu
#define ENERGY_INFINITE 0x7f800000u

/* The exponent of a magnitude; that of subnormal numbers is 1. */
INLINE uint32_t octave_of(uint32_t magnitude) { return magnitude >> 23 ? magnitude >> 23 : 1; }

INLINE uint32_t cell_of(uint32_t magnitude) { return octave_of(magnitude) / 4; }

/* The square in units of its cell, at most 2²⁸; 1 for a value that is not finite. */
INLINE uint32_t square_of(uint32_t magnitude) {
    uint32_t mantissa = (magnitude & 0x7fffffu) | (magnitude >> 23 ? 0x800000u : 0);
    uint32_t kept = (mantissa + (1u << (22 - ENERGY_BITS))) >> (23 - ENERGY_BITS);
    return magnitude >= ENERGY_INFINITE ? 1 : kept * kept << (octave_of(magnitude) % 4 * 2);
}

/* The place of the square among the ENERGY_WIDTH places of a column. */
INLINE uint32_t place_of_square(uint32_t magnitude) {
    return magnitude >= ENERGY_INFINITE ? ENERGY_CELLS + (magnitude > ENERGY_INFINITE) : cell_of(magnitude);
}

#endif
