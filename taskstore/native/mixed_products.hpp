// Products of a few rows of weights with a few rows of activations, in float32.
//
// Sums run in sixteen lanes, so they are the same at every level of the processor, but where it multiplies
// pairs of bf16 (AVX-512 BF16): there they are the processor's, as those of any other library.
#pragma once

#include "mixed_weights.hpp"

namespace mixed {

#define UNROLL _Pragma("GCC unroll 8") // else the sums would lie in memory
#define UNROLL_ALL _Pragma("GCC unroll 16")

#if defined(__AVX512F__)
constexpr int ROWS = 4, COLUMNS = 6, WIDTH = 16; // rows of weights, of activations at a time; floats of a register
#elif defined(__AVX2__)
constexpr int ROWS = 2, COLUMNS = 2, WIDTH = 8;
#else
constexpr int ROWS = 1, COLUMNS = 2, WIDTH = 4;
#endif
constexpr int PARTS = 16 / WIDTH;

typedef float Part __attribute__((vector_size(4 * WIDTH)));
struct Lanes {
    Part part[PARTS];
};

inline Part part(F32, const uint32_t *w) {
    Part found;
    std::memcpy(&found, w, sizeof found);
    return found;
}
inline Part part(Bf16, const uint16_t *w) {
    typedef uint16_t Halves __attribute__((vector_size(2 * WIDTH)));
    typedef uint32_t Words __attribute__((vector_size(4 * WIDTH)));
    Halves halves;
    std::memcpy(&halves, w, sizeof halves);
    return std::bit_cast<Part>(__builtin_convertvector(halves, Words) << 16);
}
inline Part part(F16, const uint16_t *w) {
    typedef _Float16 Halves __attribute__((vector_size(2 * WIDTH)));
    Halves halves;
    std::memcpy(&halves, w, sizeof halves);
    return __builtin_convertvector(halves, Part);
}

inline float sum(const Lanes &lanes) {
    float part[16];
    std::memcpy(part, lanes.part, sizeof part);
    for (int width = 8; width; width /= 2)
        for (int i = 0; i < width; ++i) part[i] += part[i + width];
    return part[0];
}

// sums[r][c] = w_r . x_c over n elements.
template <class T, int R, int C, class U = typename T::Bits>
void products(T type, const U *const *w, const float *const *x, int64_t n, float (*sums)[COLUMNS]) {
    Lanes found[R][C] = {};
    auto step = [&](const U *const *weights, const float *const *values, int64_t i) {
        UNROLL for (int p = 0; p < PARTS; ++p) {
            Part wide[R];
            UNROLL for (int r = 0; r < R; ++r) wide[r] = part(type, weights[r] + i + p * WIDTH);
            UNROLL for (int c = 0; c < C; ++c) {
                Part one;
                std::memcpy(&one, values[c] + i + p * WIDTH, sizeof one);
                UNROLL for (int r = 0; r < R; ++r) found[r][c].part[p] += wide[r] * one;
            }
        }
    };
    int64_t i = 0;
    for (; i + 16 <= n; i += 16) step(w, x, i);
    if (i < n) {
        U last_w[R][16] = {};
        float last_x[C][16] = {};
        const U *weights[R];
        const float *values[C];
        for (int r = 0; r < R; ++r) std::copy(w[r] + i, w[r] + n, last_w[r]), weights[r] = last_w[r];
        for (int c = 0; c < C; ++c) std::copy(x[c] + i, x[c] + n, last_x[c]), values[c] = last_x[c];
        step(weights, values, 0);
    }
    UNROLL for (int r = 0; r < R; ++r)
        UNROLL for (int c = 0; c < C; ++c) sums[r][c] = sum(found[r][c]);
}

#if defined(__AVX512BW__)
#define TASKSTORE_BF16_PAIRS __attribute__((target("avx512bf16")))

inline bool has_pairs() {
    static const bool found = __builtin_cpu_supports("avx512bf16");
    return found;
}

template <int R, int C>
TASKSTORE_BF16_PAIRS void pair_products(const uint16_t *const *w, const uint16_t *const *x, int64_t n,
                                        float (*sums)[COLUMNS]) {
    __m512 found[R][C];
    UNROLL for (int r = 0; r < R; ++r)
        UNROLL for (int c = 0; c < C; ++c) found[r][c] = _mm512_setzero_ps();
    int64_t i = 0;
    for (; i + 32 <= n; i += 32) {
        __m512bh wide[R];
        UNROLL for (int r = 0; r < R; ++r) wide[r] = (__m512bh)_mm512_loadu_si512(w[r] + i);
        UNROLL for (int c = 0; c < C; ++c) {
            __m512bh one = (__m512bh)_mm512_loadu_si512(x[c] + i);
            UNROLL for (int r = 0; r < R; ++r) found[r][c] = _mm512_dpbf16_ps(found[r][c], wide[r], one);
        }
    }
    if (i < n) {
        __mmask32 there = (1u << (n - i)) - 1;
        UNROLL for (int c = 0; c < C; ++c) {
            __m512bh one = (__m512bh)_mm512_maskz_loadu_epi16(there, x[c] + i);
            UNROLL for (int r = 0; r < R; ++r)
                found[r][c] = _mm512_dpbf16_ps(found[r][c], (__m512bh)_mm512_maskz_loadu_epi16(there, w[r] + i), one);
        }
    }
    UNROLL for (int r = 0; r < R; ++r)
        UNROLL for (int c = 0; c < C; ++c) sums[r][c] = _mm512_reduce_add_ps(found[r][c]);
}

constexpr int64_t AHEAD = 8192; // weights of a row that are fetched before they are wanted

// The same of weights that each column chooses by bits of its own: W ^ (D & mask), n a multiple of 32.
template <int R, int C>
TASKSTORE_BF16_PAIRS void chosen_products(const uint16_t *const *w, const uint16_t *const *d, const uint8_t *const (*masks)[COLUMNS],
                                          const uint16_t *const *x, int64_t n, float (*sums)[COLUMNS]) {
    __m512 found[R][C];
    UNROLL for (int r = 0; r < R; ++r)
        UNROLL for (int c = 0; c < C; ++c) found[r][c] = _mm512_setzero_ps();
    for (int64_t i = 0; i < n; i += 32) {
        __m512i base[R], other[R];
        UNROLL for (int r = 0; r < R; ++r) {
            base[r] = _mm512_loadu_si512(w[r] + i);
            other[r] = _mm512_xor_si512(base[r], _mm512_loadu_si512(d[r] + i));
            _mm_prefetch(reinterpret_cast<const char *>(w[r] + i + AHEAD), _MM_HINT_T0); // beyond the end it does nothing
            _mm_prefetch(reinterpret_cast<const char *>(d[r] + i + AHEAD), _MM_HINT_T0);
            if (i % 512 == 0)
                UNROLL for (int c = 0; c < C; ++c)
                    _mm_prefetch(reinterpret_cast<const char *>(masks[r][c] + (i + R * n) / 8), _MM_HINT_T0);
        }
        UNROLL for (int c = 0; c < C; ++c) {
            __m512bh one = (__m512bh)_mm512_loadu_si512(x[c] + i);
            UNROLL for (int r = 0; r < R; ++r) {
                uint32_t some;
                std::memcpy(&some, masks[r][c] + i / 8, 4);
                __m512bh mine = (__m512bh)_mm512_mask_blend_epi16(some, base[r], other[r]);
                found[r][c] = _mm512_dpbf16_ps(found[r][c], mine, one);
            }
        }
    }
    UNROLL for (int r = 0; r < R; ++r)
        UNROLL for (int c = 0; c < C; ++c) sums[r][c] = _mm512_reduce_add_ps(found[r][c]);
}

constexpr int FEWER = 8, MORE = 12; // columns at a time: of weights that are chosen, and of others

// A slab of 16 H rows, all pairs of whose columns lie together, by C columns: chosen by bits of each, or as it is.
template <int H, int C, bool CHOSEN>
TASKSTORE_BF16_PAIRS void slab_products(const uint16_t *w, const uint16_t *d, const uint8_t *const *masks,
                                        const uint16_t *const *x, int64_t n, __m512 (*sums)[2]) {
    __m512 found[C][H];
    UNROLL_ALL for (int c = 0; c < C; ++c)
        for (int h = 0; h < H; ++h) found[c][h] = _mm512_setzero_ps();
    for (int64_t i = 0; i < n; i += 2, w += 32 * H) {
        __m512i base[H], other[H];
        for (int h = 0; h < H; ++h) {
            base[h] = _mm512_loadu_si512(w + 32 * h);
            if constexpr (CHOSEN) other[h] = _mm512_xor_si512(base[h], _mm512_loadu_si512(d + i * 16 * H + 32 * h));
        }
        UNROLL_ALL for (int c = 0; c < C; ++c) {
            int32_t pair;
            std::memcpy(&pair, x[c] + i, 4);
            __m512bh both = (__m512bh)_mm512_set1_epi32(pair);
            for (int h = 0; h < H; ++h) {
                __m512i mine = base[h];
                if constexpr (CHOSEN) {
                    uint32_t some;
                    std::memcpy(&some, masks[c] + 2 * i * H + 4 * h, 4);
                    mine = _mm512_mask_blend_epi16(some, mine, other[h]);
                }
                found[c][h] = _mm512_dpbf16_ps(found[c][h], (__m512bh)mine, both);
            }
        }
    }
    UNROLL_ALL for (int c = 0; c < C; ++c)
        for (int h = 0; h < H; ++h) sums[c][h] = found[c][h];
}

// Sixteen sums, rounded as `stored` does.
inline void store_sums(__m512 sums, const float *bias, uint16_t *y) {
    if (bias) sums = _mm512_add_ps(sums, _mm512_loadu_ps(bias));
    __m512i b = _mm512_castps_si512(sums), odd = _mm512_and_si512(_mm512_srli_epi32(b, 16), _mm512_set1_epi32(1));
    b = _mm512_srli_epi32(_mm512_add_epi32(b, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7FFF))), 16);
    b = _mm512_mask_mov_epi32(b, _mm512_cmp_ps_mask(sums, sums, _CMP_UNORD_Q), _mm512_set1_epi32(0x7FC0));
    _mm256_storeu_si256(reinterpret_cast<__m256i *>(y), _mm512_cvtepi32_epi16(b));
}
#else
inline bool has_pairs() { return false; }
template <int R, int C>
void chosen_products(const uint16_t *const *, const uint16_t *const *, const uint8_t *const (*)[COLUMNS], const uint16_t *const *,
                     int64_t, float (*)[COLUMNS]) {}
template <int R, int C>
void pair_products(const uint16_t *const *, const uint16_t *const *, int64_t, float (*)[COLUMNS]) {}
#endif

} // namespace mixed
