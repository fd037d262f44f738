/* The compiled kernel, its third part: from sketches to quantizers and what they cost.

   klcal/kernels/library.py loads all of it, and knows the same VERSION. */
#include "classic.h"
#include "figures.h"
#include "weighed.h"

#define VERSION 16

PUBLIC int64_t klcal_version(void) { return VERSION; }

/* The logarithms of some numbers. */
PUBLIC VARIANTS void klcal_logarithms(const double *restrict values, int64_t n, double *restrict found) {
    for (int64_t i = 0; i < n; i++) found[i] = logarithm(values[i]);
}

/* Short units side by side, of each generation of machines: see together.h. */
#define FEWEST_TOGETHER 4 /* units: fewer leave so many lanes empty that one after the other is faster */

typedef int64_t SearchTogether(const Search *how, const Units *units, const int64_t *numbers, int64_t n, const Wanted *each);
typedef int64_t FiguresTogether(const Search *how, const Units *units, const int64_t *numbers, int64_t n,
                                const Chosen *each);

SearchTogether klcal_search_together_any, klcal_search_together_v3, klcal_search_together_v4;
FiguresTogether klcal_figures_together_any, klcal_figures_together_v3, klcal_figures_together_v4;

/* The functions of the newest generation that this machine has. */
#ifdef GENERATIONS
#define HAS(feature) __builtin_cpu_supports(feature)
#define HAS_V3 (HAS("avx2") && HAS("bmi2") && HAS("fma"))
#define HAS_V4 (HAS_V3 && HAS("avx512f") && HAS("avx512bw") && HAS("avx512dq") && HAS("avx512vl"))
#define NEWEST(name) (HAS_V4 ? name##_v4 : HAS_V3 ? name##_v3 : name##_any)
#else
#define NEWEST(name) name##_any
#endif

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
    else few = NEWEST(klcal_search_together)(how, units, order, others, each);
    int64_t done = few + search_all(how, units, order + others, n - others, each);
    free(order);
    return done;
}

/* Whether the figures of short units can be found side by side: of whole numbers, or of few levels, an even number of
   magnitudes that both signs have. */
static int has_short_figures(const Search *how, const Units *units, const Chosen *each) {
    if (units->type_of_counts == FLOAT64) return 0;
    if (!how->scheme.is_float) return 1;
    if (how->scheme.size > MAX_LEVELS || each->aboves != each->belows || each->aboves % 2) return 0;
    return memcmp(each->above, each->below_zero, (size_t)each->aboves * sizeof(double)) == 0;
}

/* What the quantizers of some units do, by their numbers; how many were done before memory ran out. */
static int64_t figures_of_each(const Search *how, const Units *units, const int64_t *numbers, int64_t n,
                               const Chosen *each) {
    Scratch scratch;
    Ladder ladders[2];
    int64_t done = 0;
    memset(&scratch, 0, sizeof scratch);
    if (begin_figures(each, &scratch, ladders))
        while (done < n && figures_one(how, units, numbers[done], each, &scratch, ladders)) done++;
    release(&scratch);
    return done;
}

/* What `kl-classic` chooses for the units from first to last; how many were done before memory ran out. */
PUBLIC int64_t klcal_classic(const Search *how, const Units *units, int64_t first, int64_t last, const Classic *classic,
                             const Wanted *each) {
    Scratch scratch;
    int64_t unit = first;
    memset(&scratch, 0, sizeof scratch);
    while (unit < last && classic_one(how, units, unit, classic, each, &scratch)) unit++;
    release(&scratch);
    return unit - first;
}

/* What the quantizers of the units from first to last do; how many were done before memory ran out. */
PUBLIC int64_t klcal_figures(const Search *how, const Units *units, int64_t first, int64_t last, const Chosen *each) {
    int64_t n = last - first, *order = malloc((size_t)(n + 1) * sizeof *order), few = 0, others = n;
    if (!order) return 0;
    int can_be_short = has_short_figures(how, units, each);
    for (int64_t unit = first; unit < last; unit++) {
        int is_one = can_be_short && units->exact[unit] && units->ends[unit] - units->starts[unit] <= LANES;
        order[is_one ? few++ : --others] = unit;
    }
    if (few < FEWEST_TOGETHER) few = others = 0;
    else few = NEWEST(klcal_figures_together)(how, units, order, others, each);
    int64_t done = few + (others < n ? figures_of_each(how, units, order + others, n - others, each) : 0);
    free(order);
    return done;
}

#include "stretches.h"
