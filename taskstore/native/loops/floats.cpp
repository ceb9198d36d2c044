// Loops of taskstore/kernels/floats.py: bf16 and float32, and what is finite.
#include <algorithm>

#include "arrays.hpp"
#include "bf16.hpp"

static void widen_bf16(In<uint16_t> raw_N, Out<float> values_N) {
    int64_t n = length(raw_N);
    require(length(values_N) == n, "vectors differ in size");
    const uint16_t *raw = data(raw_N);
    float *values = data(values_N);
    for (int64_t i = 0; i < n; ++i) values[i] = widened(raw[i]);
}

static void round_bf16(In<float> values_N, Out<uint16_t> raw_N) {
    int64_t n = length(values_N);
    require(length(raw_N) == n, "vectors differ in size");
    const float *values = data(values_N);
    uint16_t *raw = data(raw_N);
    for (int64_t i = 0; i < n; ++i) {
        uint32_t u = bits(values[i]);
        bool nan = (u & 0x7FFFFFFF) > EXPONENT;
        uint32_t half = nan ? (u >> 16) | 0x40 : (u + 0x7FFF + ((u >> 16) & 1)) >> 16;
        raw[i] = static_cast<uint16_t>(half);
    }
}

// The largest exponent field, as it stands in the element.
template <class U> static U largest_exponent(In<U> raw_N, U exponent) {
    const U *raw = data(raw_N);
    U largest = 0;
    for (int64_t i = 0, n = length(raw_N); i < n; ++i)
        largest = std::max(largest, static_cast<U>(raw[i] & exponent));
    return largest;
}

void add_floats(nb::module_ &m) {
    add_loop(m, "widen_bf16", widen_bf16, "raw_N", "values_N");
    add_loop(m, "round_bf16", round_bf16, "values_N", "raw_N");
    add_loop(m, "largest_exponent", largest_exponent<uint16_t>, "raw_N", "exponent");
    add_loop(m, "largest_exponent", largest_exponent<uint32_t>, "raw_N", "exponent");
}
