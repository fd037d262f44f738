/* Common parts of the kernel. It is plain C11 without Python, for GCC and Clang, on x86-64 and aarch64. The code that also
   runs on a GPU is valid CUDA C++, too. */
#ifndef KLCAL_COMMON_H
#define KLCAL_COMMON_H

#ifdef __CUDACC__ /* all functions are a device's, by an option of the compiler, which knows those of math.h */

#pragma nv_diag_suppress 177 /* a header has functions that one kernel needs, and another does not */

typedef signed char int8_t;
typedef unsigned char uint8_t;
typedef unsigned short uint16_t;
typedef int int32_t;
typedef unsigned int uint32_t;
typedef long long int64_t;
typedef unsigned long long uint64_t;

#define UINT32_MAX 0xffffffffu
#define INFINITY __int_as_float(0x7f800000)
#define NAN __int_as_float(0x7fffffff)
#define restrict __restrict__
#define PUBLIC static
#define INLINE static __forceinline__
#define APART static __noinline__ /* not in each place where it is called: or else a kernel takes minutes to compile */
#define VARIANTS

INLINE int first_bit(uint64_t bits) { return __ffsll((int64_t)bits) - 1; }
INLINE int last_bit(uint64_t bits) { return 63 - __clzll((int64_t)bits); }

#else

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define PUBLIC __attribute__((visibility("default")))
/* Helpers of a function with variants are inlined into each of them. Otherwise they would be compiled for the oldest CPU. */
#define INLINE static inline __attribute__((always_inline))
#define APART static

/* The number of the lowest, or of the highest bit that is set: there is one. */
INLINE int first_bit(uint64_t bits) { return __builtin_ctzll(bits); }
INLINE int last_bit(uint64_t bits) { return 63 - __builtin_clzll(bits); }

#if defined(__clang__) && !defined(KLCAL_ONE_VARIANT) /* Clang cannot export a function with variants under its own name */
#define KLCAL_ONE_VARIANT
#endif

/* One copy of a function for each generation of x86-64, chosen when the library is loaded. */
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(KLCAL_ONE_VARIANT)
#define GENERATIONS
#define VARIANTS __attribute__((target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")))
#else
#define VARIANTS
#endif

#endif
#endif
