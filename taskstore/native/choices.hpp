// Choices between numbers, in bits: compilers make a jump of them otherwise, or a store that depends.
#pragma once

#include <bit>
#include <cstdint>

// x, or 0.
static inline float kept(bool keep, float x) {
    return std::bit_cast<float>(std::bit_cast<uint32_t>(x) & (0 - static_cast<uint32_t>(keep)));
}

// a, or b.
static inline float either(bool first, float a, float b) {
    uint32_t x = std::bit_cast<uint32_t>(a), y = std::bit_cast<uint32_t>(b);
    return std::bit_cast<float>(y ^ ((x ^ y) & (0 - static_cast<uint32_t>(first))));
}
