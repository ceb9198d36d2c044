// Philox 4x32-10 by position, laid out as taskstore/merging/methods/philox.py says.
#include <algorithm>
#include <cstring>

#include "arrays.hpp"
#include "choices.hpp"
#include "lanes.hpp"

#if defined(__SSE2__)
#include <immintrin.h>
#endif

static const uint64_t QUARTER = 1024, GROUP = 4 * QUARTER;

typedef uint64_t Wide __attribute__((vector_size(4 * LANES)));

// The products of the even lanes: 32 x 32 bits, which a compiler does not see to be enough.
static Wide even(Wide x, uint32_t factor) {
#if defined(__AVX512F__)
    return (Wide)_mm512_maskz_mul_epu32(0xFF, (__m512i)x, _mm512_set1_epi32(factor));
#elif defined(__AVX2__)
    return (Wide)_mm256_mul_epu32((__m256i)x, _mm256_set1_epi32(factor));
#elif defined(__SSE2__)
    return (Wide)_mm_mul_epu32((__m128i)x, _mm_set1_epi32(factor));
#else
    return (x & 0xFFFFFFFF) * factor;
#endif
}

static void multiply(Words x, uint32_t factor, Words &high, Words &low) {
    Wide evens = even((Wide)x, factor), odds = even((Wide)x >> 32, factor);
    high = (Words)((evens >> 32) | (odds & ~uint64_t{0xFFFFFFFF}));
    low = (Words)((evens & 0xFFFFFFFF) | (odds << 32));
}

// The numbers of elements [GROUP group, GROUP group + GROUP). A group's counters share their upper word.
static void generate(const uint32_t *stream, uint64_t group, uint32_t *out) {
    Words step;
    for (int lane = 0; lane < LANES; ++lane) step[lane] = lane;
    for (uint64_t j = 0; j < QUARTER; j += LANES) {
        uint64_t counter = group * QUARTER + j;
        Words x0 = step + static_cast<uint32_t>(counter), x1 = Words{} + static_cast<uint32_t>(counter >> 32);
        Words x2 = Words{} + stream[2], x3 = Words{} + stream[3];
        uint32_t k0 = stream[0], k1 = stream[1];
#pragma GCC unroll 10
        for (int round = 0; round < 10; ++round, k0 += 0x9E3779B9, k1 += 0xBB67AE85) {
            Words high0, low0, high1, low1;
            multiply(x0, 0xD2511F53, high0, low0);
            multiply(x2, 0xCD9E8D57, high1, low1);
            x0 = high1 ^ x1 ^ k0;
            x1 = low1;
            x2 = high0 ^ x3 ^ k1;
            x3 = low0;
        }
        const Words words[4] = {x0, x1, x2, x3};
        for (int i = 0; i < 4; ++i) std::memcpy(out + i * QUARTER + j, &words[i], sizeof(Words));
    }
}

// use(numbers, done, size) for each stretch of elements [start, start + n).
template <class Use>
static void stretches(const uint32_t *stream, uint64_t start, uint64_t n, Use use) {
    alignas(64) uint32_t numbers[GROUP];
    for (uint64_t done = 0; done < n;) {
        uint64_t skip = (start + done) % GROUP, size = std::min(GROUP - skip, n - done);
        generate(stream, (start + done) / GROUP, numbers);
        use(numbers + skip, done, size);
        done += size;
    }
}

static void group(In<uint32_t> stream_4, uint64_t number, Out<uint32_t> out_G) {
    require(length(stream_4) == 4, "a stream is of four words");
    require(length(out_G) == GROUP, "a group is of 4,096 numbers");
    generate(data(stream_4), number, data(out_G));
}

static void words(In<uint32_t> stream_4, uint64_t start, Out<uint32_t> out_N) {
    require(length(stream_4) == 4, "a stream is of four words");
    uint32_t *out = data(out_N);
    stretches(data(stream_4), start, length(out_N), [=](const uint32_t *numbers, auto done, auto size) {
        std::copy_n(numbers, size, out + done);
    });
}

// out = tau / share where an element's number is `below` or more, else 0.
static void drop(In<float> tau_N, In<uint32_t> stream_4, uint64_t start, uint32_t below, float share,
                 Out<float> out_N) {
    require(length(stream_4) == 4, "a stream is of four words");
    require(length(out_N) == length(tau_N), "vectors differ in size");
    const float *from = data(tau_N);
    float *to = data(out_N);
    stretches(data(stream_4), start, length(out_N), [=](const uint32_t *numbers, auto done, auto size) {
        const float *tau = from + done;
        float *out = to + done;
        for (uint64_t i = 0; i < size; ++i) out[i] = kept(numbers[i] >= below, tau[i] / share);
    });
}

void add_philox(nb::module_ &m) {
    add_loop(m, "group", group, "stream_4", "number", "out_G");
    add_loop(m, "words", words, "stream_4", "start", "out_N");
    add_loop(m, "drop", drop, "tau_N", "stream_4", "start", "below", "share", "out_N");
}
