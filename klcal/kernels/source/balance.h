/* The zero points with which clipping costs least: klcal/search/balance.py says the same in NumPy, to the bit.

   The squared excess of the values beyond the two ends of a range is convex in the place of the range, and its derivative is
   the difference of Σ excess at either end. So clipping costs least where as much is cut off above as below. Where such a
   range narrows, both ends move inward from value to value. Between two of these each end moves by a fixed share. */
#ifndef KLCAL_BALANCE_H
#define KLCAL_BALANCE_H

#include "bucket_costs.h"

#define ALMOST_HALF 0.45f /* of a step: a value so near beyond a level is rounded to it, whatever float32 does to 16 bits */

/* A value at the end of that sign, as a magnitude; 0 behind the last one. `at` is its place in (size, TOGETHER). */
INLINE double value_at_end(const Costs *costs, int32_t at, int sign) {
    int32_t last = (int32_t)AT(costs->size - 1, TOGETHER - 1), near = at < 0 ? 0 : at > last ? last : at;
    double value = sign * (IS_LOOKED_AT(costs, BY_FEW) ? costs->few[near] : (double)costs->values[near]);
    return near == at && value > 0 ? value : 0;
}

/* How often it occurs; 1 for what is behind the last one. */
INLINE double count_at_end(const Costs *costs, int32_t at, double value) {
    if (IS_LOOKED_AT(costs, BY_FEW)) return value > 0 ? costs->few_counts[at] : 1;
    return value > 0 && costs->counts ? costs->counts[at] : 1;
}

/* A row: from this width of the range on, the lower end, and its share of what the range narrows by. */
INLINE void put_row(Balance *balance, int64_t at, double width, double low, double share) {
    balance->width[at] = (float)width;
    balance->low[at] = (float)low;
    balance->share[at] = (float)share;
}

#ifdef TEAM
#include "device_balance.h"
#else

/* Room for units of so many values; null if there is no memory. */
static Balance *room_for_balance(Costs *costs, int64_t size) {
#ifdef BY_THREADS
    (void)size;
    return costs->balance;
#else
    int64_t all = AT(size + 4, 0);
    Balance *balance = (Balance *)room(&costs->ends, sizeof(Balance) + 3 * (size_t)all * sizeof(float));
    if (!balance) return NULL;
    balance->width = (float *)(balance + 1);
    balance->low = balance->width + all;
    balance->share = balance->low + all;
    return costs->balance = balance;
#endif
}

/* Σ excess at an end where it reaches its next value; inf where there is none. */
INLINE double next_excess(const End *end, int unit, double next) {
    return end->value[unit] > 0 ? end->excess[unit] + end->number[unit] * (end->value[unit] - next) : INFINITY;
}

INLINE void move_end(End *end, int unit, int32_t by, double value, double excess, double count) {
    end->next[unit] += by;
    end->value[unit] = value;
    end->excess[unit] = excess;
    end->number[unit] += count;
}

/* Adds a row for the next value that an end of the range reaches. */
static void narrow(const Costs *costs, Balance *balance) {
    End *above = &balance->above, *below = &balance->below;
    int64_t row = AT(balance->rows++, 0);
    EACH_UNIT(unit) {
        int32_t one = above->next[unit], other = below->next[unit];
        double high = value_at_end(costs, one, 1), low = value_at_end(costs, other, -1);
        double over = next_excess(above, unit, high), under = next_excess(below, unit, low);
        int is_high = over <= under;
        double excess = is_high ? over - below->excess[unit] : under - above->excess[unit];
        double moved = is_high ? below->value[unit] : above->value[unit], least = is_high ? low : high;
        moved -= excess / (is_high ? below->number[unit] : above->number[unit]);
        moved = moved > least ? moved : least;
        double more = count_at_end(costs, one, high), also = count_at_end(costs, other, low);
        move_end(above, unit, is_high ? -STRIDE : 0, is_high ? high : above->value[unit],
                 is_high ? over : above->excess[unit], is_high ? more : 0);
        move_end(below, unit, is_high ? 0 : STRIDE, is_high ? below->value[unit] : low,
                 is_high ? below->excess[unit] : under, is_high ? 0 : also);
        put_row(balance, row + unit, (is_high ? high : low) + moved, is_high ? moved : low,
                above->number[unit] / (above->number[unit] + below->number[unit]));
    }
}

/* Begins with the range of all values of units of these sizes, (TOGETHER,). A wider range ends at the highest value. */
static int fill_balance(Costs *costs, const int64_t *sizes) {
    Balance *balance = room_for_balance(costs, costs->size);
    if (!balance) return 0;
    End none = {{0}, {0}, {0}, {0}};
    balance->above = balance->below = none;
    balance->rows = 2;
    for (int unit = 0; unit < TOGETHER; unit++) {
        int32_t last = (int32_t)AT(sizes[unit] - 1, unit), first = unit;
        double high = value_at_end(costs, last, 1), low = value_at_end(costs, first, -1);
        double more = count_at_end(costs, last, high), also = count_at_end(costs, first, low);
        move_end(&balance->above, unit, last - STRIDE, high, 0, more);
        move_end(&balance->below, unit, first + STRIDE, low, 0, also);
        put_row(balance, unit, high + low, low, 1);
        put_row(balance, AT(1, unit), high + low, low, more / (more + also));
    }
    return 1;
}

/* Adds rows until a range of each unit is wider than the last one. */
static void narrow_to(const Costs *costs, const float *width) {
    for (int is_wider = 1; is_wider;) {
        const float *last = costs->balance->width + AT(costs->balance->rows - 1, 0);
        is_wider = 0;
        EACH_UNIT(unit) is_wider |= last[unit] > width[unit];
        if (is_wider) narrow(costs, costs->balance);
    }
}

#endif

/* The last row of each unit whose width is above that of a range, or the first one. */
INLINE void rows_above(const Balance *balance, const float *width, int32_t *row) {
#if TOGETHER > 1
    EACH_UNIT(unit) row[unit] = 0;
    for (int64_t i = 1; i < balance->rows; i++) {
        const float *each = balance->width + AT(i, 0);
        EACH_UNIT(unit) row[unit] += each[unit] > width[unit];
    }
#else
    int64_t first = 1, size = balance->rows - 1;
    while (size > 1) {
        int64_t half = size / 2;
        first += -(int64_t)(balance->width[AT(first + half - 1, 0)] > *width) & half;
        size -= half;
    }
    *row = (int32_t)first - 1 + (balance->width[AT(first, 0)] > *width);
#endif
}

/* The most levels below zero with which no more is cut off above than below, (n, TOGETHER), for each scale. Returns whether
   a value may be cut off. */
static int balanced(const Costs *costs, const double *scale, int64_t n, int64_t *below) {
    const Balance *balance = costs->balance;
    int32_t cut = 0;
    float size = (float)costs->scheme->size;
    EACH(i, n) {
        float width[TOGETHER], step[TOGETHER];
        int32_t row[TOGETHER];
        EACH_UNIT(unit) {
            step[unit] = (float)(scale[AT(i, unit)] * costs->inverse_power[unit]);
            width[unit] = step[unit] * size;
        }
#ifndef TEAM
        narrow_to(costs, width);
#endif
        rows_above(balance, width, row);
        EACH_UNIT(unit) {
            int64_t at = AT(row[unit], unit);
            float low = balance->low[at] - (balance->width[at] - width[unit]) * balance->share[at];
            float levels = low / step[unit] + 0.5f;
            levels = levels < size ? levels : size;
            levels = levels > 1 ? levels : 1;
            int32_t whole = (int32_t)levels - 1;
            below[AT(i, unit)] = whole;
            cut |= row[unit] | (((float)whole + ALMOST_HALF) * step[unit] < balance->low[unit]);
        }
    }
#ifdef TEAM
    return 1; /* of others, too */
#else
    return cut != 0;
#endif
}

#endif
