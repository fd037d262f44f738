/* The values that a block of threads counts: whole vectors, and the single values at both ends of a tensor. */
#ifndef KLCAL_DEVICE_STRETCH_H
#define KLCAL_DEVICE_STRETCH_H

#include "device_seen.h"

/* The values of a block: whole vectors, and single values before and behind all vectors. */
typedef struct {
    const Vector *vectors;
    const uint8_t *before, *behind;
    int64_t first, last;          /* of its vectors */
    int befores, edges;           /* single values before all vectors, and in all; of the first block */
} Stretch;

INLINE Stretch stretch_of(const uint8_t *values, int64_t size, int kind) {
    Stretch some;
    int width = width_of(kind), off = (int)((uint64_t)values % VECTOR);
    int64_t befores = off ? (VECTOR - off) / width : 0;
    befores = befores < size ? befores : size;
    int64_t each = VECTOR / width, vectors = (size - befores) / each, share = (vectors + BLOCKS - 1) / BLOCKS;
    some.vectors = (const Vector *)(values + befores * width);
    some.before = values;
    some.behind = values + (befores + vectors * each) * width;
    some.first = BLOCK * share < vectors ? BLOCK * share : vectors;
    some.last = some.first + share < vectors ? some.first + share : vectors;
    some.befores = BLOCK ? 0 : (int)befores;
    some.edges = BLOCK ? 0 : (int)(size - vectors * each);
    return some;
}

/* One of the values beside the vectors, as the first of a vector. */
INLINE Vector edge_of(const Stretch *some, int number, int kind) {
    int width = width_of(kind);
    const uint8_t *from = number < some->befores ? some->before + number * width
                                                 : some->behind + (number - some->befores) * width;
    Vector vector = {{0, 0, 0, 0}};
    for (int i = 0; i < width; i++) vector.words[i / 4] |= (uint32_t)from[i] << 8 * (i % 4);
    return vector;
}

#endif
