// Loops of taskstore/kernels/quantise.py: steps of rows, levels, what they stand for, and stretching.
#include <algorithm>
#include <cmath>
#include <limits>

#include "arrays.hpp"
#include "choices.hpp"
#include "rows.hpp"

static const float MAX_LEVEL = (1 << 13) - 1;

// Each row's |tau|^2, in four sums in turn, and its step: `step` times its root mean square, or 0 where that
// has no finite reciprocal.
static void sizes(In<float> tau_N, int64_t columns, int64_t first, float step, Out<double> size_R,
                  Out<float> steps_R) {
    Rows rows(columns, first, length(tau_N), length(steps_R));
    require(length(size_R) == length(steps_R), "not a size per row");
    double *size = data(size_R);
    float *steps = data(steps_R);
    for (int64_t r = 0; r < length(steps_R); ++r) {
        const float *tau = data(tau_N) + rows.start(r);
        int64_t n = rows.stop(r) - rows.start(r), whole = n & ~int64_t{3};
        double sums[4] = {};
        for (int64_t i = 0; i < whole; i += 4)
            for (int64_t k = 0; k < 4; ++k) {
                double x = tau[i + k];
                sums[k] += x * x;
            }
        for (int64_t i = whole; i < n; ++i) {
            double x = tau[i];
            sums[0] += x * x;
        }
        size[r] = (sums[0] + sums[1]) + (sums[2] + sums[3]);
        float wanted = static_cast<float>(std::sqrt(size[r] / static_cast<double>(n))) * step;
        steps[r] = wanted >= std::numeric_limits<float>::min() ? wanted : 0.0f;
    }
}

// z per element; sums and counts of |tau| / step per |q|, from 8 on of |tau| / step - |q|. Those of every
// `skip`th row.
static void quantise(In<float> tau_N, In<float> steps_R, int64_t columns, int64_t first, float shift,
                     int64_t skip, Out<uint16_t> z_N, Out<double> sums_9, Out<int64_t> counts_9) {
    Rows rows(columns, first, length(tau_N), length(steps_R));
    require(length(z_N) == rows.n && length(sums_9) == 9 && length(counts_9) == 9 && skip > 0,
            "vectors differ in size");
    const float *tau = data(tau_N), *steps = data(steps_R);
    uint16_t *z = data(z_N);
    double *sums = data(sums_9);
    int64_t *counts = data(counts_9);
    for (int64_t r = 0; r < length(steps_R); ++r) {
        int64_t start = rows.start(r), stop = rows.stop(r);
        if (steps[r] == 0) {
            std::fill(z + start, z + stop, uint16_t{0});
            continue;
        }
        const float share = 1.0f / steps[r];
        for (int64_t i = start; i < stop; ++i) {
            float wanted = std::fabs(tau[i]) * share + shift;
            int32_t level = static_cast<int32_t>(wanted < MAX_LEVEL ? wanted : MAX_LEVEL);
            z[i] = static_cast<uint16_t>(2 * level - ((tau[i] < 0) & (level > 0)));
        }
        if (r % skip) continue;
        for (int64_t i = start; i < stop; ++i) {
            int32_t q = (z[i] + 1) >> 1, k = std::min(q, 8);
            sums[k] += static_cast<double>(std::fabs(tau[i]) * share) - (k == 8 ? q : 0);
            counts[k] += 1;
        }
    }
}

// The values of folded levels, in steps: `low` in 1/32 for |q| up to 7, |q| + offset / 32 from there on.
template <class Z>
static void points(In<Z> z_N, In<uint8_t> low_8, int64_t offset, Out<float> points_N) {
    int64_t n = length(z_N);
    require(length(points_N) == n && length(low_8) == 8, "vectors differ in size");
    require(offset >= -128 && offset <= 127, "the offset is no signed byte");
    const Z *z = data(z_N);
    float *out = data(points_N), table[16];
    auto signed_point = [](int32_t z, int32_t size) {
        float point = static_cast<float>(size) / 32.0f;
        return z && !(z & 1) ? point : -point;
    };
    for (int32_t k = 0; k < 15; ++k) table[k] = signed_point(k, data(low_8)[(k + 1) >> 1]);
    table[15] = 0;
    for (int64_t i = 0; i < n; ++i) {
        int32_t k = z[i], q = (k + 1) >> 1;
        float far = signed_point(k, 32 * q + static_cast<int32_t>(offset));
        out[i] = either(k < 15, table[std::min(k, 15)], far);
    }
}

// Each row's product with what its integers stand for, in 1/32 steps: two sums in turn.
static void along(In<float> tau_N, In<uint16_t> z_N, int64_t columns, int64_t first, In<uint8_t> low_8,
                  int64_t offset, Out<double> along_R) {
    Rows rows(columns, first, length(tau_N), length(along_R));
    require(length(z_N) == rows.n && length(low_8) == 8, "vectors differ in size");
    require(offset >= -128 && offset <= 127, "the offset is no signed byte");
    const float *tau = data(tau_N);
    const uint16_t *z = data(z_N);
    double *sum = data(along_R), table[15];
    for (int64_t k = 0; k < 15; ++k) table[k] = data(low_8)[(k + 1) >> 1];
    for (int64_t r = 0; r < length(along_R); ++r) {
        double turns[2] = {};
        int64_t start = rows.start(r), stop = rows.stop(r);
        auto point = [&](int64_t i) {
            double at = z[i] < 15 ? table[z[i]] : static_cast<double>(32 * ((z[i] + 1) >> 1) + offset);
            return static_cast<double>(std::fabs(tau[i])) * at;
        };
        int64_t i = start;
        for (; i + 2 <= stop; i += 2) {
            turns[0] += point(i);
            turns[1] += point(i + 1);
        }
        if (i < stop) turns[0] += point(i);
        sum[r] = turns[0] + turns[1];
    }
}

// What each row of the rest is to be stretched by; 0 where there is none.
static void stretched(In<float> tau_N, In<float> part_N, In<float> points_N, int64_t columns, int64_t first,
                      In<double> size_R, In<double> steps_R, double least, double most,
                      Out<double> stretch_R) {
    Rows rows(columns, first, length(tau_N), length(stretch_R));
    require(length(part_N) == rows.n && length(points_N) == rows.n, "vectors differ in size");
    require(length(size_R) == length(stretch_R) && length(steps_R) == length(stretch_R),
            "not a size and a step per row");
    const float *tau = data(tau_N), *part = data(part_N), *points = data(points_N);
    const double *size = data(size_R), *steps = data(steps_R);
    double *stretch = data(stretch_R);
    for (int64_t r = 0; r < length(stretch_R); ++r) {
        double along = 0, missing = 0, own = 0;
        for (int64_t i = rows.start(r); i < rows.stop(r); ++i) {
            double value = tau[i], point = points[i];
            along += value * point;
            own += point * point;
            missing += value * static_cast<double>(part[i]);
        }
        stretch[r] = 0;
        if (!(own > 0)) continue;
        along *= steps[r];
        double want = along > 0 ? (size[r] - missing) / along : 1.0;
        stretch[r] = std::min(std::max(want, least), most);
    }
}

static void scale(Out<float> values_N, In<float> steps_R, int64_t columns, int64_t first) {
    Rows rows(columns, first, length(values_N), length(steps_R));
    float *values = data(values_N);
    for (int64_t r = 0; r < length(steps_R); ++r) {
        const float step = data(steps_R)[r];
        for (int64_t i = rows.start(r), stop = rows.stop(r); i < stop; ++i) values[i] *= step;
    }
}

void add_quantise(nb::module_ &m) {
    add_loop(m, "sizes", sizes, "tau_N", "columns", "first", "step", "size_R", "steps_R");
    add_loop(m, "quantise", quantise, "tau_N", "steps_R", "columns", "first", "shift", "skip", "z_N", "sums_9",
             "counts_9");
    add_loop(m, "points", points<uint8_t>, "z_N", "low_8", "offset", "points_N");
    add_loop(m, "points", points<uint16_t>, "z_N", "low_8", "offset", "points_N");
    add_loop(m, "along", along, "tau_N", "z_N", "columns", "first", "low_8", "offset", "along_R");
    add_loop(m, "stretched", stretched, "tau_N", "part_N", "points_N", "columns", "first", "size_R", "steps_R",
             "least", "most", "stretch_R");
    add_loop(m, "scale", scale, "values_N", "steps_R", "columns", "first");
}
