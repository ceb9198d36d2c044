// Weights plus an update of low rank in whole numbers, as taskstore/kernels/factored/update.py says it.
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "arrays.hpp"
#include "bf16.hpp"

static const int64_t TILE = 512; // elements that are summed up at a time, in the nearest cache

// IEEE half <-> float32, to nearest even.
static float from_half(uint16_t h) {
    uint32_t sign = static_cast<uint32_t>(h & 0x8000) << 16, low = h & 0x7FFF;
    uint32_t small = bits(static_cast<float>(low) * 0x1p-24f), usual = (low << 13) + (112u << 23);
    uint32_t odd = (low << 13) + (224u << 23); // infinities, NaN
    uint32_t u = low < 0x400 ? small : low < 0x7C00 ? usual : odd;
    return std::bit_cast<float>(u | sign);
}

static uint16_t to_half(float value) {
    uint32_t u = bits(value), sign = (u >> 16) & 0x8000, size = u & 0x7FFFFFFF;
    // below 2^-14 halves are counted in 2^-24: adding 1/2 rounds to that
    uint32_t small = bits(std::bit_cast<float>(size) + 0.5f) - bits(0.5f);
    uint32_t usual = (size - (112u << 23) + 0xFFF + ((size >> 13) & 1)) >> 13;
    uint32_t h = size < (113u << 23) ? small : std::min<uint32_t>(usual, 0x7C00);
    return static_cast<uint16_t>((size > EXPONENT ? 0x7E00 : h) | sign);
}

struct Bf16 {
    using Bits = uint16_t;
    static constexpr Bits EXPONENTS = 0x7F80;
    static float widen(Bits w) { return widened(w); }
    static Bits round(float x) { return std::isnan(x) ? EXPONENTS : rounded(bits(x)); }
};
struct F16 {
    using Bits = uint16_t;
    static constexpr Bits EXPONENTS = 0x7C00;
    static float widen(Bits w) { return from_half(w); }
    static Bits round(float x) { return to_half(x); }
};
struct F32 {
    using Bits = uint32_t;
    static constexpr Bits EXPONENTS = EXPONENT;
    static float widen(Bits w) { return std::bit_cast<float>(w); }
    static Bits round(float x) { return bits(x); }
};

// Elements from `first` of row 0 on. All sums of left and right, by scale and shift, are exact.
template <class Kind>
static void predict(In2<int16_t> left_RK, In<double> scales_K, In2<double> right_RN, int64_t first,
                    In<typename Kind::Bits> w0_L, Out<typename Kind::Bits> out_L) {
    int64_t n = length(w0_L), rank = length(left_RK), rows = length(scales_K), columns = length(right_RN, 1);
    require(length(out_L) == n && length(left_RK, 1) == rows && length(right_RN) == rank, "sizes differ");
    require(0 <= first && first < columns && n <= rows * columns - first, "not of these rows");
    const int16_t *left = data(left_RK);
    const double *scales = data(scales_K), *right = data(right_RN);
    const typename Kind::Bits *w0 = data(w0_L);
    typename Kind::Bits *out = data(out_L);
    double sums[TILE];
    for (int64_t at = 0; at < n;) {
        int64_t row = (first + at) / columns, column = (first + at) % columns;
        int64_t size = std::min({TILE, columns - column, n - at}), r = 0;
        std::fill_n(sums, size, 0.0);
        const double *some = right + column;
        for (; r + 4 <= rank; r += 4) {
            double a = left[r * rows + row], b = left[(r + 1) * rows + row];
            double c = left[(r + 2) * rows + row], d = left[(r + 3) * rows + row];
            const double *p = some + r * columns, *q = p + columns, *s = q + columns, *t = s + columns;
            for (int64_t j = 0; j < size; ++j) sums[j] += (a * p[j] + b * q[j]) + (c * s[j] + d * t[j]);
        }
        for (; r < rank; ++r) {
            double a = left[r * rows + row];
            const double *p = some + r * columns;
            for (int64_t j = 0; j < size; ++j) sums[j] += a * p[j];
        }
        double scale = scales[row];
        for (int64_t j = 0; j < size; ++j) {
            typename Kind::Bits w = w0[at + j];
            double sum = scale * sums[j] + 0.0; // no zero is negative
            typename Kind::Bits p = Kind::round(static_cast<float>(sum + static_cast<double>(Kind::widen(w))));
            out[at + j] = (p & Kind::EXPONENTS) == Kind::EXPONENTS ? w : p;
        }
        at += size;
    }
}

void add_updates(nb::module_ &m) {
    auto add = [&m](const char *name, auto loop) {
        add_loop(m, name, loop, "left_RK", "scales_K", "right_RN", "first", "w0_L", "out_L");
    };
    add("predict_bf16", predict<Bf16>);
    add("predict_f16", predict<F16>);
    add("predict_f32", predict<F32>);
}
