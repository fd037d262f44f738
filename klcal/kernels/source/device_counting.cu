/* How often each float32 pattern, or each bucket, occurs in a tensor on a GPU. counting.h does so on a CPU. Only integers
   are added, so the order in which threads do so does not matter.

   A block of threads counts a stretch of the values in shared memory, and then adds its counts to a table of all blocks. It
   counts whole patterns while there are few of them. If there turn out to be too many, it counts its stretch again, by
   buckets: in shared memory those of the octaves in which most values lie. */
#include "device_seen.h"
#include "device_stretch.h"

#define GOLDEN 0x9e3779b1u       /* 2³² over the golden ratio: multiples of it lie far apart */
#define OWN_PLACES_BITS 13       /* places for the patterns of a block; 64 KiB of shared memory */
#define OWN_PLACES (1u << OWN_PLACES_BITS)
#define ALL_PLACES_BITS 14       /* places for the patterns of all blocks: four times the limit of distinct ones */
#define ALL_PLACES (1u << ALL_PLACES_BITS)
#define EXPONENTS 256

/* --- whole patterns */

/* Counts a pattern in the table of the block, or marks that there are too many. */
INLINE void count_whole(uint32_t *patterns, uint32_t *counts, uint32_t *many, uint32_t *distinct, uint32_t few,
                        uint32_t pattern, uint32_t number) {
    uint32_t inverted = ~pattern, place = inverted * GOLDEN >> (32 - OWN_PLACES_BITS);
    for (;; place = (place + 1) & (OWN_PLACES - 1)) {
        uint32_t there = now(patterns + place);
        if (!there) {
            there = claimed(patterns + place, inverted);
            if (!there) {
                if (added(distinct, 1) >= few) set_bits(many, 1);
                there = inverted;
            }
        }
        if (there == inverted) break;
        if (now(many)) return;
    }
    if (number == 1) add(counts + place, 1);
    else add_together(counts, place, number);
}

/* Adds the count of a pattern to the table of all blocks, or to its bucket if there are too many patterns. */
INLINE void add_whole(const Counted *all, int shift, uint32_t pattern, int64_t count) {
    uint32_t inverted = ~pattern, place = inverted * GOLDEN >> (32 - ALL_PLACES_BITS);
    for (; !now_long(all->seen + MANY); place = (place + 1) & (ALL_PLACES - 1)) {
        uint32_t there = now(all->patterns + place);
        if (!there) {
            there = claimed(all->patterns + place, inverted);
            if (!there) {
                if (added_long(all->seen + DISTINCT, 1) >= all->few) add_long(all->seen + MANY, 1);
                there = inverted;
            }
        }
        if (there == inverted) {
            add_long(all->counts + place, count);
            return;
        }
    }
    add_long(all->table + (pattern >> shift), count);
    extend_all(all->seen, pattern, pattern, pattern & MAGNITUDE, pattern);
}

/* --- the counters of a block */

/* The shared memory of a block: counters of patterns, or of buckets. */
typedef struct {
    Seen seen;
    uint32_t many, distinct, stop, base;
    uint32_t exponents[EXPONENTS];
    uint32_t best;
} Block;

#define BLOCK_WORDS ((sizeof(Block) + 15) / 16 * 4)

INLINE void clear(uint32_t *words, uint32_t size, int thread) {
    for (uint32_t i = (uint32_t)thread; i < size; i += THREADS) words[i] = 0;
}

INLINE void begin(Block *block, int thread) {
    if (thread == 0) {
        block->seen = none_seen();
        block->many = block->distinct = block->best = 0;
    }
    for (int i = thread; i < EXPONENTS; i += THREADS) block->exponents[i] = 0;
}

/* A value among the patterns of the block. */
INLINE void see_whole(Block *block, uint32_t *patterns, uint32_t few, uint32_t pattern, uint32_t number, Seen *own) {
    if (is_value(pattern, number, own))
        count_whole(patterns, patterns + OWN_PLACES, &block->many, &block->distinct, few, pattern, number);
}

/* Counts whole patterns. Returns whether there were only a few, as far as this block can tell. */
INLINE int counted_whole(const Stretch *some, const Counted *all, Block *block, uint32_t *patterns, int kind, int shift) {
    const int each = VECTOR / width_of(kind);
    uint32_t few = all->few < 0x7fffffff ? (uint32_t)all->few : 0x7fffffffu;
    int is_over = 0;
    EACH_THREAD(thread) {
        begin(block, thread);
        clear(patterns, 2 * OWN_PLACES, thread);
    }
    SYNC;
    for (int64_t tile = some->first; tile < some->last && !is_over; tile += 2 * THREADS) {
        EACH_THREAD(thread) {
            Seen own = none_seen();
            for (int64_t i = tile + thread; i < some->last && i < tile + 2 * THREADS; i += THREADS) {
                uint32_t found[VECTOR / 2];
                if (are_one(some->vectors + i, kind, found, &own))
                    see_whole(block, patterns, few, found[0], each, &own);
                else
                    for (int j = 0; j < each; j++) see_whole(block, patterns, few, found[j], 1, &own);
            }
            join(&block->seen, &own, thread);
        }
        SYNC;
        is_over = block->many || now_long(all->seen + MANY) != 0;
        EACH_THREAD(thread) if (thread == 0) block->stop = is_over;
        SYNC;
        is_over = block->stop; /* threads may have read MANY before and after it was set */
    }
    EACH_THREAD(thread) {
        Seen own = none_seen();
        for (int i = thread; i < some->edges; i += THREADS) {
            Vector vector = edge_of(some, i, kind);
            see_whole(block, patterns, few, pattern_in(&vector, 0, kind, &own), 1, &own);
        }
        join(&block->seen, &own, thread);
    }
    SYNC;
    is_over = is_over || block->many;
    if (!is_over) {
        EACH_THREAD(thread) {
            join_all(all, &block->seen, thread);
            for (uint32_t i = (uint32_t)thread; i < OWN_PLACES; i += THREADS)
                if (patterns[i]) add_whole(all, shift, ~patterns[i], patterns[OWN_PLACES + i] * all->times);
        }
    } else {
        EACH_THREAD(thread) if (thread == 0) add_long(all->seen + MANY, 1);
    }
    SYNC;
    return !is_over;
}

/* --- buckets */

/* Counts a value in its bucket: in shared memory for ``span`` keys of either sign, else in the table of all blocks. */
INLINE void see_bucket(const Counted *all, uint32_t *window, uint32_t base, uint32_t span, int shift, uint32_t pattern,
                       uint32_t number, Seen *own) {
    if (!is_value(pattern, number, own)) return;
    extend(own, pattern);
    uint32_t place = ((pattern & MAGNITUDE) >> shift) - base;
    if (place >= span) add_long(all->table + (pattern >> shift), (int64_t)number * all->times);
    else if (number == 1) add(window + place + (pattern >> 31) * span, 1);
    else add_together(window, place + (pattern >> 31) * span, number);
}

/* The octaves in which most of the first values lie, as many as there is room for. */
INLINE void choose_octaves(const Stretch *some, Block *block, int kind, int octaves) {
    const int each = VECTOR / width_of(kind);
    EACH_THREAD(thread) {
        Seen ignored = none_seen();
        for (int64_t i = some->first + thread; i < some->last && i < some->first + THREADS; i += THREADS) {
            Vector vector = some->vectors[i];
            for (int j = 0; j < each; j++)
                add_together(block->exponents, (pattern_in(&vector, j, kind, &ignored) & MAGNITUDE) >> MANTISSA, 1);
        }
    }
    SYNC;
    EACH_THREAD(thread) {
        if (thread > 0 && thread + octaves < EXPONENTS) { /* without zeros and infinities; the highest of equal ones */
            uint32_t sum = 0;
            for (int i = 0; i < octaves; i++) sum += block->exponents[thread + i];
            raise(&block->best, sum << 8 | (uint32_t)thread);
        }
    }
    SYNC;
}

INLINE void count_in_buckets(const Stretch *some, const Counted *all, Block *block, uint32_t *window, int kind, int shift,
                             int octaves) {
    const int each = VECTOR / width_of(kind);
    const uint32_t span = (uint32_t)octaves << (MANTISSA - shift);
    EACH_THREAD(thread) {
        begin(block, thread);
        clear(window, 2 * span, thread);
    }
    SYNC;
    choose_octaves(some, block, kind, octaves);
    const uint32_t base = (block->best & 0xffu) << (MANTISSA - shift);
    EACH_THREAD(thread) {
        Seen own = none_seen();
        for (int64_t i = some->first + thread; i < some->last; i += THREADS) {
            uint32_t found[VECTOR / 2];
            if (are_one(some->vectors + i, kind, found, &own))
                see_bucket(all, window, base, span, shift, found[0], each, &own);
            else
                for (int j = 0; j < each; j++) see_bucket(all, window, base, span, shift, found[j], 1, &own);
        }
        for (int i = thread; i < some->edges; i += THREADS) {
            Vector vector = edge_of(some, i, kind);
            see_bucket(all, window, base, span, shift, pattern_in(&vector, 0, kind, &own), 1, &own);
        }
        join(&block->seen, &own, thread);
    }
    SYNC;
    EACH_THREAD(thread) {
        join_all(all, &block->seen, thread);
        for (uint32_t i = (uint32_t)thread; i < 2 * span; i += THREADS) {
            uint32_t key = base + (i < span ? i : i - span + (SIGN >> shift));
            if (window[i]) add_long(all->table + key, window[i] * all->times);
        }
    }
}

/* --- the kernels, one for each form of values

   few: 0 if every value has a bucket of its own. */
INLINE void count_values(const uint8_t *values, int64_t size, Counted all, int octaves, int kind, int shift, int has_few) {
    Block *block = (Block *)shared;
    uint32_t *counters = shared + BLOCK_WORDS;
    Stretch some = stretch_of(values, size, kind);
    if (has_few) {
        EACH_THREAD(thread) if (thread == 0) block->stop = now_long(all.seen + MANY) != 0;
        SYNC;
        int is_over = block->stop;
        SYNC;
        if (!is_over && counted_whole(&some, &all, block, counters, kind, shift)) return;
    }
    count_in_buckets(&some, &all, block, counters, kind, shift, octaves);
}

#define COUNT(name, kind, shift, has_few)                                                                              \
    KERNEL name(const uint8_t *values, int64_t size, int64_t *seen, uint32_t *patterns, int64_t *counts,               \
                int64_t *table, int64_t few, int64_t times, int64_t octaves) {                                         \
        Counted all = {seen, patterns, counts, table, few, times};                                                     \
        count_values(values, size, all, (int)octaves, kind, shift, has_few);                                           \
    }
COUNT(count_float32, FLOAT32, 13, 1)
COUNT(count_float64, FLOAT64, 13, 1)
COUNT(count_float16, FLOAT16, 13, 0)
COUNT(count_bfloat16, BFLOAT16, 16, 0)

#define COPIES 8 /* of the counters of bytes, for one in eight threads each */

KERNEL count_bytes(const uint8_t *values, int64_t size, int64_t *table, int64_t times) {
    Stretch some = stretch_of(values, size, BYTES);
    EACH_THREAD(thread) clear(shared, COPIES * 256, thread);
    SYNC;
    EACH_THREAD(thread) {
        uint32_t copy = (uint32_t)thread % COPIES;
        for (int64_t i = some.first + thread; i < some.last; i += THREADS) {
            Vector vector = some.vectors[i];
            uint32_t first = vector.words[0];
            if (first == vector.words[1] && first == vector.words[2] && first == vector.words[3] &&
                first == (first & 0xffu) * 0x01010101u)
                add_together(shared, (first & 0xffu) * COPIES, VECTOR);
            else
                for (int j = 0; j < VECTOR; j++)
                    add(shared + (vector.words[j / 4] >> 8 * (j % 4) & 0xffu) * COPIES + copy, 1);
        }
        for (int i = thread; i < some.edges; i += THREADS) {
            Vector vector = edge_of(&some, i, BYTES);
            add(shared + (vector.words[0] & 0xffu) * COPIES + copy, 1);
        }
    }
    SYNC;
    EACH_THREAD(thread) {
        if (thread < 256) {
            int64_t count = 0;
            for (int i = 0; i < COPIES; i++) count += shared[thread * COPIES + i];
            if (count) add_long(table + thread, count * times);
        }
    }
}
