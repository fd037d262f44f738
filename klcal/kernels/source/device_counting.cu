/* How often each float32 pattern, or each bucket of them, occurs in a tensor that lies on a GPU: what counting.h does on a
   CPU. Only integers come out, so the order in which threads add them is of no consequence.

   A block of threads counts a stretch of the values in its own memory, and adds what it has to a table that all share: whole
   patterns as long as these are few, else in buckets, those of the octaves that most values lie in. Where the patterns
   turn out to be too many, the block forgets them and counts its stretch again. */
#include "device.h"
#include "device_patterns.h"

#define GOLDEN 0x9e3779b1u       /* 2³² over the golden ratio: multiples of it lie far apart */
#define OWN_PLACES_BITS 13       /* of the patterns that a block knows; 64 KiB of its memory */
#define OWN_PLACES (1u << OWN_PLACES_BITS)
#define ALL_PLACES_BITS 14       /* of the patterns that all know: four times as many as may be told apart */
#define ALL_PLACES (1u << ALL_PLACES_BITS)
#define SAMPLE 4                 /* vectors of each thread that are looked at for the octaves */
#define EXPONENTS 256
#define VECTOR 16                /* bytes that a thread loads at once */

/* What is known beside the counts, as int64: kernels/cuda.py names the fields in this order. The first ten are those of
   counting.h, but that NEAREST is taken from 2³² − 1, so that all begin with 0; then whether there are more patterns than
   a few, and how many of them there are. */
enum { ZEROS, NANS, NEG_INF, POS_INF, OVERFLOWED, UNDERFLOWED, TOP, BOTTOM, NEAREST, BITS, MANY, DISTINCT, FIELDS };
#define SUMS 6 /* the first fields are sums */

/* What a thread knows, or a block together. */
typedef struct {
    uint32_t sums[SUMS];
    uint32_t top, bottom, nearest, bits;
} Seen;

/* What all blocks add to. */
typedef struct {
    int64_t *seen;
    uint32_t *patterns; /* (ALL_PLACES,), inverted: 0, of an empty place, is no value */
    int64_t *counts;    /* (ALL_PLACES,) */
    int64_t *table;     /* of keys, which are patterns without their last ``shift`` bits */
    int64_t few, times; /* patterns that may be told apart; how often each value stands in the tensor */
} Counted;

/* --- from what is stored to float32 patterns */

/* Rounded to float32; 0 for finite values beyond it, which are counted as that and not as zeros. */
INLINE uint32_t pattern_of_double(uint32_t low, uint32_t high, Seen *seen) {
    Rounded each = rounded((uint64_t)high << 32 | low);
    seen->sums[OVERFLOWED] += each.is_beyond;
    seen->sums[ZEROS] -= each.is_beyond;
    seen->sums[UNDERFLOWED] += each.is_to_zero;
    return each.is_beyond ? 0 : each.pattern;
}

/* The value at a place of a vector. */
INLINE uint32_t pattern_in(const Vector *vector, int place, int kind, Seen *seen) {
    if (kind == FLOAT32) return vector->words[place];
    if (kind == FLOAT64) return pattern_of_double(vector->words[2 * place], vector->words[2 * place + 1], seen);
    uint32_t half = vector->words[place / 2] >> 16 * (place % 2) & 0xffffu;
    return kind == BFLOAT16 ? half << 16 : pattern_of_half(half);
}

/* The values of a vector; whether all are the same, as in padding: then threads would meet in one counter. */
INLINE int are_one(const Vector *from, int kind, uint32_t *found, Seen *seen) {
    Vector vector = *from;
    uint32_t differ = 0;
    for (int i = 0; i < VECTOR / width_of(kind); i++) {
        found[i] = pattern_in(&vector, i, kind, seen);
        differ |= found[i] ^ found[0];
    }
    return !differ;
}

/* --- what is seen of a value */

INLINE Seen none_seen(void) {
    Seen seen;
    for (int i = 0; i < SUMS; i++) seen.sums[i] = 0;
    seen.top = seen.bottom = seen.bits = 0;
    seen.nearest = 0xffffffffu;
    return seen;
}

/* Whether a pattern is finite and not 0; else it is counted so many times. */
INLINE int is_value(uint32_t pattern, uint32_t times, Seen *seen) {
    uint32_t magnitude = pattern & MAGNITUDE;
    if (magnitude - 1 < INFINITE - 1) return 1;
    if (magnitude == 0) seen->sums[ZEROS] += times;
    else if (magnitude > INFINITE) seen->sums[NANS] += times;
    else if (pattern & SIGN) seen->sums[NEG_INF] += times;
    else seen->sums[POS_INF] += times;
    return 0;
}

INLINE void extend(Seen *seen, uint32_t pattern) {
    uint32_t magnitude = pattern & MAGNITUDE;
    seen->top = (int32_t)pattern > (int32_t)seen->top ? pattern : seen->top;
    seen->bottom = pattern > seen->bottom ? pattern : seen->bottom;
    seen->nearest = magnitude < seen->nearest ? magnitude : seen->nearest;
    seen->bits |= pattern;
}

/* Adds what a thread has seen to what its block has. */
INLINE void join(Seen *block, const Seen *own, int thread) {
    uint32_t any = 0;
    for (int i = 0; i < SUMS; i++) any |= own->sums[i];
    if (warp_bits(any)) {
        for (int i = 0; i < SUMS; i++) {
            uint32_t sum = warp_sum(own->sums[i]);
            if (sum && tells(thread)) add(&block->sums[i], sum);
        }
    }
    uint32_t nearest = warp_least(own->nearest);
    if (nearest == 0xffffffffu) return;
    uint32_t top = (uint32_t)warp_most_signed((int32_t)own->top), bottom = warp_most(own->bottom);
    uint32_t bits = warp_bits(own->bits);
    if (!tells(thread)) return;
    raise_signed(&block->top, top);
    raise(&block->bottom, bottom);
    lower(&block->nearest, nearest);
    set_bits(&block->bits, bits);
}

INLINE void extend_all(int64_t *seen, uint32_t top, uint32_t bottom, uint32_t nearest, uint32_t bits) {
    raise_long(seen + TOP, (int32_t)top);
    raise_long(seen + BOTTOM, bottom);
    raise_long(seen + NEAREST, 0xffffffffu - nearest);
    set_bits_long(seen + BITS, bits);
}

/* Adds what a block has seen to what all have. */
INLINE void join_all(const Counted *all, const Seen *block, int thread) {
    if (thread < SUMS && block->sums[thread]) /* a sum of zeros may be negative: of values that are no zeros */
        add_long(all->seen + thread, (int32_t)block->sums[thread] * all->times);
    if (thread == SUMS && block->nearest != 0xffffffffu)
        extend_all(all->seen, block->top, block->bottom, block->nearest, block->bits);
}

/* --- whole patterns */

/* Counts a pattern among those that the block knows, or marks that there are too many. */
INLINE void count_whole(uint32_t *patterns, uint32_t *counts, uint32_t *many, uint32_t *distinct, uint32_t few,
                        uint32_t pattern, uint32_t number) {
    uint32_t inverted = ~pattern, place = inverted * GOLDEN >> (32 - OWN_PLACES_BITS);
    for (;; place = (place + 1) & (OWN_PLACES - 1)) {
        uint32_t there = now(patterns + place);
        if (!there) {
            there = claimed(patterns + place, inverted);
            if (!there) {
                if (added(distinct, 1) >= few) *many = 1;
                there = inverted;
            }
        }
        if (there == inverted) break;
        if (now(many)) return;
    }
    if (number == 1) add(counts + place, 1);
    else add_together(counts, place, number);
}

/* Adds the count of a pattern to those that all know; to its bucket where there are too many. */
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

/* --- a stretch of values */

/* The values of a block: whole vectors, and what lies before and behind all vectors, one at a time. */
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

/* What a block keeps in the memory that its threads share: of patterns, or of buckets. */
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

/* Counts whole patterns; whether there were no more than a few, as far as this block can tell. */
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

/* A value in its bucket: of the block, where that is near, else of all. ``span`` keys of either sign are near. */
INLINE void see_bucket(const Counted *all, uint32_t *window, uint32_t base, uint32_t span, int shift, uint32_t pattern,
                       uint32_t number, Seen *own) {
    if (!is_value(pattern, number, own)) return;
    extend(own, pattern);
    uint32_t place = ((pattern & MAGNITUDE) >> shift) - base;
    if (place >= span) add_long(all->table + (pattern >> shift), (int64_t)number * all->times);
    else if (number == 1) add(window + place + (pattern >> 31) * span, 1);
    else add_together(window, place + (pattern >> 31) * span, number);
}

/* The octaves that most of the first values lie in, so many as there is room for. */
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

   few: 0 where the buckets tell all values apart. */
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
