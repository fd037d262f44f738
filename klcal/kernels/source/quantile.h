/* The smallest magnitude up to which so many values of a unit lie. One thread finds it, from the sketch and without
   memory. Distribution.quantiles in klcal/sketches/distribution.py does the same in NumPy, to the bit. */
#ifndef KLCAL_QUANTILE_H
#define KLCAL_QUANTILE_H

#include "pieces.h"

/* The pieces of one sign by rising magnitude, as the edges at which they begin and end; a point has one edge. */
typedef struct {
    const Units *units;
    int64_t piece, end; /* the present one, and behind the last */
    int32_t top;
    double least, greatest;    /* magnitudes of the sign */
    double inner, outer, edge; /* of the present piece; where it begins or ends, infinite behind the last piece */
    double count, density;     /* density: of an interval */
} Edges;

static void load_edges(Edges *each) {
    const Units *units = each->units;
    each->edge = INFINITY;
    if (each->piece == each->end) return;
    int32_t fewest = (int32_t)units->fewest_dropped, most = (int32_t)units->most_dropped;
    uint32_t key = units->keys[each->piece];
    interval_of(key, each->top, fewest, most, each->least, each->greatest, &each->inner, &each->outer);
    each->edge = each->inner;
    each->count = count_of(units, each->piece);
    each->density = each->count / (each->outer - each->inner);
}

/* Adds up what begins and what ends at an edge, and the values there; goes on to the next edge. */
static void pass_edge(Edges *each, double edge, double *begins, double *ends, double *values) {
    while (each->edge == edge) {
        int is_interval = each->outer > each->inner;
        if (is_interval && edge == each->inner) {
            *begins += each->density;
            each->edge = each->outer;
            continue;
        }
        if (is_interval) *ends += each->density;
        else *values += each->count;
        each->piece++;
        load_edges(each);
    }
}

/* The same of a unit in buckets, whose keys of positive values lie before `split`. The pieces of the two signs may
   overlap. Between two edges, the number of values is linear. */
static double quantile_of_intervals(const Units *units, int64_t unit, int64_t split, int64_t top, double rank) {
    double minimum = units->minimum[unit], maximum = units->maximum[unit];
    int32_t octave = top_octave(units, top);
    Edges positive = {units, units->starts[unit], split, octave, minimum, maximum, 0, 0, 0, 0, 0};
    Edges negative = {units, split, units->ends[unit], octave, -maximum, -minimum, 0, 0, 0, 0, 0};
    double last = 0, within = 0, slope = 0, linear = 0, jumps = 0;
    load_edges(&positive), load_edges(&negative);
    for (;;) {
        double begins = 0, ends = 0, values = 0, edge = positive.edge < negative.edge ? positive.edge : negative.edge;
        if (edge == INFINITY) return last; /* rounding left the sum below the rank */
        pass_edge(&positive, edge, &begins, &ends, &values);
        pass_edge(&negative, edge, &begins, &ends, &values);
        linear += slope * (edge - last);
        slope += begins - ends;
        jumps += values;
        double reached = linear + jumps, before = reached - values;
        if (reached >= rank) return before <= rank ? edge : (edge - last) / (before - within) * (rank - within) + last;
        last = edge, within = reached;
    }
}

/* The same of a unit of points: from the largest magnitude down, until no more than `beyond` values are left out. */
static double quantile_of_points(const Units *units, int64_t unit, int64_t split, int64_t beyond) {
    int64_t first = units->starts[unit], positive = split, negative = units->ends[unit];
    uint32_t last = 0;
    while (beyond >= 0 && (positive > first || negative > split)) {
        uint32_t one = positive > first ? units->keys[positive - 1] : 0;
        uint32_t other = negative > split ? units->keys[negative - 1] & ~SIGN : 0;
        beyond -= whole_count(units, one >= other ? --positive : --negative);
        last = one >= other ? one : other;
    }
    return float_of(last);
}

/* Args: a unit with values, whose counts are whole; their number; the exponent by which its buckets were cut. */
static double quantile(const Units *units, int64_t unit, int64_t number, int64_t top, double rank) {
    int64_t first = units->starts[unit], split = first + first_negative(units->keys + first, units->ends[unit] - first);
    if (!(rank > 0)) return 0;
    if (!units->exact[unit]) return quantile_of_intervals(units, unit, split, top, rank);
    return quantile_of_points(units, unit, split, rank < (double)number ? number - (int64_t)ceil(rank) : 0);
}

#endif
