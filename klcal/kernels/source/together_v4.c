/* The same for AVX-512. */
#include <stdlib.h> /* tells whose library it is */

#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__) && !defined(KLCAL_ONE_VARIANT)
#pragma GCC target("arch=x86-64-v4")
#define GENERATION(name) name##_v4
#include "together.h"
#endif
