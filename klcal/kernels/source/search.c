/* The compiled kernel, its third part: from sketches to quantizers and what they cost.

   klcal/kernels/library.py loads all of it, and knows the same VERSION. */
#include "figures.h"

#define VERSION 9

PUBLIC int64_t klcal_version(void) { return VERSION; }

/* The logarithms of some numbers. */
PUBLIC VARIANTS void klcal_logarithms(const double *restrict values, int64_t n, double *restrict found) {
    for (int64_t i = 0; i < n; i++) found[i] = logarithm(values[i]);
}

/* The search of short units side by side, of each generation of machines: see together.h. */
#define FEWEST_TOGETHER 4 /* units: fewer leave so many lanes empty that one after the other is faster */

typedef int64_t Together(const Search *how, const Units *units, const int64_t *numbers, int64_t n, const Wanted *each);

Together klcal_search_together_any, klcal_search_together_v3, klcal_search_together_v4;

static Together *together(void) {
#ifdef GENERATIONS
#define HAS(feature) __builtin_cpu_supports(feature)
    if (!HAS("avx2") || !HAS("bmi2") || !HAS("fma")) return klcal_search_together_any;
    if (!HAS("avx512f") || !HAS("avx512bw") || !HAS("avx512dq") || !HAS("avx512vl")) return klcal_search_together_v3;
    return klcal_search_together_v4;
#undef HAS
#else
    return klcal_search_together_any;
#endif
}

/* Whether a unit can be searched side by side with others: D does not decide, and a row of it fits into the lanes. */
static int is_short(const Search *how, const Units *units, int64_t unit, const Wanted *each) {
    if (how->few || how->by_buckets || how->seeds || !units->exact[unit] || each->bounded[unit]) return 0;
    return units->ends[unit] - units->starts[unit] <= LANES && !DECIDES(how, units->number[unit]);
}

/* What is chosen for some units, by their numbers; how many of them were done before memory ran out. */
PUBLIC int64_t klcal_search(const Search *how, const Units *units, const int64_t *numbers, int64_t n,
                            const Wanted *each) {
    int64_t *order = malloc((size_t)(n + 1) * sizeof *order), few = 0, others = n;
    if (!order) return 0;
    for (int64_t i = 0; i < n; i++) order[is_short(how, units, numbers[i], each) ? few++ : --others] = numbers[i];
    if (few < FEWEST_TOGETHER) few = others = 0;
    else few = together()(how, units, order, others, each);
    int64_t done = (others ? few : 0) + search_all(how, units, order + others, n - others, each);
    free(order);
    return done;
}

/* What the quantizers of the units from first to last do; how many were done before memory ran out. */
PUBLIC int64_t klcal_figures(const Search *how, const Units *units, int64_t first, int64_t last, const Chosen *each) {
    Scratch scratch;
    Ladder ladders[2];
    int64_t unit = first;
    memset(&scratch, 0, sizeof scratch);
    if (begin_figures(each, &scratch, ladders))
        while (unit < last && figures_one(how, units, unit, each, &scratch, ladders)) unit++;
    release(&scratch);
    return unit - first;
}
