// The interleaved range coder (rANS) of taskstore/kernels/entropy/rans.py: LANES states of 32 bits share
// one sequence of 16-bit words. A context's shares add up to WHOLE.
#pragma once

#include "codecs/inlined.hpp"

#include <algorithm>
#include <cstdint>
#include <cstring>

constexpr int LANES = 8, SHARE_BITS = 11;
constexpr uint32_t WHOLE = 1 << SHARE_BITS, START = 1 << 16;

// What a state's low bits stand for: byte, place in the share, and share. `table` has WHOLE entries.
// False where the shares, uint16 (256,), add up to something else.
inline bool spread(const uint16_t *shares, uint32_t *table) {
    uint32_t at = 0;
    for (uint32_t s = 0; s < 256; ++s) {
        uint32_t share = shares[s];
        if (at + share > WHOLE) return false;
        for (uint32_t place = 0; place < share; ++place) table[at++] = s | place << 8 | share << 20;
    }
    return at == WHOLE;
}

// Takes bytes out of the states. Reads words to their end and no further.
class RansDecoder {
public:
    static constexpr size_t ROOM = LANES + 1; // words to run into

    // `words` has `count` of them, and ROOM more.
    RansDecoder(const uint32_t *states, const uint16_t *words, size_t count)
        : at_(words), end_(words + count) {
        std::copy_n(states, LANES, states_);
    }

    // n is a multiple of LANES, but for the last call. `rows` has where the table of a scale begins.
    void take(size_t n, const uint8_t *scales, const uint32_t *rows, const uint32_t *table,
              uint8_t *bytes) {
        uint32_t x[LANES];
        std::copy_n(states_, LANES, x);
        const uint16_t *at = at_;
        size_t i = 0;
        for (; i + LANES <= n; i += LANES) {
#pragma GCC unroll 8
            for (int lane = 0; lane < LANES; ++lane)
                at = one(x[lane], rows[scales[i + lane]], table, at, bytes[i + lane]);
            at = std::min(at, end_ + 1); // one more than there are: it ends wrong
        }
        for (int lane = 0; i + lane < n && lane < LANES; ++lane)
            at = one(x[lane], rows[scales[i + lane]], table, at, bytes[i + lane]);
        at_ = std::min(at, end_ + 1);
        std::copy_n(x, LANES, states_);
    }
    // Whether it ends empty after the last word.
    bool ended() const {
        return at_ == end_ &&
               std::all_of(states_, states_ + LANES, [](uint32_t x) { return x == START; });
    }

private:
    INLINED static const uint16_t *one(uint32_t &x, uint32_t row, const uint32_t *table,
                                       const uint16_t *at, uint8_t &byte) {
        uint32_t entry = table[row | (x & (WHOLE - 1))];
        byte = uint8_t(entry);
        uint32_t next = (entry >> 20) * (x >> SHARE_BITS) + ((entry >> 8) & 0xFFF);
        uint32_t filled = next << 16 | *at;
        asm("" : "+r"(filled)); // stays a scalar and needs no branch, which would be a coin's toss
        bool few = next < START;
        x = few ? filled : next;
        return at + few;
    }

    uint32_t states_[LANES];
    const uint16_t *at_, *end_;
};
