/* Transposes 16 × 16 patterns. */
#ifndef KLCAL_TURN_H
#define KLCAL_TURN_H

#include "common.h"

#define TILE 256

/* Columns become rows: half and half are interleaved, four times. */
INLINE void turn(const uint32_t *restrict tile, uint32_t *restrict to) {
    uint32_t one[TILE], other[TILE];
    for (int64_t i = 0; i < TILE / 2; i++) one[2 * i] = tile[i], one[2 * i + 1] = tile[TILE / 2 + i];
    for (int64_t i = 0; i < TILE / 2; i++) other[2 * i] = one[i], other[2 * i + 1] = one[TILE / 2 + i];
    for (int64_t i = 0; i < TILE / 2; i++) one[2 * i] = other[i], one[2 * i + 1] = other[TILE / 2 + i];
    for (int64_t i = 0; i < TILE / 2; i++) to[2 * i] = one[i], to[2 * i + 1] = one[TILE / 2 + i];
}

#endif
