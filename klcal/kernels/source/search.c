/* The compiled kernel, its third part: from sketches to quantizers and what they cost.

   klcal/kernels/library.py loads all of it, and knows the same VERSION. */
#include "figures.h"

#define VERSION 8

PUBLIC int64_t klcal_version(void) { return VERSION; }
