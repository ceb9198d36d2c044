// Vectors of the processor: as many numbers of 32 bits as one holds at this level.
#pragma once

#include <cstdint>

#if defined(__AVX512F__)
static const int LANES = 16;
#elif defined(__AVX2__)
static const int LANES = 8;
#else
static const int LANES = 4;
#endif
typedef uint32_t Words __attribute__((vector_size(4 * LANES)));
typedef float Floats __attribute__((vector_size(4 * LANES)));
