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
#include <memory>
#include <unordered_map>
#include <vector>

#include "codecs/add_rounded.hpp"
#include "codecs/look_up.hpp"
#include "codecs/low_rank.hpp"
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
    std::vector<float> table; // rows of 4 elements where 3 are packed
    const float *steps, *points;
    const uint32_t *where;
    int64_t n, packed, columns, first, escapes;
    std::shared_ptr<const LowRank> part;
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
inline uint16_t nearest(F16, float v, uint16_t below) {
    uint16_t w = std::bit_cast<uint16_t>(static_cast<_Float16>(v));
    return (w & 0x7C00) == 0x7C00 ? below : w;
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

// Elements [begin, begin + n) of a chunk: v, float32; there is room for 3 elements behind.
inline void rest_values(const Chunk &chunk, int64_t begin, int64_t n, float *v) {
    int64_t packed = chunk.packed, step = packed == 3 ? 4 : packed, i = 0;
    for (int64_t j = begin % packed; j && i < n; j = (j + 1) % packed, ++i)
        v[i] = chunk.table[step * chunk.symbols[(begin + i) / packed] + j];
    const uint8_t *symbols = chunk.symbols + (begin + i) / packed;
    const float *table = chunk.table.data();
    if (packed == 4) look_up<4, 4>(symbols, table, n - i, v + i);
    else if (packed == 3) look_up<3, 4>(symbols, table, n - i, v + i);
    else if (packed == 2) look_up<2, 2>(symbols, table, n - i, v + i);
    else look_up<1, 1>(symbols, table, n - i, v + i);
    const uint32_t *end = chunk.where + chunk.escapes;
    for (const uint32_t *e = std::lower_bound(chunk.where, end, begin); e < end && *e < begin + n; ++e)
        v[*e - begin] = chunk.points[e - chunk.where];
    int64_t first = chunk.first + begin;
    for (i = 0; i < n;) {
        float scale = chunk.steps[(first + i) / chunk.columns];
        for (int64_t stop = std::min(n, i + chunk.columns - (first + i) % chunk.columns); i < stop; ++i) v[i] *= scale;
    }
    if (!chunk.part->empty()) chunk.part->add(first, v, n);
}

// W = round(below + v); `below` may be `out`.
template <class T, class U> void add_rest(T type, const float *v, const U *below, int64_t n, U *out) {
    if constexpr (std::is_same_v<T, F16>) {
        for (int64_t i = 0; i < n; ++i) out[i] = nearest(type, value(type, below[i]) + v[i], below[i]);
    } else if (below != out) {
        add_rounded(v, below, out, n);
    } else {
        U some[512];
        for (int64_t i = 0, size; i < n; i += size) {
            size = std::min<int64_t>(512, n - i);
            std::copy_n(below + i, size, some);
            add_rounded(v + i, some, out + i, size);
        }
    }
}

// `count` rows of a segment from `row` on as a task has them, `n` elements each: in `out`, or W0's own where the
// task leaves them so. `v`: room for as many elements and 3 more.
template <class T, class U = typename T::Bits>
const U *rows_of(T type, const Segment &segment, const Way *way, int64_t row, int64_t count, int64_t n, U *out, float *v) {
    int64_t at = row * n, size = count * n;
    const U *w0 = static_cast<const U *>(segment.w0), *d = static_cast<const U *>(segment.d), *below = w0 + at;
    if (segment.slabs) {
        for (int64_t k = 0; k < size; ++k) {
            int64_t r = row + k / n, i = k % n, slab = r / SLAB * SLAB, high = std::min(SLAB, segment.rows - slab);
            int64_t place = slab * n + (i / 2 * high + r - slab) * 2 + i % 2;
            bool own = way && way->mask && way->mask[place >> 3] >> (place & 7) & 1;
            out[k] = own ? w0[place] ^ d[place] : w0[place];
        }
        return out;
    }
    if (!way) return below;
    if (way->mask) {
        select(below, d + at, way->mask, at, size, out);
        below = out;
    }
    for (int64_t i = 0, some; i < size && way->chunk; i += some) {
        int64_t begin = (at + i) % way->chunk;
        some = std::min(size - i, way->chunk - begin);
        rest_values(way->chunks[(at + i) / way->chunk], begin, some, v + i);
    }
    if (way->chunk) add_rest(type, v, below, size, out);
    return way->mask || way->chunk ? out : below;
}

} // namespace mixed
