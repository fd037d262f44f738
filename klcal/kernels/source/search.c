/* The compiled kernel, second half: from sketches to quantizers and what they cost.

   klcal/kernels/library.py loads both, and knows the same VERSION. */
#include "figures.h"

#define VERSION 2

PUBLIC int64_t klcal_version(void) { return VERSION; }
