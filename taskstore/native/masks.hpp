// Packed masks (eight bits to a byte, lowest first) and masks of one byte per element, 0 or 1.
#pragma once

#include <cstdint>
#include <cstring>

constexpr int64_t BLOCK = 1024;  // elements whose masks stay in the first-level cache

inline int64_t packed_size(int64_t n) { return (n + 7) / 8; }

// Packed bytes -> eight times as many of 0 or 1, by one multiplication each.
inline void spread(const uint8_t *packed, int64_t n, uint8_t *mask) {
    for (int64_t j = 0; j < n; ++j) {
        uint64_t picked = (packed[j] * 0x0101010101010101u) & 0x8040201008040201u;
        uint64_t ones = ((picked + 0x7F7F7F7F7F7F7F7Fu) >> 7) & 0x0101010101010101u;
        std::memcpy(mask + 8 * j, &ones, 8);
    }
}

// The other way round; `n` packed bytes.
inline void gather(const uint8_t *mask, int64_t n, uint8_t *packed) {
    for (int64_t j = 0; j < n; ++j) {
        uint64_t ones;
        std::memcpy(&ones, mask + 8 * j, 8);
        packed[j] = static_cast<uint8_t>((ones * 0x0102040810204080u) >> 56);
    }
}
