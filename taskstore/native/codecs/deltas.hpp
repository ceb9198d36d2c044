// The arithmetic of `deltas`: integers of 32 bits alone, so that loops are vectorised. SPEC.md, section 4,
// has the rules; what it calls v, F, G, k has these names here. `m` mantissa bits are used, `unused` ones
// lie below; `g` is the exponent of a usual step. Numbers wrap: they are added as unsigned ones.
#pragma once

#include "codecs/floats.hpp"

#include <algorithm>
#include <bit>
#include <cstdint>

namespace deltas {

constexpr int32_t FINER = 3;   // octaves from an ulp of the base's weight down to the unit of a delta
constexpr int32_t SMALL = 240; // symbols from here on tell of a weight without its base
constexpr int32_t NEAR = 6;    // octaves below the unit's exponent that have a symbol
constexpr int32_t ZERO = SMALL + 2 * NEAR, ESCAPED = SMALL + 2 * NEAR + 2;
constexpr int32_t LAST = 231; // symbol of the largest delta; those up to SMALL do not exist
constexpr int32_t TOP = 29;   // no magnitude in units has more bits

// What is known of all weights of a chunk, and `f`: how many bits of a delta its symbol has.
struct Way {
    int32_t unused, m, g, f;
};

INLINED int32_t add(int32_t x, int32_t y) { return int32_t(uint32_t(x) + uint32_t(y)); }
INLINED int32_t sub(int32_t x, int32_t y) { return int32_t(uint32_t(x) - uint32_t(y)); }
INLINED int32_t shl(int32_t x, int32_t n) { return int32_t(uint32_t(x) << (n & 31)); }
INLINED int32_t shr(int32_t x, int32_t n) { return x >> (n & 31); }

// Written as a choice it may become a branch, which is not vectorised.
INLINED int32_t choose(bool which, int32_t x, int32_t y) { return y ^ ((x ^ y) & -int32_t(which)); }

// floor(log2(x)) of a number above 0; negative for 0. No rounding reaches the next power.
INLINED int32_t log2(int32_t x) {
    return sub(shr(std::bit_cast<int32_t>(float(x & ~(x >> 1))), 23), 127);
}

// A weight's bits without the sign, shifted.
template <class U> INLINED int32_t magnitude(U w, int32_t unused) { return shr(int32_t(U(w & BELOW<U>)), unused); }

// The exponent of the unit in which a weight's delta is counted.
INLINED int32_t unit(int32_t t, Way way) {
    return std::max(sub(std::max(shr(t, way.m), way.g), FINER), 1);
}

// A magnitude in units; what is finer is cut off, what is too large stays some number.
INLINED int32_t fixed(int32_t t, int32_t m, int32_t v) {
    int32_t e = std::max(shr(t, m), 1);
    int32_t a = sub(t, shl(sub(e, 1), m));
    int32_t up = std::min(std::max(sub(e, v), 0), sub(TOP, m));
    return shr(shl(a, up), std::min(std::max(sub(v, e), 0), 31));
}

// The places of a symbol: 2^r numbers from `low` on. On one side of zero, whose least magnitude is
// `least` (else below 0), they are those whose magnitude is a multiple of 2^k.
struct Bucket {
    int32_t low, least, r, k;
};

INLINED Bucket bucket(int32_t symbol, int32_t base, Way way) {
    int32_t h = shr(symbol, 1), negative = symbol & 1;
    int32_t r = sub(std::max(shr(h, way.f), 1), 1);
    int32_t a = shl(sub(h, shl(r, way.f)), r);
    int32_t width = shl(1, r);
    int32_t low = negative ? sub(base, add(a, width)) : add(base, a);
    int32_t least = low >= 0 ? low : sub(0, add(low, width));
    int32_t k = std::min(std::max(sub(log2(std::max(least, 0)), way.m), 0), r);
    return {low, least, r, k};
}

// The next multiple of 2^k.
INLINED int32_t rounded_up(int32_t least, int32_t k) {
    int32_t up = sub(shl(1, k), 1);
    return add(least, up) & ~up;
}

// How many plain bits an element has.
template <class U> INLINED uint8_t width(U w0, uint8_t symbol, Way way) {
    int32_t s = symbol, t0 = magnitude(w0, way.unused);
    Bucket found = bucket(s, fixed(t0, way.m, unit(t0, way)), way);
    int32_t alone = s < ZERO ? way.m : 0;
    alone = s >= ESCAPED ? BITS<U> : alone;
    return uint8_t(s >= SMALL ? alone : sub(found.r, found.k));
}

// The weight that a symbol and plain bits tell.
template <class U> INLINED U weight(U w0, uint8_t symbol, U plain, Way way) {
    int32_t s = symbol, p = int32_t(plain), m = way.m;
    int32_t t0 = magnitude(w0, way.unused);
    int32_t v = unit(t0, way);
    Bucket found = bucket(s, fixed(t0, m, v), way);
    int32_t both = add(found.low, p);
    int32_t one_side = add(rounded_up(found.least, found.k), shl(p, found.k));
    int32_t size = choose(found.least >= 0, one_side, both ^ shr(both, 31));
    int32_t other = choose(found.least >= 0, found.low, both) < 0;
    // a float's exponent and mantissa are the weight's: no more bits are set
    int32_t bits = shr(std::bit_cast<int32_t>(float(size)), sub(23, m));
    int32_t t = add(bits, shl(sub(sub(v, m), 127), m));
    t = choose(shr(size, m) == 0, size, t);
    int32_t octaves = add(shr(sub(s, SMALL), 1), 1);
    int32_t near = add(shl(sub(v, octaves), m), p);
    t = choose(s >= SMALL, choose(s < ZERO, near, 0), t);
    other = choose(s >= SMALL, s & 1, other);
    U sign = U((w0 ^ U(other << (BITS<U> - 1))) & U(~BELOW<U>));
    U w = U(U(U(shl(t, way.unused)) & BELOW<U>) | sign);
    return U(choose(s >= ESCAPED, p, w));
}

} // namespace deltas
