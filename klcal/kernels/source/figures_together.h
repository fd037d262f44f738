/* The figures of the quantizers of short units, side by side: for integer formats and floats of few levels. For one unit,
   figures.h and divergence.h compute the same. */
#ifndef KLCAL_FIGURES_TOGETHER_H
#define KLCAL_FIGURES_TOGETHER_H

#include "loaded.h"

#define WORDS (LANES / MARKS) /* words of marks for a unit: a bit for each value */

/* Sums in lanes, and marks of values: of those that begin a cell, that are in the same sub-bin as the value before, and
   that occur more than once. */
typedef struct {
    double error[SUM_LANES * TOGETHER], clipped[SUM_LANES * TOGETHER], lost[SUM_LANES * TOGETHER];
    uint64_t cells[WORDS * TOGETHER], shared[WORDS * TOGETHER], heavy[WORDS * TOGETHER];
} Seen;

/* The quantizer of each unit; for float formats also the magnitudes of the levels, and the middles between them. */
typedef struct {
    double scale[TOGETHER], under[TOGETHER], above[TOGETHER], sub;
    int is_float;
    int64_t size, cells;
    double level[MAX_LEVELS], middle[MAX_LEVELS], limit; /* magnitudes from here on are clipped, in steps */
    const double *edges; /* of the cells */
} Deployed;

/* Adds the squared error (in steps), the clipped and the lost values of a row; writes the step and the level of each. */
INLINE void add_row(const float *restrict values, const double *restrict count, const Deployed *restrict deployed,
                    double *restrict error, double *restrict clipped, double *restrict lost, double *restrict steps,
                    double *restrict levels) {
    EACH_UNIT(unit) {
        double under = deployed->under[unit], above = deployed->above[unit];
        double step = (double)values[unit] / deployed->scale[unit], kept = step < -under - 1 ? -under - 1 : step;
        kept = kept > above + 1 ? above + 1 : kept;
        double nearest = (kept + INTEGER_ROUNDING) - INTEGER_ROUNDING, level = nearest < -under ? -under : nearest;
        level = level > above ? above : level;
        error[unit] += count[unit] * ((step - level) * (step - level));
        clipped[unit] += nearest != level ? count[unit] : 0;
        lost[unit] += level == 0 ? count[unit] : 0;
        steps[unit] = step;
        levels[unit] = level;
    }
}

/* The same for float formats, whose levels are the same for both signs. */
INLINE void add_row_of_floats(const float *restrict values, const double *restrict count, const Deployed *restrict deployed,
                              double *restrict error, double *restrict clipped, double *restrict lost,
                              double *restrict steps) {
    double levels[TOGETHER], magnitudes[TOGETHER];
    EACH_UNIT(unit) {
        steps[unit] = (double)values[unit] / deployed->scale[unit];
        magnitudes[unit] = fabs(steps[unit]), levels[unit] = 0;
    }
    for (int64_t i = 1; i < deployed->size; i++) {
        double middle = deployed->middle[i - 1], level = deployed->level[i];
        EACH_UNIT(unit) levels[unit] = middle < magnitudes[unit] ? level : levels[unit];
    }
    double limit = deployed->limit;
    EACH_UNIT(unit) {
        double wrong = magnitudes[unit] - levels[unit];
        error[unit] += count[unit] * (wrong * wrong);
        clipped[unit] += magnitudes[unit] >= limit ? count[unit] : 0;
        lost[unit] += levels[unit] == 0 ? count[unit] : 0;
    }
}

/* The cell of each value of a row, given by its lower edge, and the number of its sub-bin in the cell. Cells are the same for
   both signs; an edge belongs to the cell below it. */
INLINE void places_of_row(const double *restrict steps, const Deployed *restrict deployed, double *restrict lower,
                          double *restrict parts) {
    double inner[TOGETHER], outer[TOGETHER], magnitudes[TOGETHER], sub = deployed->sub;
    const double *edges = deployed->edges + deployed->cells / 2; /* of the cell of 0, and beyond */
    EACH_UNIT(unit) {
        union { double value; uint64_t bits; } magnitude = {fabs(steps[unit])};
        magnitude.bits += steps[unit] < 0; /* so that an edge is below it */
        magnitudes[unit] = magnitude.value;
        inner[unit] = edges[0], outer[unit] = edges[1];
    }
    for (int64_t i = 1; i <= deployed->cells / 2; i++) {
        double edge = edges[i], next = edges[i + 1];
        EACH_UNIT(unit) {
            inner[unit] = edge < magnitudes[unit] ? edge : inner[unit];
            outer[unit] = edge < magnitudes[unit] ? next : outer[unit];
        }
    }
    EACH_UNIT(unit) {
        double low = steps[unit] < 0 ? -outer[unit] : inner[unit], high = steps[unit] < 0 ? -inner[unit] : outer[unit];
        double part = (steps[unit] - low) / (high - low) * sub;
        part = part < 0 ? 0 : part;
        part = part > sub - 1 ? sub - 1 : part;
        lower[unit] = low;
        parts[unit] = (double)(int32_t)part;
    }
}

/* The number of the sub-bin of each value of a row, from 0, in its cell: for integer formats. */
INLINE void parts_of_row(const double *restrict steps, const double *restrict levels, double sub, double *restrict parts) {
    EACH_UNIT(unit) {
        double part = (steps[unit] - levels[unit] + 0.5) * sub;
        part = part < 0 ? 0 : part;
        part = part > sub - 1 ? sub - 1 : part;
        parts[unit] = (double)(int32_t)part;
    }
}

/* Marks the values of a row that are equal to those of another. */
INLINE void mark_equal(const double *restrict one, const double *restrict other, uint64_t mark, uint64_t *restrict marks) {
    EACH_UNIT(unit) marks[unit] |= -(uint64_t)(one[unit] == other[unit]) & mark;
}

/* One pass over all values of TOGETHER units: sums their errors, and marks cells and sub-bins. */
static void see_rows(const Loaded *loaded, const Deployed *deployed, Seen *seen) {
    double steps[TOGETHER], levels[2][TOGETHER], parts[2][TOGETHER], one[TOGETHER], count[TOGETHER];
    EACH_UNIT(unit) levels[1][unit] = parts[1][unit] = NAN, one[unit] = 1;
    for (int64_t row = 0; row < loaded->rows; row++) {
        const float *values = loaded->values + AT(row, 0);
        const double *counts = loaded->counts ? loaded->counts + AT(row, 0) : count;
        int64_t lane = OWN(row % SUM_LANES, 0), word = OWN(row / MARKS, 0), now = row % 2;
        uint64_t mark = (uint64_t)1 << row % MARKS;
        EACH_UNIT(unit) count[unit] = values[unit] != 0;
        double *error = seen->error + lane, *clipped = seen->clipped + lane, *lost = seen->lost + lane;
        if (deployed->is_float) {
            add_row_of_floats(values, counts, deployed, error, clipped, lost, steps);
            places_of_row(steps, deployed, levels[now], parts[now]);
        } else {
            add_row(values, counts, deployed, error, clipped, lost, steps, levels[now]);
            parts_of_row(steps, levels[now], deployed->sub, parts[now]);
        }
        mark_equal(levels[now], levels[!now], mark, seen->cells + word);
        mark_equal(parts[now], parts[!now], mark, seen->shared + word);
        if (loaded->counts) mark_equal(counts, one, mark, seen->heavy + word);
    }
    for (int64_t i = 0; i < WORDS * TOGETHER; i++) {
        seen->shared[i] &= seen->cells[i]; /* the same part of the same cell */
        seen->cells[i] = ~seen->cells[i];
        seen->heavy[i] = loaded->counts ? ~seen->heavy[i] : 0;
    }
}

/* The marks in a word of a unit of `size` values, without those of its padding. */
INLINE uint64_t marks_of(const uint64_t *marks, int64_t word, int64_t size) {
    int64_t left = size - word * MARKS;
    return left <= 0 ? 0 : left < MARKS ? marks[OWN(word, 0)] & (((uint64_t)1 << left) - 1) : marks[OWN(word, 0)];
}

/* The place of the last mark of a unit up to some place: there is one. */
INLINE int64_t mark_before(const uint64_t *marks, int64_t place) {
    int64_t word = place / MARKS;
    uint64_t some = marks[OWN(word, 0)] << (MARKS - 1 - place % MARKS);
    for (; !some; place = word * MARKS + MARKS - 1) some = marks[OWN(--word, 0)];
    return place - (MARKS - 1 - last_bit(some));
}

/* The place of the first mark of a unit from some place on, or its size if there is none. */
INLINE int64_t mark_behind(const uint64_t *marks, int64_t place, int64_t size) {
    uint64_t kept = ~(uint64_t)0 << place % MARKS;
    for (int64_t word = place / MARKS; word * MARKS < size; word++, kept = ~(uint64_t)0) {
        uint64_t some = marks_of(marks, word, size) & kept;
        if (some) return word * MARKS + first_bit(some);
    }
    return size;
}

/* N·D of a unit: Σ c·ln c over the sub-bins, with c values each, less Σ C·(ln C − ln o) over the cells, with C values and o
   occupied sub-bins each. A sub-bin with a single value adds 0, and so does a cell of such ones: only marked values are
   visited. */
static double nats_of(const uint64_t *cells, const uint64_t *shared, const uint64_t *heavy, const double *counts,
                      int64_t size, const Bins *bins) {
    double total = 0, even = 0, mass = 1, more = 0;
    int64_t last = -1, begin = 0, end = 0, joined = 0;
    for (int64_t word = 0; word * MARKS < size; word++) {
        uint64_t both = marks_of(shared, word, size);
        for (uint64_t left = both | marks_of(heavy, word, size); left; left &= left - 1) {
            int64_t place = word * MARKS + first_bit(left);
            int is_shared = (both >> place % MARKS) & 1;
            double count = counts ? counts[AT(place, 0)] : 1;
            if (place >= end) {
                if (end) even += term_of_cell((double)(end - begin) + more, (double)(end - begin - joined), bins);
                begin = mark_before(cells, place), end = mark_behind(cells, place + 1, size);
                joined = 0, more = 0;
            }
            if (!is_shared || place - 1 != last) { /* else the last one was marked, too */
                if (mass > 1) total += term_of_bin(mass, bins);
                mass = is_shared; /* with the one before, which occurs once */
            }
            mass += count, more += count - 1, joined += is_shared;
            last = place;
        }
    }
    if (mass > 1) total += term_of_bin(mass, bins);
    if (end) even += term_of_cell((double)(end - begin) + more, (double)(end - begin - joined), bins);
    return total - even;
}

/* The quantizers of the units with these numbers, (TOGETHER,). */
static void take_deployed(const Search *how, const Chosen *each, const int64_t *numbers, Deployed *deployed) {
    for (int unit = 0; unit < TOGETHER; unit++) {
        deployed->scale[unit] = each->scale[numbers[unit]];
        deployed->under[unit] = (double)each->below[numbers[unit]];
        deployed->above[unit] = (double)(how->scheme.size - 1 - each->below[numbers[unit]]);
    }
    deployed->sub = (double)how->bins.sub;
    deployed->is_float = (int)how->scheme.is_float;
    if (!deployed->is_float) return;
    int64_t last = each->aboves - 1;
    deployed->size = each->aboves;
    deployed->cells = how->scheme.size;
    deployed->edges = how->bins.edges;
    memcpy(deployed->level, each->above, (size_t)each->aboves * sizeof(double));
    for (int64_t i = 0; i < last; i++) deployed->middle[i] = (each->above[i + 1] + each->above[i]) / 2;
    deployed->limit = each->above[last] + (each->above[last] - each->above[last - 1]) / 2;
}

/* Writes the figures of TOGETHER units, by their numbers; returns 0 if there is no memory. */
static int figures_some(const Search *how, const Units *units, const int64_t *numbers, const Chosen *each,
                        Memory *memory) {
    Loaded loaded;
    Deployed deployed;
    Seen seen;
    double error[TOGETHER], clipped[TOGETHER], lost[TOGETHER];
    if (!load_lanes(&loaded, units, numbers, memory)) return 0;
    take_deployed(how, each, numbers, &deployed);
    memset(&seen, 0, sizeof seen);
    see_rows(&loaded, &deployed, &seen);
    sums_of_lanes(seen.error, error), sums_of_lanes(seen.clipped, clipped), sums_of_lanes(seen.lost, lost);
    for (int unit = 0; unit < TOGETHER; unit++) {
        const double *counts = loaded.counts ? loaded.counts + unit : NULL;
        int64_t size = units->ends[numbers[unit]] - units->starts[numbers[unit]];
        double nats = nats_of(seen.cells + unit, seen.shared + unit, seen.heavy + unit, counts, size, &how->bins);
        nats /= loaded.total[unit];
        double all[FIGURES] = {nats > 0 ? nats : 0, error[unit] * (deployed.scale[unit] * deployed.scale[unit]),
                               loaded.energy[unit], clipped[unit], lost[unit]};
        if (how->bins.sub <= 1) all[0] = NAN;
        memcpy(each->found + FIGURES * numbers[unit], all, sizeof all);
    }
    return 1;
}

#ifndef BY_THREADS
/* Writes the figures of n units, by their numbers; returns the number of units done before memory ran out. */
static int64_t figures_all(const Search *how, const Units *units, const int64_t *numbers, int64_t n, const Chosen *each) {
    Memory memory = {NULL, 0};
    int64_t done = 0, some[TOGETHER];
    while (done < n) { /* the last unit is repeated in lanes that would be empty */
        for (int unit = 0; unit < TOGETHER; unit++) some[unit] = numbers[done + unit < n ? done + unit : n - 1];
        fetch_ahead(units, numbers + done + TOGETHER, n - done - TOGETHER < TOGETHER ? n - done - TOGETHER : TOGETHER);
        if (!figures_some(how, units, some, each, &memory)) break;
        done += n - done < TOGETHER ? n - done : TOGETHER;
    }
    release_memory(&memory);
    return done;
}
#endif

#endif
