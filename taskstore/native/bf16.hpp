// Between bf16 and float32, as taskstore/kernels/floats.py says it.
#pragma once

#include <bit>
#include <cstdint>

constexpr uint32_t EXPONENT = 0x7F800000;

inline uint32_t bits(float value) { return std::bit_cast<uint32_t>(value); }

inline float widened(uint16_t x) { return std::bit_cast<float>(static_cast<uint32_t>(x) << 16); }

// float32 bits, no NaN -> bf16 bits, to nearest even.
inline uint16_t rounded(uint32_t u) {
    return static_cast<uint16_t>((u + 0x7FFF + ((u >> 16) & 1)) >> 16);
}

// round(theta0 + tau), or w0 where that is not finite.
inline uint16_t sum_or(uint16_t w0, float theta0, float tau) {
    uint32_t u = bits(theta0 + tau);
    uint16_t w = rounded(u);
    bool bad = ((w & 0x7F80) == 0x7F80) | ((u & EXPONENT) == EXPONENT);
    return bad ? w0 : w;
}
