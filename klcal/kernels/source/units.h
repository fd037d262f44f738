/* Values of many units to the distinct patterns of each, ascending, and how often each occurs.
 *
 * A pattern is the bits of a float32, as an unsigned integer: positive values ascend, then negative ones by magnitude.
 * Sixteen units are sorted at once, each in a lane; those that are alone, or very long, digit by digit. Neither takes
 * longer for one order of the values than for another.
 */
#ifndef KLCAL_UNITS_H
#define KLCAL_UNITS_H

#include "common.h"
#include "digits.h"
#include "lanes.h"
#include "patterns.h"
#include "runs.h"
#include "shorts.h"
#include "tables.h"

#define ALWAYS_IN_LANES 64       /* values of a unit up to which empty lanes cost less than the tables of digits */
#define SHARE 3                  /* lanes take a third of the time of digits (1.5 ns a value and 4), so a third suffices */
#define MOST_IN_LANES (1 << 15)  /* values of a unit: sixteen of them are 2 MiB */
#define MOST_IN_SLOW_LANES 128   /* where no instruction finds the smaller of two unsigned integers */
#define SLACK (2 * LANES)        /* patterns behind a unit that are loaded with it */
/* What is asked for at least, though not touched. Once so much was freed, glibc's malloc keeps as much for the next
 * arrays. Else the system clears the pages of each: 3 ns a value. */
#define KEPT_BYTES (1 << 24)

#define LONG_RUN 512    /* values that lie together and are counted where they are: bringing fewer together pays */
#define IN_TABLE 512    /* values of a unit: sorting fewer takes less than looking through a table */
#define FOR_EACH_KEPT 4 /* values for each that may be kept whole: of fewer, half of which are zeros, all may be kept */

/* Where the values are, and which of them belong together. */
struct source {
    const char *values;
    enum kind kind;
    const uint32_t *table; /* what each byte stands for; else not used */
    const int64_t *starts; /* of the units */
    int64_t columns;       /* units that take turns, all of one size; 0 where each lies together */
    int64_t run;           /* values of a unit that lie together then */
};

/* What is sorted in. */
struct room {
    uint32_t *lanes; /* where all of it begins */
    uint32_t *sorted, *other;
    char *raw;      /* values of a unit whose runs take turns, brought together */
    int64_t stride; /* patterns between units in `sorted` */
    struct table *table; /* for units that are counted in one */
    uint16_t *shorts;    /* SHORT_PATTERNS counts, for units of bfloat16 that are counted by all of their bits */
};

INLINE int64_t size_of(const struct source *from, int64_t unit) { return from->starts[unit + 1] - from->starts[unit]; }

INLINE int lanes_are_fast(void)
{
#if !defined(__x86_64__) || defined(__AVX2__)
    return 1;
#elif defined(__GLIBC__) && !defined(KLCAL_ONE_VARIANT)
    return __builtin_cpu_supports("avx2") != 0; /* then that variant runs */
#else
    return 0;
#endif
}

/* Where the values of a unit begin that takes turns: after as many turns as it has itself come other units. */
INLINE int64_t first_of(const struct source *from, int64_t unit)
{
    int64_t slab = unit / from->columns;
    return slab * from->columns * size_of(from, unit) + (unit - slab * from->columns) * from->run;
}

/* The values of a unit, one behind the other. */
INLINE const char *together(const struct source *from, int64_t unit, char *raw)
{
    int64_t width = WIDTHS[from->kind], run = from->run * width;
    if (!from->columns) return from->values + from->starts[unit] * width;
    const char *at = from->values + first_of(from, unit) * width;
    char *end = raw + size_of(from, unit) * width;
    for (char *to = raw; to < end; to += run, at += from->columns * run)
        for (int64_t byte = 0; byte < run; byte++) to[byte] = at[byte];
    return raw;
}

INLINE void note(const struct rounded *rounded, struct sketch *to, int64_t unit)
{
    to->counters[NEG_INFS][unit] = -rounded->below; /* they will be counted as infinite */
    to->counters[POS_INFS][unit] = -rounded->above;
    to->counters[OVERFLOWED][unit] = rounded->below + rounded->above;
    to->counters[UNDERFLOWED][unit] = rounded->to_zero;
}

/* The patterns of a unit's values. */
INLINE void load_unit(const struct source *from, int64_t unit, char *raw, uint32_t *patterns, struct sketch *to)
{
    struct rounded rounded = {0, 0, 0};
    patterns_of(from->kind, together(from, unit, raw), size_of(from, unit), from->table, patterns, &rounded);
    note(&rounded, to, unit);
}

/* Whether the single values of some units take turns, so that they are rows. */
INLINE int are_rows(const struct source *from, int64_t first, int64_t units)
{
    int one_turn = from->columns && first / from->columns == (first + units - 1) / from->columns;
    return one_turn && from->run == 1 && from->kind != FLOAT64;
}

/* Units whose single values take turns: their rows are those of the lanes. */
INLINE void load_rows(const struct source *from, int64_t first, int64_t units, int64_t rows, uint32_t *lanes)
{
    int64_t width = WIDTHS[from->kind], size = size_of(from, first), begin = first_of(from, first);
    struct rounded none;
    for (int64_t row = 0; row < rows; row++) {
        uint32_t *to = lanes + row * LANES;
        if (row >= size || units < LANES) memset(to, 0xFF, LANES * sizeof *to);
        if (row >= size) continue;
        const char *at = from->values + (begin + row * from->columns) * width;
        __builtin_prefetch(at + LANES * width); /* rows lie too far apart for the machine to guess the next units */
        if (units == LANES)
            patterns_of(from->kind, at, LANES, from->table, to, &none);
        else
            patterns_of(from->kind, at, units, from->table, to, &none);
    }
}

/* Tiles of 16 patterns of each of 16 units, which lie `stride` apart, to rows of lanes. */
INLINE void into_lanes(const uint32_t *units, int64_t stride, int64_t rows, uint32_t *lanes)
{
    for (int64_t row = 0; row < rows; row += LANES) {
        uint32_t tile[TILE];
        for (int64_t lane = 0; lane < LANES; lane++)
            memcpy(tile + lane * LANES, units + lane * stride + row, LANES * sizeof *tile);
        turn(tile, lanes + row * LANES);
    }
}

/* And back. */
INLINE void out_of_lanes(const uint32_t *lanes, int64_t rows, uint32_t *units, int64_t stride)
{
    for (int64_t row = 0; row < rows; row += LANES) {
        uint32_t tile[TILE];
        turn(lanes + row * LANES, tile);
        for (int64_t lane = 0; lane < LANES; lane++)
            memcpy(units + lane * stride + row, tile + lane * LANES, LANES * sizeof *tile);
    }
}

/* Any units: one after the other, because memory is read best in order, and then turned. */
INLINE void load_units(const struct source *from, int64_t first, int64_t units, int64_t rows, struct room *room,
                       struct sketch *to)
{
    for (int64_t lane = 0; lane < LANES; lane++) {
        uint32_t *patterns = room->sorted + lane * room->stride;
        int64_t size = lane < units ? size_of(from, first + lane) : 0;
        if (size) load_unit(from, first + lane, room->raw, patterns, to);
        memset(patterns + size, 0xFF, (rows - size) * sizeof *patterns);
    }
    into_lanes(room->sorted, room->stride, rows, room->lanes);
}

/* Sixteen units, or fewer, sorted at once. */
INLINE int64_t sketch_in_lanes(const struct source *from, int64_t first, int64_t units, int64_t most, struct room *room,
                               const struct resolution *kept, struct sketch *to, int64_t at)
{
    int64_t rows = (most + LANES - 1) / LANES * LANES;
    if (are_rows(from, first, units))
        load_rows(from, first, units, rows, room->lanes);
    else
        load_units(from, first, units, rows, room, to);
    sort_columns(room->lanes, (most + EIGHT - 1) / EIGHT * EIGHT);
    out_of_lanes(room->lanes, rows, room->sorted, room->stride);
    for (int64_t lane = 0; lane < units; lane++)
        at = unit_sketch(room->sorted + lane * room->stride, size_of(from, first + lane), kept, to, first + lane, at);
    return at;
}

/* One unit. */
INLINE int64_t sketch_by_digits(const struct source *from, int64_t unit, struct room *room, const struct resolution *kept,
                                struct sketch *to, int64_t at)
{
    int64_t size = size_of(from, unit);
    load_unit(from, unit, room->raw, room->sorted, to);
    return unit_sketch(by_digits(room->sorted, room->other, size), size, kept, to, unit, at);
}

/* Whether units are counted in a table, the shortest of which has `least` values. */
INLINE int in_table(const struct source *from, int64_t least, const struct resolution *kept)
{
    int are_many = least >= IN_TABLE && least >= FOR_EACH_KEPT * kept->few;
    return are_many && kept->mantissa_bits <= TABLE_BITS && from->kind != FLOAT64;
}

/* A unit whose runs are counted where they are; whether it was: one of few distinct values is not. */
INLINE int count_runs(const struct source *from, int64_t unit, int64_t few, struct table *table)
{
    int64_t size = size_of(from, unit), run = from->columns ? from->run : size, has_many = 0;
    const stored32 *first = (const stored32 *)from->values + (from->columns ? first_of(from, unit) : from->starts[unit]);
    uint8_t marks[MARKS] = {0};
    for (int64_t i = 0; i < size / run && !has_many; i++) has_many = mark(first + i * from->columns * run, run, few, marks);
    for (int64_t i = 0; i < size / run && has_many; i++) count_in_table(first + i * from->columns * run, run, table);
    return has_many;
}

/* A unit whose patterns were brought together. */
INLINE int count_patterns(const uint32_t *patterns, int64_t size, int64_t few, struct table *table)
{
    uint8_t marks[MARKS] = {0};
    int has_many = mark(patterns, size, few, marks);
    if (has_many) count_in_table(patterns, size, table);
    return has_many;
}

/* A unit that is counted in a table, or sorted if it has few distinct values. Its patterns are where `load_rows` brought
 * them; NULL if they are not there. */
INLINE int64_t sketch_in_table(const struct source *from, int64_t unit, uint32_t *patterns, struct room *room,
                               const struct resolution *kept, struct sketch *to, int64_t at)
{
    int64_t size = size_of(from, unit);
    struct table *table = room->table;
    table->seen = (Seen){.nearest = (int64_t)1 << 32};
    if (!patterns && from->kind == FLOAT32 && (!from->columns || from->run >= LONG_RUN)) {
        if (count_runs(from, unit, kept->few, table)) return take_table(table, kept, to, unit, at);
        return sketch_by_digits(from, unit, room, kept, to, at);
    }
    if (!patterns) load_unit(from, unit, room->raw, patterns = room->sorted, to);
    if (count_patterns(patterns, size, kept->few, table)) return take_table(table, kept, to, unit, at);
    return unit_sketch(by_digits(patterns, room->other, size), size, kept, to, unit, at);
}

/* Sixteen units, or fewer; those whose single values take turns are brought together at once. */
INLINE int64_t sketch_in_tables(const struct source *from, int64_t first, int64_t units, int64_t most, struct room *room,
                                const struct resolution *kept, struct sketch *to, int64_t at)
{
    int64_t rows = (most + LANES - 1) / LANES * LANES;
    int in_rows = are_rows(from, first, units) && rows + SLACK <= room->stride;
    if (in_rows) {
        load_rows(from, first, units, rows, room->lanes);
        out_of_lanes(room->lanes, rows, room->sorted, room->stride);
    }
    for (int64_t lane = 0; lane < units; lane++) {
        uint32_t *patterns = in_rows ? room->sorted + lane * room->stride : NULL;
        at = sketch_in_table(from, first + lane, patterns, room, kept, to, at);
    }
    return at;
}

/* Units of bfloat16 that are counted by all of their bits. */
INLINE int64_t sketch_shorts(const struct source *from, int64_t first, int64_t units, struct room *room, struct sketch *to,
                             int64_t at)
{
    for (int64_t unit = first; unit < first + units; unit++) {
        const stored16 *values = (const stored16 *)together(from, unit, room->raw);
        at = sketch_of_shorts(values, size_of(from, unit), room->shorts, to, unit, at);
    }
    return at;
}

/* Whether some units are sorted in lanes, the longest of which has `most` values. */
INLINE int in_lanes(const struct source *from, int64_t first, int64_t units, int64_t most, int64_t limit)
{
    int64_t values = from->starts[first + units] - from->starts[first];
    return most <= ALWAYS_IN_LANES || (most <= limit && values * SHARE >= most * LANES);
}

/* Room for the longest of some units; whether there is. */
INLINE int make_room(const struct source *from, int64_t first, int64_t last, int64_t limit, struct room *room)
{
    int64_t longest = 1, near, sorted, bytes;
    for (int64_t unit = first; unit < last; unit++) longest = size_of(from, unit) > longest ? size_of(from, unit) : longest;
    near = longest < limit ? longest : limit;
    room->stride = (near + LANES - 1) / LANES * LANES + SLACK + LANES / 2;
    sorted = LANES * room->stride > longest + SLACK ? LANES * room->stride : longest + SLACK;
    bytes = (LANES * room->stride + sorted + longest + SLACK) * (int64_t)sizeof(uint32_t);
    if (from->columns) bytes += longest * WIDTHS[from->kind];
    room->lanes = malloc(bytes > KEPT_BYTES ? bytes : KEPT_BYTES);
    if (!room->lanes) room->lanes = malloc(bytes); /* where memory is short, what is needed is enough */
    if (!room->lanes) return 0;
    room->sorted = room->lanes + LANES * room->stride;
    room->other = room->sorted + sorted;
    room->raw = (char *)(room->other + longest + SLACK);
    return 1;
}

/* The sketches of the units from `first` to `last`, which have at most 2³¹ − 1 values each.
 *
 * Keys and counts are written from starts[first] on, without gaps between units, and never beyond starts[last]: so
 * stretches of units may be counted at once. `numbers` are 7 int64 rows of `units`: how many keys each has, its zeros,
 * NaN, −inf, +inf, overflowed and underflowed, all 0 at first; `extremes` 2 rows of float64.
 *
 * Returns how many keys there are; −1 where there is no memory.
 */
PUBLIC VARIANTS int64_t klcal_units(const char *values, int64_t kind, const uint32_t *table, const int64_t *starts,
                                    int64_t columns, int64_t run, int64_t units, int64_t first, int64_t last, int64_t few,
                                    int64_t mantissa_bits, int64_t least_bits, uint32_t *keys, int32_t *counts,
                                    int64_t *numbers, double *extremes, uint8_t *exact)
{
    struct source from = {values, (enum kind)kind, table, starts, columns, run};
    struct resolution kept = {few, mantissa_bits, least_bits};
    struct sketch to = {.keys = keys, .counts = counts, .end = starts[last], .pieces = numbers, .exact = exact};
    struct room room;
    struct table own = {0};
    int64_t limit = lanes_are_fast() ? MOST_IN_LANES : MOST_IN_SLOW_LANES, at = starts[first];
    for (int each = ZEROS; each <= UNDERFLOWED; each++) to.counters[each] = numbers + (each + 1) * units;
    to.minimum = extremes, to.maximum = extremes + units;
    if (!make_room(&from, first, last, limit, &room)) return -1;
    int is_coarse = kept.mantissa_bits <= TABLE_BITS, is_short = from.kind == BFLOAT16 && kept.least_bits >= SHORT_BITS;
    if (is_coarse) own.counts = calloc(TABLE_SIZE, sizeof *own.counts);
    room.table = &own, room.shorts = is_short ? calloc(SHORT_PATTERNS, sizeof *room.shorts) : NULL;
    if (is_coarse && !own.counts) { /* without shorts, bfloat16 is sorted */
        free(room.lanes);
        return -1;
    }
    for (int64_t unit = first; unit < last;) {
        int64_t some = last - unit < LANES ? last - unit : LANES, most = 0, least = INT64_MAX;
        for (int64_t i = 0; i < some; i++) {
            int64_t size = size_of(&from, unit + i);
            most = size > most ? size : most;
            least = size < least ? size : least;
        }
        if (room.shorts && least >= LEAST_SHORTS && most <= MOST_SHORTS && !are_rows(&from, unit, some)) {
            at = sketch_shorts(&from, unit, some, &room, &to, at);
        } else if (in_table(&from, least, &kept)) {
            at = sketch_in_tables(&from, unit, some, most, &room, &kept, &to, at);
        } else if (in_lanes(&from, unit, some, most, limit)) {
            at = sketch_in_lanes(&from, unit, some, most, &room, &kept, &to, at);
        } else {
            for (int64_t i = 0; i < some; i++) at = sketch_by_digits(&from, unit + i, &room, &kept, &to, at);
        }
        unit += some;
    }
    free(own.counts);
    free(room.shorts);
    free(room.lanes);
    return at - starts[first];
}
#endif
