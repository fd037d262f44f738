/* What all parts of the kernel need. Plain C11 without Python in it; GCC and Clang, x86-64 and aarch64. */
#ifndef KLCAL_COMMON_H
#define KLCAL_COMMON_H

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define PUBLIC __attribute__((visibility("default")))
/* Helpers of a function with variants are inlined into each, or else they would be compiled for the oldest machine. */
#define INLINE static inline __attribute__((always_inline))

#if defined(__clang__) && !defined(KLCAL_ONE_VARIANT) /* it cannot export a function with variants under its own name */
#define KLCAL_ONE_VARIANT
#endif

/* One copy of a function for each generation of x86-64, chosen when the library is loaded. */
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(KLCAL_ONE_VARIANT)
#define VARIANTS __attribute__((target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")))
#else
#define VARIANTS
#endif

#endif
