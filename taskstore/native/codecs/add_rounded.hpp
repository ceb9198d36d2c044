// W = round(below + v) of many weights, as bits; below where that is not finite.
#pragma once

#include <algorithm>
#include <cstdint>

#include "bf16.hpp"

constexpr uint32_t OVERFLOW_BF16 = 0x7F7F8000; // bits of the least float32 that rounds to infinity
constexpr uint32_t SIZE = 0x7FFFFFFF;          // all bits but the sign

// Overflow has a loop of its own, since nearly no block has one: a choice in the first loop would take half as
// long again.
inline void add_rounded(const float *values, const uint16_t *below, uint16_t *w, int64_t n) {
    uint32_t largest = 0;
    for (int64_t i = 0; i < n; ++i) {
        uint32_t u = bits(widened(below[i]) + values[i]);
        largest = std::max(largest, u & SIZE);
        w[i] = rounded(u);
    }
    if (largest < OVERFLOW_BF16) return;
    for (int64_t i = 0; i < n; ++i)
        if ((bits(widened(below[i]) + values[i]) & SIZE) >= OVERFLOW_BF16) w[i] = below[i];
}

inline void add_rounded(const float *values, const uint32_t *below, uint32_t *w, int64_t n) {
    for (int64_t i = 0; i < n; ++i) {
        uint32_t u = bits(std::bit_cast<float>(below[i]) + values[i]);
        w[i] = (u & SIZE) >= EXPONENT ? below[i] : u;
    }
}
