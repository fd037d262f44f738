/* Values in storage form become float32 patterns; float64 is rounded. */
#ifndef KLCAL_PATTERNS_H
#define KLCAL_PATTERNS_H

#include "common.h"

#define SIGN 0x80000000u      /* the pattern of -0.0 */
#define INFINITE 0x7F800000u  /* the pattern of +inf; those of NaN are larger */
#define GREATEST 0xFFFFFFFFu  /* the largest pattern, a NaN */
#define PATTERN_BITS 23       /* of the mantissa */
#define HALF_SHIFT 13         /* bits of mantissa that float16 lacks */
#define HALF_BIAS (112u << PATTERN_BITS)  /* the difference of the exponents' biases */
#define HALF_INFINITE 0x7C00u
#define HALF_NORMAL 0x0400u   /* its smallest normal value */
#define HALF_STEP 0x1p-24f    /* its smallest value */
#define DOUBLE_INFINITE 0x7FF0000000000000u

/* Storage forms; klcal/kernels/units.py has the same numbers. */
enum kind { FLOAT32, FLOAT64, FLOAT16, BFLOAT16, BYTES };
static const int64_t WIDTHS[] = {4, 8, 2, 2, 1};

typedef uint16_t __attribute__((aligned(1), may_alias)) stored16;
typedef uint32_t __attribute__((aligned(1), may_alias)) stored32;
typedef double __attribute__((aligned(1), may_alias)) stored64;

/* Counts of finite float64 values that are beyond float32, or too near to 0 for it. */
struct rounded {
    int64_t below, above, to_zero;
};

INLINE uint32_t pattern_of(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

INLINE void from_halves(const stored16 *restrict values, int64_t size, uint32_t *restrict to)
{
    for (int64_t i = 0; i < size; i++) {
        uint32_t half = values[i], magnitude = half & 0x7FFFu;
        uint32_t tiny = pattern_of((float)(int32_t)magnitude * HALF_STEP);
        uint32_t other = (magnitude << HALF_SHIFT) + (magnitude < HALF_INFINITE ? HALF_BIAS : 2 * HALF_BIAS);
        to[i] = (magnitude < HALF_NORMAL ? tiny : other) | (half & 0x8000u) << 16;
    }
}

INLINE void from_doubles(const stored64 *restrict values, int64_t size, uint32_t *restrict to, struct rounded *rounded)
{
    int64_t below = 0, above = 0, to_zero = 0;
    for (int64_t i = 0; i < size; i++) {
        double value = values[i];
        uint64_t bits;
        memcpy(&bits, &value, sizeof bits);
        uint32_t pattern = pattern_of((float)value);
        int64_t finite = (bits & ~(1ull << 63)) < DOUBLE_INFINITE;
        below += finite & (pattern == (SIGN | INFINITE));
        above += finite & (pattern == INFINITE);
        to_zero += ((pattern & ~SIGN) == 0) & (value != 0);
        to[i] = pattern;
    }
    rounded->below += below, rounded->above += above, rounded->to_zero += to_zero;
}

INLINE void patterns_of(enum kind kind, const char *values, int64_t size, const uint32_t *restrict table,
                        uint32_t *restrict to, struct rounded *rounded)
{
    switch (kind) {
    case FLOAT32: memcpy(to, values, size * sizeof *to); break;
    case FLOAT64: from_doubles((const stored64 *)values, size, to, rounded); break;
    case FLOAT16: from_halves((const stored16 *)values, size, to); break;
    case BFLOAT16:
        for (int64_t i = 0; i < size; i++) to[i] = (uint32_t)((const stored16 *)values)[i] << 16;
        break;
    case BYTES:
        for (int64_t i = 0; i < size; i++) to[i] = table[((const uint8_t *)values)[i]];
        break;
    }
}
#endif
