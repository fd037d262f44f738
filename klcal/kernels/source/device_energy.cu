/* Squares of values, added up by columns as integers: the same sums as in energy.h. */
#include "device.h"
#include "device_patterns.h"
#include "squares.h"

#define LANES 32  /* of a warp */
#define WINDOW 4  /* cells whose sums a thread keeps: that of its first value, one above, and those below */
#define ROWS 32   /* of a column that a thread adds up, where neighbours have columns of their own */

/* The sums of a thread for a column. */
typedef struct {
    int64_t sums[WINDOW];
    uint32_t top, any;
} OwnSquares;

INLINE uint32_t magnitude_at(const uint8_t *values, int64_t i, int kind) {
    if (kind == FLOAT32) return ((const uint32_t *)values)[i] & MAGNITUDE;
    uint32_t bits = ((const uint16_t *)values)[i];
    return (kind == FLOAT16 ? pattern_of_half(bits) : bits << 16) & MAGNITUDE;
}

INLINE OwnSquares no_squares(void) {
    OwnSquares none = {{0, 0, 0, 0}, 0, 0};
    return none;
}

INLINE void see_square(uint32_t magnitude, OwnSquares *own, int64_t *column) {
    if (!magnitude) return;
    uint32_t place = place_of_square(magnitude);
    int64_t square = square_of(magnitude);
    if (!own->any) {
        own->any = 1;
        own->top = place + 1;
    }
    uint32_t under = own->top - place;
    if (place >= ENERGY_CELLS || under >= WINDOW) add_long(column + place, square);
    else
        for (uint32_t i = 0; i < WINDOW; i++) own->sums[i] += under == i ? square : 0; /* which stay in registers */
}

INLINE void join_squares(const OwnSquares *own, int64_t *column) {
    for (uint32_t i = 0; i < WINDOW; i++)
        if (own->sums[i]) add_long(column + own->top - i, own->sums[i]);
}

/* Values, (outer, columns, run). Where runs are long, the lanes of a warp go through one, else each has a column. */
INLINE void add_squares(const uint8_t *values, int64_t outer, int64_t columns, int64_t run, int64_t *energy, int kind) {
    int64_t warps = BLOCKS * (THREADS / LANES), tiles = (columns + LANES - 1) / LANES, length = outer * run;
    EACH_THREAD(thread) {
        int64_t lane = thread % LANES, warp = BLOCK * (THREADS / LANES) + thread / LANES;
        if (run >= LANES)
            for (int64_t turn = warp; turn < outer * columns; turn += warps) {
                OwnSquares own = no_squares();
                int64_t *column = energy + turn % columns * ENERGY_WIDTH;
                for (int64_t i = lane; i < run; i += LANES)
                    see_square(magnitude_at(values, turn * run + i, kind), &own, column);
                join_squares(&own, column);
            }
        else
            for (int64_t some = warp; some < tiles * ((length + ROWS - 1) / ROWS); some += warps) {
                OwnSquares own = no_squares();
                int64_t column = some % tiles * LANES + lane, first = some / tiles * ROWS;
                int64_t last = first + ROWS < length ? first + ROWS : length;
                for (int64_t i = first; i < last && column < columns; i++)
                    see_square(magnitude_at(values, (i / run * columns + column) * run + i % run, kind), &own,
                               energy + column * ENERGY_WIDTH);
                if (column < columns) join_squares(&own, energy + column * ENERGY_WIDTH);
            }
    }
}

#define ENERGY(name, kind)                                                                                             \
    KERNEL name(const uint8_t *values, int64_t outer, int64_t columns, int64_t run, int64_t *energy) {                 \
        add_squares(values, outer, columns, run, energy, kind);                                                        \
    }
ENERGY(energy_float32, FLOAT32)
ENERGY(energy_float16, FLOAT16)
ENERGY(energy_bfloat16, BFLOAT16)
