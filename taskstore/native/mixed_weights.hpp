// Rows of a task's weights, rebuilt bit for bit as a swap would leave them, a row at a time.
//
// A matrix is made of segments, one below the other: W0 and D of some of its rows. What a task makes of a
// segment is a `Way`: W0 ^ (D & mask), or round(that + rest), or nothing.
//
// Rows lie one after the other, or in slabs: SLAB of them (the last slab may have fewer), in pairs of columns,
// [columns / 2][rows of the slab][2]. W0, D and masks lie alike.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <unordered_map>
#include <vector>

#include "bf16.hpp"
#if defined(__AVX512BW__)
#include <immintrin.h>
#endif

namespace mixed {

struct Bf16 { using Bits = uint16_t; };
struct F16 { using Bits = uint16_t; };
struct F32 { using Bits = uint32_t; };

// A quantised chunk of a rest, as taskstore/kernels/add_quantised.py takes it.
struct Chunk {
    const uint8_t *symbols;
    const float *table, *steps, *points, *left, *right, *scales;
    const uint32_t *where;
    int64_t n, packed, columns, first, escapes, rank;
};

struct Way {
    const uint8_t *mask = nullptr;
    std::vector<Chunk> chunks; // all but the last of `chunk` elements
    int64_t chunk = 0;
};

struct Segment {
    int64_t first, rows;
    const void *w0, *d;
    bool slabs;
    std::unordered_map<int32_t, Way> ways;
};

constexpr int64_t SLAB = 32;

inline float value(Bf16, uint16_t w) { return widened(w); }
inline float value(F16, uint16_t w) { return static_cast<float>(std::bit_cast<_Float16>(w)); }
inline float value(F32, uint32_t w) { return std::bit_cast<float>(w); }

// To nearest even; `below` where that is not finite.
inline uint16_t nearest(Bf16, float v, uint16_t below) {
    uint16_t w = rounded(bits(v));
    return (bits(v) & 0x7FFFFFFF) >= 0x7F7F8000 ? below : w;
}
inline uint16_t nearest(F16, float v, uint16_t below) {
    uint16_t w = std::bit_cast<uint16_t>(static_cast<_Float16>(v));
    return (w & 0x7C00) == 0x7C00 ? below : w;
}
inline uint32_t nearest(F32, float v, uint32_t below) {
    return (bits(v) & 0x7FFFFFFF) >= EXPONENT ? below : bits(v);
}

// Eight elements of all ones or none for each byte of a mask.
inline const std::array<std::array<int16_t, 8>, 256> SPREAD = [] {
    std::array<std::array<int16_t, 8>, 256> found{};
    for (int b = 0; b < 256; ++b)
        for (int j = 0; j < 8; ++j) found[b][j] = b >> j & 1 ? -1 : 0;
    return found;
}();

// As many bits of a mask as `Word` has, from bit `at` on; reads no byte that holds none of them.
template <class Word> Word bits_at(const uint8_t *mask, int64_t at) {
    Word found;
    std::memcpy(&found, mask + (at >> 3), sizeof found);
    if (int shift = at & 7)
        found = static_cast<Word>(found >> shift | mask[(at >> 3) + sizeof found] << (8 * sizeof found - shift));
    return found;
}

// W0 ^ (D & mask) of `n` elements, the first of which has bit `at` of the mask.
template <class U>
void select(const U *w0, const U *d, const uint8_t *mask, int64_t at, int64_t n, U *out) {
    int64_t i = 0;
#if defined(__AVX512BW__)
    constexpr int LANES = 64 / sizeof(U);
    for (; i + LANES <= n; i += LANES) {
        __m512i w = _mm512_loadu_si512(w0 + i), e = _mm512_loadu_si512(d + i);
        auto some = bits_at<std::conditional_t<LANES == 32, uint32_t, uint16_t>>(mask, at + i);
        if constexpr (sizeof(U) == 2)
            w = _mm512_mask_blend_epi16(some, w, _mm512_xor_si512(w, e));
        else
            w = _mm512_mask_xor_epi32(w, some, w, e);
        _mm512_storeu_si512(out + i, w);
    }
#else
    for (; i + 8 <= n; i += 8) {
        const auto &some = SPREAD[bits_at<uint8_t>(mask, at + i)];
        for (int j = 0; j < 8; ++j) out[i + j] = w0[i + j] ^ (d[i + j] & static_cast<U>(some[j]));
    }
#endif
    for (; i < n; ++i) out[i] = w0[i] ^ (d[i] & static_cast<U>(0 - (mask[(at + i) >> 3] >> ((at + i) & 7) & 1)));
}

// Elements [begin, begin + n) of a chunk, all of one row of its tensor: v, float32.
inline void rest_values(const Chunk &chunk, int64_t begin, int64_t n, float *v) {
    int64_t packed = chunk.packed, place = (chunk.first + begin) % chunk.columns;
    int64_t row = (chunk.first + begin) / chunk.columns, i = 0;
    for (int64_t j = begin % packed; j && i < n; j = (j + 1) % packed, ++i)
        v[i] = chunk.table[packed * chunk.symbols[(begin + i) / packed] + j];
    const uint8_t *symbols = chunk.symbols + (begin + i) / packed;
    auto whole = [&]<int K>(std::integral_constant<int, K>) {
        for (; i + K <= n; i += K) std::memcpy(v + i, chunk.table + K * *symbols++, 4 * K);
    };
    if (packed == 4) whole(std::integral_constant<int, 4>());
    else if (packed == 3) whole(std::integral_constant<int, 3>());
    else if (packed == 2) whole(std::integral_constant<int, 2>());
    else whole(std::integral_constant<int, 1>());
    for (int j = 0; i < n; ++i, ++j) v[i] = chunk.table[packed * *symbols + j];
    const uint32_t *end = chunk.where + chunk.escapes;
    for (const uint32_t *e = std::lower_bound(chunk.where, end, begin); e < end && *e < begin + n; ++e)
        v[*e - begin] = chunk.points[e - chunk.where];
    float step = chunk.steps[row];
    for (i = 0; i < n; ++i) v[i] *= step;
    if (!chunk.rank) return;
    // whole numbers, whose sums are exact in any order
    constexpr int64_t TILE = 256;
    alignas(64) float sums[TILE];
    const float *left = chunk.left + row * chunk.rank, scale = chunk.scales[row];
    for (int64_t at = 0; at < n; at += TILE) {
        int64_t size = std::min(TILE, n - at);
        std::memset(sums, 0, sizeof sums);
        for (int64_t r = 0; r < chunk.rank; ++r) {
            const float *right = chunk.right + r * chunk.columns + place + at;
            for (int64_t j = 0; j < size; ++j) sums[j] += left[r] * right[j];
        }
        for (int64_t j = 0; j < size; ++j) v[at + j] += scale * sums[j];
    }
}

// W = round(below + v).
template <class T, class U> void add_rest(T type, const float *v, const U *below, int64_t n, U *out) {
    for (int64_t i = 0; i < n; ++i) out[i] = nearest(type, value(type, below[i]) + v[i], below[i]);
}

// Row `row` of a segment as a task has it: in `out`, or W0's own where the task leaves it so.
template <class T, class U = typename T::Bits>
const U *row_of(T type, const Segment &segment, const Way *way, int64_t row, int64_t n, U *out, float *v) {
    int64_t at = row * n;
    const U *below = static_cast<const U *>(segment.w0) + at;
    if (segment.slabs) {
        int64_t slab = row / SLAB * SLAB, size = std::min(SLAB, segment.rows - slab);
        const U *w0 = static_cast<const U *>(segment.w0), *d = static_cast<const U *>(segment.d);
        for (int64_t i = 0; i < n; ++i) {
            int64_t place = slab * n + (i / 2 * size + row - slab) * 2 + i % 2;
            bool own = way && way->mask && way->mask[place >> 3] >> (place & 7) & 1;
            out[i] = own ? w0[place] ^ d[place] : w0[place];
        }
        return out;
    }
    if (!way) return below;
    if (way->mask) {
        select(below, static_cast<const U *>(segment.d) + at, way->mask, at, n, out);
        below = out;
    }
    for (int64_t i = 0; i < n && way->chunk;) {
        int64_t begin = (at + i) % way->chunk, size = std::min(n - i, way->chunk - begin);
        const Chunk &chunk = way->chunks[(at + i) / way->chunk];
        for (int64_t done = 0; done < size;) { // a chunk's rows need not be those of the matrix
            int64_t part = std::min(size - done, chunk.columns - (chunk.first + begin + done) % chunk.columns);
            rest_values(chunk, begin + done, part, v + i + done);
            done += part;
        }
        i += size;
    }
    if (way->chunk) add_rest(type, v, below, n, out);
    return way->mask || way->chunk ? out : below;
}

} // namespace mixed
