/* The threads of a block, each with a stack of its own, in the place of the loops of device.h: a thread runs until it comes
   to a SYNC, and then another does. The warps one after the other, as far as each can come; in an order that changes.
   A thread begins in a context of its own. Later turns are jumps: a swap of contexts asks the system each time. */
#include <setjmp.h>
#include <ucontext.h>

#define LANES_OF_WARP 32
#define WARPS (THREADS / LANES_OF_WARP)
#define STACK (1 << 16)
#define ARGUMENTS 20 /* of a kernel, at most: as integers */

enum { AT_WARP, AT_BLOCK, AT_END, STATES }; /* what a thread waits for */

static char ALIGNED16 device_stacks[THREADS][STACK];
static ucontext_t device_beginnings[THREADS];
static jmp_buf device_host, device_threads[THREADS];
static int device_thread, device_state;
static uint32_t device_lanes[THREADS];

static __attribute__((noinline)) int this_thread(void) { return *(volatile int *)&device_thread; }

static __attribute__((noinline)) void wait_at(int state) {
    device_state = state;
    if (!_setjmp(device_threads[this_thread()])) _longjmp(device_host, 1);
}

/* Lets a thread go on until it waits. */
static __attribute__((noinline)) void turn_to(int thread, int is_first) {
    device_thread = thread;
    if (_setjmp(device_host)) return;
    if (is_first) setcontext(device_beginnings + thread);
    _longjmp(device_threads[thread], 1);
}

#define EACH_THREAD(thread) for (int thread = this_thread(), once = 1; once; once = 0)
#define SYNC wait_at(AT_BLOCK)
#define SYNC_WARP wait_at(AT_WARP)

static __attribute__((noinline, unused)) uint32_t warp_before(int thread, uint32_t number) {
    uint32_t sum = 0;
    device_lanes[thread] = number;
    SYNC_WARP;
    for (int i = thread / LANES_OF_WARP * LANES_OF_WARP; i < thread; i++) sum += device_lanes[i];
    SYNC_WARP;
    return sum;
}

/* What the thread of a warp has whose number differs in one bit. */
static uint64_t device_bits[THREADS];

static __attribute__((noinline, unused)) uint64_t swapped_bits(uint64_t bits, int by) {
    int thread = this_thread();
    device_bits[thread] = bits;
    SYNC_WARP;
    bits = device_bits[thread ^ by];
    SYNC_WARP;
    return bits;
}

static inline __attribute__((unused)) float swapped_float(float number, int by) {
    union { float number; uint32_t bits; } each = {number};
    each.bits = (uint32_t)swapped_bits(each.bits, by);
    return each.number;
}

static inline __attribute__((unused)) double swapped_double(double number, int by) {
    union { double number; uint64_t bits; } each = {number};
    each.bits = swapped_bits(each.bits, by);
    return each.number;
}

static inline __attribute__((unused)) int64_t swapped_long(int64_t number, int by) {
    return (int64_t)swapped_bits((uint64_t)number, by);
}

typedef int64_t Arguments[ARGUMENTS];
typedef void Kernel(int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t,
                    int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t);
static Kernel *device_kernel;
static const int64_t *device_arguments;

static void run_thread(void) {
    const int64_t *a = device_arguments;
    device_kernel(a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], a[8], a[9], a[10], a[11], a[12], a[13], a[14], a[15],
                  a[16], a[17], a[18], a[19]);
    wait_at(AT_END);
}

/* Lets the threads of a warp go on until none waits only for others of it; what all wait for then, or STATES. */
static int run_warp(int warp, int turn, int is_first) {
    int waiting[STATES];
    do {
        for (int state = 0; state < STATES; state++) waiting[state] = 0;
        for (int lane = 0; lane < LANES_OF_WARP; lane++) {
            turn_to(warp * LANES_OF_WARP + (lane ^ turn), is_first);
            waiting[device_state]++;
        }
        is_first = 0;
    } while (waiting[AT_WARP] == LANES_OF_WARP);
    return waiting[AT_BLOCK] == LANES_OF_WARP ? AT_BLOCK : waiting[AT_END] == LANES_OF_WARP ? AT_END : STATES;
}

/* Runs a block; whether all threads came to the same ends. */
PUBLIC int klcal_run_block(Kernel *kernel, const int64_t *arguments, uint32_t seed);
PUBLIC int klcal_run_block(Kernel *kernel, const int64_t *arguments, uint32_t first) {
    volatile uint32_t seed = first; /* getcontext's like may clobber what is in a register */
    volatile int is_first = 1;
    int states[STATES + 1];
    device_kernel = kernel, device_arguments = arguments;
    for (int i = 0; i < THREADS; i++) {
        getcontext(device_beginnings + i);
        device_beginnings[i].uc_stack.ss_sp = device_stacks[i];
        device_beginnings[i].uc_stack.ss_size = STACK;
        makecontext(device_beginnings + i, run_thread, 0);
    }
    do {
        for (int state = 0; state <= STATES; state++) states[state] = 0;
        seed = seed * 1664525u + 1013904223u;
        for (int warp = 0; warp < WARPS; warp++)
            states[run_warp(warp ^ (int)((seed >> 27) % WARPS), (int)(seed >> 22 & 31), is_first)]++;
        is_first = 0;
    } while (states[AT_BLOCK] == WARPS);
    return states[AT_END] == WARPS;
}
