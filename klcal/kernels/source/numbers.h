/* Logarithms and formats of scales: the same bits as NumPy's text of them, on every machine. */
#ifndef KLCAL_NUMBERS_H
#define KLCAL_NUMBERS_H

#include "common.h"

#define LN2 0x1.62e42fefa39efp-1
#define FLOAT32_MAX 0x1.fffffep127

/* ln x of a normal x > 0: x = 2^e·m with m from √½ to √2, and ln m = 2·artanh((m − 1)/(m + 1)) by its series, of
   which the eleventh term is below the last bit. */
INLINE double logarithm(double x) {
    union { double value; uint64_t bits; } each = {x}, exponent;
    exponent.bits = (each.bits >> 52) | 0x4330000000000000u; /* 2⁵² and it: AVX2 cannot convert 64-bit integers */
    each.bits = (each.bits & 0xfffffffffffffu) | 0x3ff0000000000000u;
    double m = each.value, e = exponent.value - (0x1p52 + 1023);
    int is_large = m >= 0x1.6a09e667f3bcdp0;
    m = is_large ? m / 2 : m;
    e = is_large ? e + 1 : e;
    double s = (m - 1) / (m + 1), z = s * s, sum = 1.0 / 21; /* no loop, so that one around it is vectorised */
    sum = sum * z + 1.0 / 19;
    sum = sum * z + 1.0 / 17;
    sum = sum * z + 1.0 / 15;
    sum = sum * z + 1.0 / 13;
    sum = sum * z + 1.0 / 11;
    sum = sum * z + 1.0 / 9;
    sum = sum * z + 1.0 / 7;
    sum = sum * z + 1.0 / 5;
    sum = sum * z + 1.0 / 3;
    return e * LN2 + 2 * s * (sum * z + 1.0);
}

/* x·ln x; a table has those of small whole numbers. */
typedef struct {
    const double *logarithms; /* of 0 (nothing), 1, 2, … */
    int64_t size;
} Logarithms;

INLINE double log_of(double x, const Logarithms *known) {
    if (x < known->size) {
        int64_t whole = (int64_t)x;
        if ((double)whole == x) return known->logarithms[whole];
    }
    return logarithm(x);
}

/* How many of some ascending numbers lie below one: without branches, which would be guessed wrong. */
INLINE int64_t number_below(const double *numbers, int64_t size, double limit) {
    const double *first = numbers;
    while (size > 1) {
        int64_t half = size / 2;
        first += -(int64_t)(first[half - 1] < limit) & half;
        size -= half;
    }
    return first - numbers + (size && *first < limit);
}

typedef struct {
    int64_t is_float32;
    int64_t mantissa_bits, min_exponent;
    double max, above, least; /* its maximum; from a power of two to the next number, relative; its least number */
    double global_scale, limit; /* to which scales are relative; beyond which an end of the range is no float32 */
} ScaleFormat;

/* 2 to a power from −1022 to 1023. */
INLINE double power_of_two(int64_t exponent) {
    union { uint64_t bits; double value; } each = {(uint64_t)(exponent + 1023) << 52};
    return each.value;
}

/* The greatest number of a format that is at most a value ≥ 0. Without branches, so that a loop around it is vectorised. */
INLINE double at_most(double value, const ScaleFormat *format) {
    union { double value; int64_t bits; } each = {value};
    int64_t own = (each.bits >> 52) - 1023, last = own > format->min_exponent ? own : format->min_exponent;
    int64_t last_bit = last - format->mantissa_bits;
    double found = floor(value * power_of_two(-last_bit)) * power_of_two(last_bit);
    found = value > 0 ? found : 0;
    return value >= format->max ? format->max : found;
}

/* The least number of a format that is at least a value ≥ 0; the greatest where there is none. */
INLINE double at_least(double value, const ScaleFormat *format) {
    double wanted = value / format->global_scale, below = at_most(wanted, format);
    if (!(below < wanted)) return below * format->global_scale;
    double next = below * (1 + format->above), step = below + format->least;
    return at_most(next > step ? next : step, format) * format->global_scale;
}

/* The number of the format that is nearest to a scale, of which no end is beyond float32; 0 where it underflows. */
INLINE double scale_of(double scale, const ScaleFormat *format) {
    double wanted = scale / format->global_scale, below = at_most(wanted, format);
    double next = below * (1 + format->above), step = below + format->least;
    double above = below < wanted ? at_most(next > step ? next : step, format) : below;
    double found = (wanted - below <= above - wanted ? below : above) * format->global_scale;
    return found < format->limit ? found : format->limit;
}

/* The same of a float32. */
INLINE double float32_scale_of(double scale, const ScaleFormat *format) {
    double found = (double)(float)(scale < FLOAT32_MAX ? scale : FLOAT32_MAX);
    return found < format->limit ? found : format->limit;
}

#endif
