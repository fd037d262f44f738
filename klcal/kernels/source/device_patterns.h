/* Values in storage form become float32 patterns, on a GPU, one at a time. */
#ifndef KLCAL_DEVICE_PATTERNS_H
#define KLCAL_DEVICE_PATTERNS_H

#include "device.h"

#define MAGNITUDE 0x7fffffffu
#define SIGN 0x80000000u
#define INFINITE 0x7f800000u
#define MANTISSA 23 /* bits of it */

enum { FLOAT32, FLOAT64, FLOAT16, BFLOAT16, BYTES }; /* as in patterns.h */

/* A float64 as float32, and whether a finite value became infinite, or a nonzero one 0. */
typedef struct {
    uint32_t pattern, is_beyond, is_to_zero;
} Rounded;

INLINE int width_of(int kind) { return kind == BYTES ? 1 : kind == FLOAT64 ? 8 : kind == FLOAT32 ? 4 : 2; }

INLINE uint32_t bits_of(float value) {
    union { float value; uint32_t bits; } each;
    each.value = value;
    return each.bits;
}

INLINE float value_of(uint32_t pattern) {
    union { float value; uint32_t bits; } each;
    each.bits = pattern;
    return each.value;
}

INLINE uint32_t pattern_of_half(uint32_t half) {
    uint32_t magnitude = half & 0x7fffu, sign = (half & 0x8000u) << 16;
    if (magnitude < 0x400u) return sign | bits_of((float)magnitude * 0x1p-24f);
    return sign | ((magnitude << 13) + (magnitude < 0x7c00u ? 112u << MANTISSA : 224u << MANTISSA));
}

INLINE Rounded rounded(uint64_t bits) {
    union { uint64_t bits; double value; } each;
    Rounded found;
    each.bits = bits;
    found.pattern = bits_of((float)each.value);
    uint32_t magnitude = found.pattern & MAGNITUDE;
    found.is_beyond = magnitude == INFINITE && (bits >> 32 & MAGNITUDE) < 0x7ff00000u;
    found.is_to_zero = magnitude == 0 && each.value != 0;
    return found;
}
#endif
