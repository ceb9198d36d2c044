// What is done element by element, where NumPy would go over memory several times.
#include <cmath>

#include "arrays.hpp"
#include "choices.hpp"

// out = a where `take`, else b.
static void choose(In<bool> take_N, In<float> a_N, In<float> b_N, Out<float> out_N) {
    int64_t n = length(out_N);
    require(length(take_N) == n && length(a_N) == n && length(b_N) == n, "vectors differ in size");
    const uint8_t *take = reinterpret_cast<const uint8_t *>(data(take_N));
    const float *a = data(a_N), *b = data(b_N);
    float *out = data(out_N);
    for (int64_t i = 0; i < n; ++i) out[i] = either(take[i], a[i], b[i]);
}

// out = step (clip(round(x / step) + zero, 0, top) - zero); halves go to the even number.
static void even_steps(In<float> x_N, float step, float zero, float top, Out<float> out_N) {
    int64_t n = length(x_N);
    require(length(out_N) == n, "vectors differ in size");
    const float *x = data(x_N);
    float *out = data(out_N);
    for (int64_t i = 0; i < n; ++i) {
        float q = std::nearbyint(x[i] / step) + zero;
        q = kept(q > 0.0f, q);
        q = either(q < top, q, top);
        out[i] = step * (q - zero);
    }
}

// Counts of the upper 16 bits of magnitudes, and of the lower ones where the upper are `upper`.
static void upper_halves(In<uint32_t> bits_N, Out<int64_t> counts_B) {
    require(length(counts_B) == 1 << 16, "65,536 bins are needed");
    const uint32_t *bits = data(bits_N);
    int64_t *counts = data(counts_B);
#pragma GCC unroll 8
    for (int64_t i = 0, n = length(bits_N); i < n; ++i) ++counts[(bits[i] & 0x7FFFFFFF) >> 16];
}

static void lower_halves(In<uint32_t> bits_N, uint32_t upper, Out<int64_t> counts_B) {
    require(length(counts_B) == 1 << 16, "65,536 bins are needed");
    const uint32_t *bits = data(bits_N);
    int64_t *counts = data(counts_B);
#pragma GCC unroll 8
    for (int64_t i = 0, n = length(bits_N); i < n; ++i) {
        uint32_t magnitude = bits[i] & 0x7FFFFFFF;
        if (magnitude >> 16 == upper) ++counts[magnitude & 0xFFFF];
    }
}

void add_elements(nb::module_ &m) {
    add_loop(m, "choose", choose, "take_N", "a_N", "b_N", "out_N");
    add_loop(m, "even_steps", even_steps, "x_N", "step", "zero", "top", "out_N");
    add_loop(m, "upper_halves", upper_halves, "bits_N", "counts_B");
    add_loop(m, "lower_halves", lower_halves, "bits_N", "upper", "counts_B");
}
