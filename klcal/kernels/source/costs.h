/* What candidate quantizers cost a unit: klcal/search/point_costs.py and bucket_costs.py say the same in NumPy. */
#ifndef KLCAL_COSTS_H
#define KLCAL_COSTS_H

#include "numbers.h"
#include "prefix_sums.h"

#define MAX_INVERSE 1e30 /* of a scale: values are near 1, so a smaller one is of no use */
#define AT_ONCE 64       /* candidates that the loops over values are called with */
#define FEW_LEVELS 16    /* up to so many, each zero point is looked at where a unit has few values */
#define COUNTED 64       /* values that are counted faster than searched */
#define HALF_STEP (0.5 + 1e-9)
#define FLOAT32_STEP 0x1p-23
#define OUTERMOST 32 /* pieces at either end that a first look sees all of */
#define THINNING 8   /* other pieces in one of a first look */

enum { FIXED, SIGNED, AFFINE };

/* Of one number format and kind of zero point. */
typedef struct {
    int64_t kind, size, zero, is_float;
    double under_end, above_end; /* the outermost magnitudes of any candidate, in steps */
    double widest;               /* distance of two neighbouring levels */
    const double *above, *below; /* magnitudes of the levels of either sign, ascending, without zero */
    int64_t aboves, belows;
    Rounding rounding;
    ScaleFormat format;
} Scheme;

/* The widest range that a candidate may keep, and the scale that covers it. */
typedef struct {
    double low, high, full;
    int bounded;
} Span;

typedef struct {
    int64_t size;
    float *values;
    double *few;            /* the same as float64 */
    double *number, *total; /* of the values from each on, and their sum */
} Tail;

typedef struct {
    const Scheme *scheme;
    Span span;
    const PrefixSums *sums; /* of a unit that is looked at by them; else null */
    int64_t size;           /* values, padded */
    float *values, *counts; /* in units of a power of two; counts are null where all are 1 */
    double *few, *few_counts; /* the same as float64, where there are a few; else null */
    int every_zero_point;
    double power, inverse_power, min, max, total, gap;
    Tail above, below;
    Memory memory, tails, exact;
} Costs;

/* --- the values of a unit */

/* The bytes that the tail of so many values takes. */
static size_t bytes_of_tail(int64_t size) {
    return ((size_t)(size + 2) / 2 + 3 * (size_t)(size + 1)) * sizeof(double);
}

/* The values of one sign, outward from zero. */
static void fill_tail(Tail *tail, char *memory, const Costs *costs, int64_t size, int sign) {
    tail->values = (float *)memory;
    tail->number = (double *)(memory + (size_t)(size + 2) / 2 * sizeof(double));
    tail->total = tail->number + size + 1;
    tail->few = tail->total + size + 1;
    int64_t known = 0;
    for (int64_t i = 0; i < size; i++) {
        int64_t from = sign > 0 ? i : size - 1 - i;
        double value = sign * (costs->few ? costs->few[from] : costs->values[from]);
        if (value > 0) {
            tail->values[known] = (float)value;
            tail->few[known] = value;
            tail->number[known++] = costs->few ? costs->few_counts[from] : costs->counts ? costs->counts[from] : 1;
        }
    }
    tail->size = known;
    double number = 0, total = 0;
    for (int64_t i = known - 1; i >= 0; i--) {
        double count = tail->number[i];
        tail->total[i] = total = total + count * tail->few[i];
        tail->number[i] = number = number + count;
    }
    tail->number[known] = tail->total[known] = 0;
}

/* The least distance of two values, or of one from 0: of positive floats the patterns ascend, too. */
VARIANTS static double gap_of(const float *values, int64_t size) {
    uint32_t least = UINT32_MAX; /* less one, so that 0 is the greatest: small values may have become 0, or equal */
    for (int64_t i = 0; i < size; i++) {
        union { float value; uint32_t bits; } magnitude = {values[i]};
        uint32_t each = (magnitude.bits & ~SIGN) - 1;
        least = each < least ? each : least;
    }
    for (int64_t i = 1; i < size; i++) {
        union { float value; uint32_t bits; } step = {values[i] - values[i - 1]};
        uint32_t each = (step.bits & ~SIGN) - 1;
        least = each < least ? each : least;
    }
    return least == UINT32_MAX ? INFINITY : float_of(least + 1);
}

/* Values and counts as float32; whether all counts are 1. */
VARIANTS static int narrowed(const double *restrict values, const double *restrict counts, int64_t size,
                             double inverse, float *restrict narrow_values, float *restrict narrow_counts) {
    int64_t others = 0;
    for (int64_t i = 0; i < size; i++) {
        narrow_values[i] = (float)(values[i] * inverse);
        narrow_counts[i] = (float)counts[i];
        others += counts[i] != 1;
    }
    return others == 0;
}

static int fill_tails(Costs *costs, int64_t size) {
    size_t bytes = bytes_of_tail(size);
    char *tails = (char *)room(&costs->tails, 2 * bytes);
    if (!tails) return 0;
    fill_tail(&costs->above, tails, costs, size, 1);
    fill_tail(&costs->below, tails + bytes, costs, size, -1);
    return 1;
}

/* Values as the loops want them: (x, count) by rising value; 0 where there is no memory. */
static int fill_costs(Costs *costs, const Scheme *scheme, Span span, const double *values, const double *counts,
                      int64_t size, double min, double max, double total) {
    int64_t multiple = size <= LANES ? PADDING : TOGETHER, padded = (size + multiple - 1) / multiple * multiple;
    float *memory = (float *)room(&costs->memory, 2 * (size_t)padded * sizeof(float));
    if (!memory) return 0;
    int exponent;
    frexp(max > -min ? max : -min, &exponent);
    costs->scheme = scheme;
    costs->span = span;
    costs->sums = NULL;
    costs->size = padded;
    costs->values = memory;
    costs->counts = memory + padded;
    costs->power = ldexp(1.0, exponent - 1);
    costs->inverse_power = ldexp(1.0, 1 - exponent);
    costs->min = min;
    costs->max = max;
    costs->total = total;
    int once = narrowed(values, counts, size, costs->inverse_power, costs->values, costs->counts);
    for (int64_t i = size; i < padded; i++) costs->values[i] = costs->counts[i] = 0;
    costs->gap = gap_of(costs->values, size) * costs->power;
    if (once) costs->counts = NULL;
    costs->few = NULL;
    return scheme->kind != AFFINE || fill_tails(costs, size);
}

/* The same of at most MOST_OF_FEW values, which are looked at more precisely, and under more zero points. */
static int fill_few(Costs *costs, const double *values, const double *counts, int64_t size) {
    int64_t padded = size <= 8 ? 8 : size <= 16 ? 16 : MOST_OF_FEW;
    double *memory = (double *)room(&costs->exact, 2 * (size_t)padded * sizeof(double));
    if (!memory) return 0;
    costs->few = memory;
    costs->few_counts = memory + padded;
    costs->size = padded;
    for (int64_t i = size; i < padded; i++) costs->few[i] = costs->few_counts[i] = 0;
    costs->every_zero_point = costs->scheme->kind == AFFINE && costs->scheme->size <= FEW_LEVELS;
    double least = INFINITY;
    for (int64_t i = 0; i < size; i++) {
        costs->few[i] = values[i] * costs->inverse_power;
        costs->few_counts[i] = counts[i];
        double step = i ? costs->few[i] - costs->few[i - 1] : INFINITY, magnitude = fabs(costs->few[i]);
        if (magnitude > 0 && magnitude < least) least = magnitude;
        if (step > 0 && step < least) least = step;
    }
    costs->gap = least * costs->power;
    return costs->scheme->kind != AFFINE || fill_tails(costs, size);
}

/* The same of some of the values, for a first look: the outermost, and every eighth of the others for its neighbours. */
static int fill_thinned(Costs *costs, const Costs *all, const Pieces *pieces, Memory *memory) {
    int64_t size = pieces->size, number = 0, begin = 0;
    double *values = (double *)room(memory, 2 * (size_t)size * sizeof(double));
    if (!values) return 0;
    double *counts = values + size;
    while (begin < size) {
        int64_t end = begin + 1;
        while (end < size && end >= OUTERMOST && size - 1 - end >= OUTERMOST && (end - OUTERMOST) % THINNING) end++;
        double count = 0;
        for (int64_t i = begin; i < end; i++) count += pieces->counts[i];
        values[number] = pieces->values[begin + (end - begin) / 2];
        counts[number++] = count;
        begin = end;
    }
    return fill_costs(costs, all->scheme, all->span, values, counts, number, all->min, all->max, all->total);
}

/* --- which numbers of levels below zero are allowed */

INLINE double clamped(double value, double low, double high) {
    value = value > low ? value : low;
    return value < high ? value : high;
}

static void allowed_belows(const Costs *costs, double scale, int64_t *fewest, int64_t *most) {
    double last = (double)(costs->scheme->size - 1);
    if (!costs->span.bounded && last * scale <= FLOAT32_MAX) {
        *fewest = 0;
        *most = costs->scheme->size - 1;
        return;
    }
    double reach = floor(FLOAT32_MAX * (1 + FLOAT32_STEP) / scale);
    reach = reach < last ? reach : last;
    *fewest = (int64_t)(last - reach);
    *most = (int64_t)reach;
    if (!costs->span.bounded) return;
    double low = -costs->span.low / scale, high = costs->span.high / scale, least = last - reach;
    double up = clamped(floor(low + HALF_STEP), least, reach), down = clamped(ceil(last - high - HALF_STEP), least, reach);
    if (down > up) up = down = clamped(rint(low), least, reach);
    *fewest = (int64_t)down;
    *most = (int64_t)up;
}

static int is_valid(const Costs *costs, double scale, int64_t below) {
    const Scheme *scheme = costs->scheme;
    double under = scheme->is_float ? scheme->under_end : (double)below;
    double above = scheme->is_float ? scheme->above_end : (double)(scheme->size - 1 - below);
    if (!(scale > 0) || (under > above ? under : above) * scale > FLOAT32_MAX * (1 + FLOAT32_STEP)) return 0;
    if (!costs->span.bounded) return 1;
    if (scale > costs->span.full * (1 + FLOAT32_STEP)) return 0;
    if (scheme->kind != AFFINE) return 1;
    int64_t fewest, most;
    allowed_belows(costs, scale, &fewest, &most);
    return fewest <= below && below <= most;
}

/* --- errors of values */

/* Sums of some candidates, at most AT_ONCE, of which ``below`` levels lie below zero. */
static void sums_under(const Costs *costs, const double *scale, const int64_t *below, int64_t n, int64_t what,
                       double *found) {
    float inverse[AT_ONCE], low[AT_ONCE], high[AT_ONCE], sums[2 * AT_ONCE];
    double few_inverse[AT_ONCE];
    int64_t width = what == ERROR ? 1 : 2;
    for (int64_t i = 0; i < n; i++) {
        double one = 1 / (scale[i] * costs->inverse_power);
        one = one < MAX_INVERSE ? one : MAX_INVERSE;
        few_inverse[i] = one;
        inverse[i] = (float)one;
        low[i] = (float)below[i];
        high[i] = (float)(costs->scheme->size - 1 - below[i]);
    }
    if (costs->few) {
        sums_of_few(costs->few, costs->few_counts, costs->size, few_inverse, low, high, n, &costs->scheme->rounding, what,
                    found);
        return;
    }
    sums_of(costs->values, costs->counts, costs->size, inverse, low, high, n, &costs->scheme->rounding, what, sums);
    for (int64_t i = 0; i < width * n; i++) found[i] = sums[i];
}

/* Σ(x − x̂)² of each candidate. */
static void errors_of(const Costs *costs, const double *scale, const int64_t *below, int64_t n, double *error) {
    for (int64_t first = 0; first < n; first += AT_ONCE) {
        int64_t some = n - first < AT_ONCE ? n - first : AT_ONCE;
        sums_under(costs, scale + first, below + first, some, ERROR, error + first);
        for (int64_t i = first; i < first + some; i++) error[i] *= scale[i] * scale[i];
    }
}

/* The scales of least error where values keep the levels that they are rounded to. */
static void refined(const Costs *costs, const double *scale, const int64_t *below, int64_t n, double *better) {
    double sums[2 * AT_ONCE];
    for (int64_t first = 0; first < n; first += AT_ONCE) {
        int64_t some = n - first < AT_ONCE ? n - first : AT_ONCE;
        sums_under(costs, scale + first, below + first, some, SQUARES, sums);
        for (int64_t i = 0; i < some; i++) {
            double square = sums[2 * i], product = sums[2 * i + 1], old = scale[first + i] * costs->inverse_power;
            better[first + i] = (square > 0 ? product / square : old) * costs->power;
        }
    }
}

/* Σ(x − end)₊ of the values beyond an end > 0. They are found without branches, which would be guessed wrong. */
INLINE double beyond_end(const Tail *tail, double end, int few) {
    if (few) {
        int64_t place = 0;
        for (int64_t i = 0; i < tail->size; i++) place += tail->few[i] <= end;
        return tail->total[place] - end * tail->number[place];
    }
    float single = (float)(end < FLOAT32_MAX ? end : FLOAT32_MAX);
    union { float value; uint32_t bits; } below = {single};
    below.bits -= single > end; /* the next float32 */
    single = below.value;
    const float *values = tail->values;
    int64_t left = tail->size;
    while (left > COUNTED) {
        int64_t half = left / 2;
        values += -(int64_t)(values[half - 1] <= single) & half;
        left -= half;
    }
    int32_t within = 0;
    for (int32_t i = 0; i < (int32_t)left; i++) within += values[i] <= single;
    int64_t place = values - tail->values + within;
    return tail->total[place] - end * tail->number[place];
}

VARIANTS static int is_fine(const Costs *costs, int64_t below, double scale) {
    int few = costs->few != NULL;
    double above = beyond_end(&costs->above, ((double)(costs->scheme->size - 1 - below) + 0.5) * scale, few);
    return above <= beyond_end(&costs->below, ((double)below + 0.5) * scale, few);
}

/* The most levels below zero with which no more is cut off above than below, looked for from a guess on. */
static int64_t balanced(const Costs *costs, double scale, int64_t guess) {
    int64_t low = 0, high = costs->scheme->size, step = 1;
    if (guess > 0 && guess < high) {
        if (is_fine(costs, guess, scale)) {
            low = guess;
            while (low + step < high && is_fine(costs, low + step, scale)) {
                low += step;
                step *= 2;
            }
            high = low + step < high ? low + step : high;
        } else {
            high = guess;
            while (high - step > 0 && !is_fine(costs, high - step, scale)) {
                high -= step;
                step *= 2;
            }
            low = high - step > 0 ? high - step : 0;
        }
    }
    while (high - low > 1) {
        int64_t middle = (low + high) / 2;
        if (is_fine(costs, middle, scale)) low = middle;
        else high = middle;
    }
    return low;
}

/* --- errors by prefix sums */

/* By how much the levels of one sign reduce the squared error: each one's part, or their sum in lanes. */
static double saved_by(const Side *side, const double *levels, int64_t n, double scale, double *parts) {
    double lanes[SUM_LANES] = {0}, inner = 0;
    for (int64_t i = 0; i < n; i++) {
        double part = 0;
        if (side->extreme > 0)
            part = 2 * scale * (levels[i] - inner) * excess_beyond(side, scale * ((inner + levels[i]) / 2));
        inner = levels[i];
        lanes[i % SUM_LANES] += part;
        if (parts) parts[i] = part;
    }
    return sum_of_lanes(lanes);
}

INLINE double remaining(const PrefixSums *sums, double saved) {
    double left = sums->energy - saved;
    return (left > 0 ? left : 0) / sums->size;
}

/* The best number of levels below zero for a scale, and its error; of a given number where it is not negative. */
static void bucket_error(const Costs *costs, double scale, int64_t wanted, double *parts, int64_t *below,
                         double *error) {
    const Scheme *scheme = costs->scheme;
    const PrefixSums *sums = costs->sums;
    double *under = parts ? parts + scheme->size : NULL;
    double above = saved_by(&sums->sides[0], scheme->above, scheme->aboves, scale, parts);
    above += saved_by(&sums->sides[1], scheme->below, scheme->belows, scale, under);
    *below = scheme->zero;
    *error = remaining(sums, above) * sums->size;
    if (scheme->kind == FIXED) return;
    for (int64_t i = 1; i < scheme->aboves; i++) parts[i] += parts[i - 1];
    for (int64_t i = 1; i < scheme->belows; i++) under[i] += under[i - 1];
    int64_t fewest = scheme->kind == SIGNED ? scheme->zero - 1 : 0, most = scheme->kind == SIGNED ? scheme->zero : 0;
    if (scheme->kind == AFFINE) {
        fewest = 0;
        most = scheme->size - 1;
        if (wanted < 0) allowed_belows(costs, scale, &fewest, &most);
    }
    if (wanted >= 0) fewest = most = wanted;
    double least = INFINITY;
    for (int64_t i = 0; i <= most - fewest; i++) {
        int64_t option = scheme->kind == SIGNED ? most - i : fewest + i; /* of equal ones the first is taken */
        int64_t over = scheme->size - 1 - option;
        double saved = (over ? parts[over - 1] : 0) + (option ? under[option - 1] : 0);
        double each = remaining(sums, saved);
        if (each < least) {
            least = each;
            *below = option;
        }
    }
    *error = least * sums->size;
}

/* The best of all numbers of levels below zero that are allowed; at most FEW_LEVELS of them. */
static void least_of_every(const Costs *costs, double scale, int64_t *below, double *error) {
    int64_t fewest, most, n = 0, options[FEW_LEVELS];
    double scales[FEW_LEVELS], errors[FEW_LEVELS] = {0};
    allowed_belows(costs, scale, &fewest, &most);
    for (int64_t i = most; i >= fewest; i--) { /* of equal ones the first is taken */
        scales[n] = scale;
        options[n++] = i;
    }
    errors_of(costs, scales, options, n, errors);
    int64_t best = 0;
    for (int64_t i = 1; i < n; i++)
        if (errors[i] < errors[best]) best = i;
    *error = errors[best];
    *below = options[best];
}

/* The best number of levels below zero for each scale, and its Σ(x − x̂)². */
static void least_errors(const Costs *costs, const double *scale, int64_t n, double *parts, int64_t *below,
                         double *error) {
    const Scheme *scheme = costs->scheme;
    if (costs->sums) {
        for (int64_t i = 0; i < n; i++) bucket_error(costs, scale[i], -1, parts, &below[i], &error[i]);
        return;
    }
    if (costs->few && costs->every_zero_point) {
        for (int64_t i = 0; i < n; i++) least_of_every(costs, scale[i], &below[i], &error[i]);
        return;
    }
    int64_t other[AT_ONCE];
    double also[AT_ONCE], step = 0;
    int64_t guess = -1;
    for (int64_t first = 0; first < n; first += AT_ONCE) {
        int64_t some = n - first < AT_ONCE ? n - first : AT_ONCE;
        for (int64_t i = 0; i < some; i++) {
            int64_t at = first + i;
            below[at] = scheme->zero;
            other[i] = scheme->zero - 1;
            if (scheme->kind != AFFINE) continue;
            int64_t fewest, most;
            allowed_belows(costs, scale[at], &fewest, &most);
            double near = (double)guess * step / scale[at]; /* beyond int64 where a scale underflowed, and 1 stands for it */
            guess = guess >= 0 && near < (double)scheme->size ? (int64_t)near : -1;
            guess = balanced(costs, scale[at] * costs->inverse_power, guess);
            step = scale[at];
            below[at] = guess < fewest ? fewest : guess > most ? most : guess;
            other[i] = below[at] + 1 < most ? below[at] + 1 : most;
        }
        errors_of(costs, scale + first, below + first, some, error + first);
        if (scheme->kind == FIXED) continue;
        errors_of(costs, scale + first, other, some, also);
        for (int64_t i = 0; i < some; i++)
            if (also[i] < error[first + i]) {
                error[first + i] = also[i];
                below[first + i] = other[i];
            }
    }
}

#endif
