/* The same for AVX2. */
#include <stdlib.h> /* tells whose library it is */

#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__) && !defined(KLCAL_ONE_VARIANT)
#pragma GCC target("arch=x86-64-v3")
#define GENERATION(name) name##_v3
#include "together.h"
#endif
