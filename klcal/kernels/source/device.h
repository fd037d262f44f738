/* Code for a GPU is compiled at run time, and by the tests as plain C, with loops in place of threads. So it is written in
   phases: within EACH_THREAD a thread needs no results of others, and SYNC ends a phase. A loop would not notice a missing
   SYNC, so the tests also run it with threads that take turns only at a SYNC. */
#ifndef KLCAL_DEVICE_H
#define KLCAL_DEVICE_H

#include "common.h"

#ifndef THREADS
#define THREADS 1024 /* of a block: two of them fill a multiprocessor */
#define RESIDENT 2
#endif

#ifdef __CUDACC__

#define KERNEL extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT)
#define ALIGNED16 __align__(16)
#define EACH_THREAD(thread) for (int thread = (int)threadIdx.x, once = 1; once; once = 0)
#define SYNC __syncthreads()
#define SYNC_WARP __syncwarp() /* at the end of a phase whose results are used within the warp only */
#define BLOCK ((int64_t)blockIdx.x)
#define BLOCKS ((int64_t)gridDim.x)

extern __shared__ __align__(16) uint32_t shared[]; /* shared memory of a block; the launch gives its size */

INLINE void add(uint32_t *to, uint32_t number) { atomicAdd(to, number); }
INLINE uint32_t added(uint32_t *to, uint32_t number) { return atomicAdd(to, number); }
INLINE void add_long(int64_t *to, int64_t number) { atomicAdd((uint64_t *)to, (uint64_t)number); }
INLINE int64_t added_long(int64_t *to, int64_t number) {
    return (int64_t)atomicAdd((uint64_t *)to, (uint64_t)number);
}
INLINE void raise_signed(uint32_t *to, uint32_t pattern) { atomicMax((int32_t *)to, (int32_t)pattern); }
INLINE void raise(uint32_t *to, uint32_t number) { atomicMax(to, number); }
INLINE void lower(uint32_t *to, uint32_t number) { atomicMin(to, number); }
INLINE void set_bits(uint32_t *to, uint32_t bits) { atomicOr(to, bits); }
INLINE void raise_long(int64_t *to, int64_t number) { atomicMax(to, number); }
INLINE void set_bits_long(int64_t *to, int64_t bits) { atomicOr((uint64_t *)to, (uint64_t)bits); }
/* Replaces a 0, and returns the old contents. */
INLINE uint32_t claimed(uint32_t *place, uint32_t by) { return atomicCAS(place, 0u, by); }
INLINE uint32_t now(const uint32_t *from) { return *(const volatile uint32_t *)from; }
INLINE int64_t now_long(const int64_t *from) { return *(const volatile int64_t *)from; }

/* Over all threads of a warp; one of them, for which the second argument is true, has the result of all. */
INLINE uint32_t warp_sum(uint32_t number) { return __reduce_add_sync(0xffffffffu, number); }
INLINE int32_t warp_most_signed(int32_t number) { return __reduce_max_sync(0xffffffffu, number); }
INLINE uint32_t warp_most(uint32_t number) { return __reduce_max_sync(0xffffffffu, number); }
INLINE uint32_t warp_least(uint32_t number) { return __reduce_min_sync(0xffffffffu, number); }
INLINE uint32_t warp_bits(uint32_t bits) { return __reduce_or_sync(0xffffffffu, bits); }
INLINE int tells(int thread) { return thread % 32 == 0; }
/* The sum over the threads of a warp before this one. */
INLINE uint32_t warp_before(int thread, uint32_t number) {
    uint32_t sum = number;
    for (int by = 1; by < 32; by *= 2) {
        uint32_t other = __shfl_up_sync(0xffffffffu, sum, (unsigned)by);
        sum += thread % 32 >= by ? other : 0;
    }
    return sum - number;
}

/* Adds to a counter that many threads may use at once: once for a whole warp if all of its threads do. */
INLINE void add_together(uint32_t *counters, uint32_t place, uint32_t number) {
    uint32_t active = __activemask();
    int is_one = 0;
    __match_all_sync(active, place, &is_one);
    if (!is_one) atomicAdd(counters + place, number);
    else if (__ffs((int)active) - 1 == (int)(threadIdx.x % 32)) atomicAdd(counters + place, number * __popc(active));
}

/* The value of the thread of the warp whose number differs in one bit. */
INLINE float swapped_float(float number, int by) { return __shfl_xor_sync(0xffffffffu, number, by); }
INLINE double swapped_double(double number, int by) { return __shfl_xor_sync(0xffffffffu, number, by); }
INLINE int64_t swapped_long(int64_t number, int by) { return __shfl_xor_sync(0xffffffffu, number, by); }

#else

#define KERNEL PUBLIC void
#define ALIGNED16 __attribute__((aligned(16)))
#define BLOCK klcal_block
#define BLOCKS klcal_blocks

PUBLIC int64_t klcal_block, klcal_blocks, klcal_threads = THREADS;
PUBLIC uint32_t ALIGNED16 klcal_shared[1 << 16];
#define shared klcal_shared

#ifdef KLCAL_THREADS
#include KLCAL_THREADS /* true ones, which SYNC waits for */
#else
#define EACH_THREAD(thread) for (int thread = 0; thread < THREADS; thread++)
#define SYNC (void)0
#define SYNC_WARP (void)0
INLINE uint32_t warp_before(int thread, uint32_t number) { /* they come one after the other */
    static uint32_t sum;
    sum = (thread % 32 ? sum : 0) + number;
    return sum - number;
}
#endif

INLINE void add(uint32_t *to, uint32_t number) { *to += number; }
INLINE uint32_t added(uint32_t *to, uint32_t number) { return (*to += number) - number; }
INLINE void add_long(int64_t *to, int64_t number) { *to += number; }
INLINE int64_t added_long(int64_t *to, int64_t number) { return (*to += number) - number; }
INLINE void raise_signed(uint32_t *to, uint32_t pattern) { *to = (int32_t)pattern > (int32_t)*to ? pattern : *to; }
INLINE void raise(uint32_t *to, uint32_t number) { *to = number > *to ? number : *to; }
INLINE void lower(uint32_t *to, uint32_t number) { *to = number < *to ? number : *to; }
INLINE void set_bits(uint32_t *to, uint32_t bits) { *to |= bits; }
INLINE void raise_long(int64_t *to, int64_t number) { *to = number > *to ? number : *to; }
INLINE void set_bits_long(int64_t *to, int64_t bits) { *to |= bits; }
INLINE uint32_t claimed(uint32_t *place, uint32_t by) {
    uint32_t before = *place;
    if (!before) *place = by;
    return before;
}
INLINE uint32_t now(const uint32_t *from) { return *from; }
INLINE int64_t now_long(const int64_t *from) { return *from; }
INLINE uint32_t warp_sum(uint32_t number) { return number; }
INLINE int32_t warp_most_signed(int32_t number) { return number; }
INLINE uint32_t warp_most(uint32_t number) { return number; }
INLINE uint32_t warp_least(uint32_t number) { return number; }
INLINE uint32_t warp_bits(uint32_t bits) { return bits; }
INLINE int tells(int thread) { return thread >= 0; }
INLINE void add_together(uint32_t *counters, uint32_t place, uint32_t number) { counters[place] += number; }

#endif

typedef struct ALIGNED16 {
    uint32_t words[4];
} Vector; /* the bytes that a thread loads at once */

#endif
