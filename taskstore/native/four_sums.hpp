// The four sums of taskstore/kernels/products.py, the same at every level.
#pragma once

#include <algorithm>
#include <cstdint>

#include "bf16.hpp"

static const int64_t STRIP = 256;      // elements that a sample takes together
static const int64_t STRIPS = 32;      // that are added in float32 before float64
static const int64_t PARTS = 64;       // sums in float32, each of every 64th element

static inline float value(float x) { return x; }
static inline float value(uint16_t x) { return widened(x); }

inline bool is_sample(int64_t one_in) {
    return one_in > 0 && one_in <= 1024 && !(one_in & (one_in - 1));
}

struct Four {  // |e|^2, |w|^2, |tau|^2 and <tau, tau^>, in parts
    float e[PARTS], w[PARTS], t[PARTS], p[PARTS];
};

// Four elements a part at a time.
template <bool WHOLE, class O, class R>
static void add_strip(Four &sums, const O *w0, const O *x, const R *rebuilt) {
    for (int64_t j = 0; j < PARTS; ++j) {
        float e[4], w[4], t[4], p[4];
        for (int64_t k = 0; k < 4; ++k) {
            float o = value(w0[j + PARTS * k]), a = value(x[j + PARTS * k]);
            if (WHOLE) a = a - o;
            float b = value(rebuilt[j + PARTS * k]) - o, d = b - a, whole = o + a;
            e[k] = d * d, w[k] = whole * whole, t[k] = a * a, p[k] = a * b;
        }
        sums.e[j] += (e[0] + e[1]) + (e[2] + e[3]);
        sums.w[j] += (w[0] + w[1]) + (w[2] + w[3]);
        sums.t[j] += (t[0] + t[1]) + (t[2] + t[3]);
        sums.p[j] += (p[0] + p[1]) + (p[2] + p[3]);
    }
}

// Of n elements; `x` is the fine-tune where WHOLE, else the task vector. One strip in `one_in` is looked at.
template <bool WHOLE, class O, class R>
static void four_sums(const O *w0, const O *x, const R *rebuilt, int64_t n, int64_t one_in, double *sums_4) {
    double all[4] = {};
    int64_t group = STRIP * one_in, whole = n / group, groups = (n + group - 1) / group;
    const float each = 1.0f / static_cast<float>(one_in);  // past the last whole group all are looked at
    for (int64_t start = 0; start < groups; start += STRIPS) {
        Four sums = {};
        for (int64_t k = start; k < std::min(start + STRIPS, whole); ++k) {
            int64_t i = STRIP * (k * one_in + ((k * 0x9E3779B1) >> 30 & (one_in - 1)));
            add_strip<WHOLE>(sums, w0 + i, x + i, rebuilt + i);
        }
        if (start + STRIPS > whole)
            for (int64_t i = whole * group; i < n; ++i) {
                float o = value(w0[i]), a = value(x[i]);
                if (WHOLE) a = a - o;
                float b = value(rebuilt[i]) - o;
                sums.e[0] += (b - a) * (b - a) * each;
                sums.w[0] += (o + a) * (o + a) * each;
                sums.t[0] += a * a * each;
                sums.p[0] += a * b * each;
            }
        for (int64_t j = 0; j < PARTS; ++j) {
            all[0] += sums.e[j], all[1] += sums.w[j];
            all[2] += sums.t[j], all[3] += sums.p[j];
        }
    }
    for (int64_t k = 0; k < 4; ++k) sums_4[k] = all[k] * static_cast<double>(one_in);
}
