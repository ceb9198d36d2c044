// Vectors of pairs of int16, as wide as the level has them: products are added pair by pair, exactly.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__AVX512BW__) || defined(__AVX2__) || defined(__SSE2__)
#include <immintrin.h>
#endif

namespace pairs {

#if defined(__AVX512BW__)
using Vector = __m512i;
inline Vector load(const int32_t *from) { return _mm512_loadu_si512(from); }
inline void store(int32_t *to, Vector x) { _mm512_storeu_si512(to, x); }
inline Vector all(int32_t pair) { return _mm512_set1_epi32(pair); }
inline Vector add_products(Vector sum, Vector x, Vector y) {
    return _mm512_add_epi32(sum, _mm512_madd_epi16(x, y));
}
#elif defined(__AVX2__)
using Vector = __m256i;
inline Vector load(const int32_t *from) { return _mm256_loadu_si256((const __m256i *)from); }
inline void store(int32_t *to, Vector x) { _mm256_storeu_si256((__m256i *)to, x); }
inline Vector all(int32_t pair) { return _mm256_set1_epi32(pair); }
inline Vector add_products(Vector sum, Vector x, Vector y) {
    return _mm256_add_epi32(sum, _mm256_madd_epi16(x, y));
}
#elif defined(__SSE2__)
using Vector = __m128i;
inline Vector load(const int32_t *from) { return _mm_loadu_si128((const __m128i *)from); }
inline void store(int32_t *to, Vector x) { _mm_storeu_si128((__m128i *)to, x); }
inline Vector all(int32_t pair) { return _mm_set1_epi32(pair); }
inline Vector add_products(Vector sum, Vector x, Vector y) {
    return _mm_add_epi32(sum, _mm_madd_epi16(x, y));
}
#else
struct Vector {
    int32_t of[4];
};
inline Vector load(const int32_t *from) {
    Vector x;
    std::memcpy(x.of, from, sizeof x.of);
    return x;
}
inline void store(int32_t *to, Vector x) { std::memcpy(to, x.of, sizeof x.of); }
inline Vector all(int32_t pair) { return {{pair, pair, pair, pair}}; }
inline Vector add_products(Vector sum, Vector x, Vector y) {
    for (int i = 0; i < 4; ++i)
        sum.of[i] += int16_t(x.of[i]) * int16_t(y.of[i]) + (x.of[i] >> 16) * (y.of[i] >> 16);
    return sum;
}
#endif

constexpr size_t WIDTH = sizeof(Vector) / sizeof(int32_t);

// Two numbers as one element; each has 16 bits.
inline int32_t pair(int32_t first, int32_t second) {
    return int32_t(uint32_t(uint16_t(first)) | uint32_t(second) << 16);
}

} // namespace pairs
