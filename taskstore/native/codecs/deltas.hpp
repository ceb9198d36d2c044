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

// floor(log2(x)) of a number above 0; negative for 0. No rounding reaches the next power.
INLINED int32_t log2(int32_t x) {
    return sub(shr(std::bit_cast<int32_t>(float(x & ~(x >> 1))), 23), 127);
}

// Weights, symbols and plain bits as elements of 32 bits, and back. Loops over one width of element are
// vectorised without taking their registers apart.
template <class T, class V>
INLINED void widened(size_t n, const T *__restrict from, V *__restrict to) {
    for (size_t i = 0; i < n; ++i) to[i] = V(from[i]);
}

// A weight's bits without the sign, shifted; `w` is of U.
template <class U> INLINED int32_t magnitude(int32_t w, int32_t unused) {
    return shr(w & int32_t(BELOW<U>), unused);
}

// Whether two weights have two signs.
template <class U> INLINED int32_t across(int32_t w0, int32_t w) {
    return int32_t(uint32_t(w0 ^ w) >> (BITS<U> - 1));
}

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

INLINED int32_t least_of(int32_t low, int32_t r) { return low >= 0 ? low : sub(0, add(low, shl(1, r))); }

INLINED Bucket bucket(int32_t symbol, int32_t base, Way way) {
    int32_t h = shr(symbol, 1), negative = symbol & 1;
    int32_t r = sub(std::max(shr(h, way.f), 1), 1);
    int32_t a = shl(sub(h, shl(r, way.f)), r);
    int32_t low = negative ? sub(base, add(a, shl(1, r))) : add(base, a);
    int32_t least = least_of(low, r);
    int32_t k = std::min(std::max(sub(log2(std::max(least, 0)), way.m), 0), r);
    return {low, least, r, k};
}

// The next multiple of 2^k.
INLINED int32_t rounded_up(int32_t least, int32_t k) {
    int32_t up = sub(shl(1, k), 1);
    return add(least, up) & ~up;
}

// How many plain bits an element has. Also what `weight` needs: `low`, and v, r and k in one number.
template <class U>
INLINED int32_t width(int32_t w0, int32_t s, Way way, int32_t &low, int32_t &vrk) {
    int32_t t0 = magnitude<U>(w0, way.unused), v = unit(t0, way);
    Bucket found = bucket(s, fixed(t0, way.m, v), way);
    low = found.low;
    vrk = shl(v, 10) | shl(found.r, 5) | found.k;
    int32_t alone = s < ZERO ? way.m : 0;
    alone = s >= ESCAPED ? BITS<U> : alone;
    return s >= SMALL ? alone : sub(found.r, found.k);
}

// The weight that a symbol and plain bits tell.
template <class U>
INLINED int32_t weight(int32_t w0, int32_t s, int32_t p, int32_t low, int32_t vrk, Way way) {
    int32_t m = way.m, v = shr(vrk, 10), k = vrk & 31;
    int32_t least = least_of(low, shr(vrk, 5) & 31);
    int32_t both = add(low, p);
    int32_t one_side = add(rounded_up(least, k), shl(p, k));
    int32_t size = least >= 0 ? one_side : both ^ shr(both, 31);
    int32_t side = least >= 0 ? low : both;
    // a float's exponent and mantissa are the weight's: no more bits are set
    int32_t bits = shr(std::bit_cast<int32_t>(float(size)), sub(23, m));
    int32_t t = add(bits, shl(sub(sub(v, m), 127), m));
    t = shr(size, m) == 0 ? size : t;
    int32_t octaves = add(shr(sub(s, SMALL), 1), 1);
    int32_t near = add(shl(sub(v, octaves), m), p);
    near = s < ZERO ? near : 0;
    t = s >= SMALL ? near : t;
    side = s >= SMALL ? shl(s, 31) : side; // its sign tells of another one than the base's
    int32_t sign = (w0 ^ int32_t(uint32_t(side) >> (32 - BITS<U>))) & ~int32_t(BELOW<U>);
    int32_t w = (shl(t, way.unused) & int32_t(BELOW<U>)) | sign;
    return s >= ESCAPED ? p : w;
}

} // namespace deltas
