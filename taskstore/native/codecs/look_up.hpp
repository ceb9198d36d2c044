// What the symbols in bytes stand for. Few symbols are looked up in a register, where the level has such an
// instruction, others in a table by bytes.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

constexpr int64_t TOGETHER = 16; // symbols that are looked up in registers at a time

// Whole TOGETHER of `n` symbols; returns how many it did. `table` has a row per byte, whose first element is
// of the symbol in the byte's low bits.
template <int PACKED>
int64_t in_register(const uint8_t *symbols, const float *table, int64_t n, float *values) {
    static_assert(PACKED == 2 || PACKED == 4);
    int64_t i = 0;
#if defined(__AVX2__)
    constexpr int BITS = 8 / PACKED, KINDS = 1 << BITS;
    float points[16];
    for (int s = 0; s < 16; ++s) points[s] = table[s % KINDS * PACKED];
#endif
#if defined(__AVX512F__)
    __m512 all = _mm512_loadu_ps(points);
    const __m512i places = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    for (; i + TOGETHER <= n; i += TOGETHER) {
        __m512i which; // bits above a symbol's do not matter
        if constexpr (PACKED == 4) {
            int32_t word;
            std::memcpy(&word, symbols + i / 4, sizeof word);
            which = _mm512_srlv_epi32(_mm512_set1_epi32(word), places);
        } else {
            __m512i bytes = _mm512_cvtepu8_epi64(_mm_loadl_epi64((const __m128i *)(symbols + i / 2)));
            which = _mm512_or_si512(bytes, _mm512_slli_epi64(bytes, 28));
        }
        _mm512_storeu_ps(values + i, _mm512_permutexvar_ps(which, all));
    }
#elif defined(__AVX2__)
    __m256 low = _mm256_loadu_ps(points), high = _mm256_loadu_ps(points + 8);
    const __m256i places =
        _mm256_setr_epi32(0, BITS, 2 * BITS, 3 * BITS, 4 * BITS, 5 * BITS, 6 * BITS, 7 * BITS);
    for (; i + TOGETHER <= n; i += TOGETHER)
        for (int64_t j = i; j < i + TOGETHER; j += 8) {
            int32_t word = 0;
            std::memcpy(&word, symbols + j / PACKED, BITS);
            __m256i which = _mm256_srlv_epi32(_mm256_set1_epi32(word), places);
            __m256 found = _mm256_permutevar8x32_ps(low, which);
            if constexpr (PACKED == 2) // bit 3 chooses the half: it becomes the sign that a blend looks at
                found = _mm256_blendv_ps(found, _mm256_permutevar8x32_ps(high, which),
                                         _mm256_castsi256_ps(_mm256_slli_epi32(which, 28)));
            _mm256_storeu_ps(values + j, found);
        }
    (void)high;
#else
    (void)symbols, (void)table, (void)n, (void)values;
#endif
    return i;
}

// `n` symbols, in bytes of PACKED. The rows of the table have STEP elements, of which as many are written:
// behind the last value there is room for them.
template <int PACKED, int STEP>
void look_up(const uint8_t *symbols, const float *table, int64_t n, float *values) {
    int64_t i = 0;
    if constexpr (PACKED == 2 || PACKED == 4) i = in_register<PACKED>(symbols, table, n, values);
    for (; i < n; i += PACKED)
        std::memcpy(values + i, table + symbols[i / PACKED] * STEP, STEP * sizeof *values);
}
