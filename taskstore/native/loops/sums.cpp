// Weighted sums and means over tasks, of the values that merge methods keep: float32, task after task, so
// each has one value on every machine.
//
// S = tasks, N = elements. A value is kept where |tau| is `least` of its task or more.
#include <algorithm>
#include <cmath>

#include "arrays.hpp"
#include "choices.hpp"

static const int64_t STRIP = 2048;  // elements: a few rows stay in the first-level cache

// (S, N), a part of a wider table or a whole one.
using Rows = nb::ndarray<const float, nb::ndim<2>, nb::device::cpu>;

struct Every {  // values of both signs
    Every from(int64_t) const { return *this; }
    bool operator()(int64_t, float) const { return true; }
};

struct Sided {  // values above 0 where `up`, below 0 elsewhere
    const uint8_t *up;
    Sided from(int64_t start) const { return {up + start}; }
    bool operator()(int64_t i, float value) const {
        uint32_t turn = static_cast<uint32_t>(up[i] ^ 1) << 31;  // what is wanted becomes positive
        return std::bit_cast<float>(std::bit_cast<uint32_t>(value) ^ turn) > 0.0f;
    }
};

// sum_s w_s tau_s of the values that are kept and wanted; over sum_s |w_s| of them for a mean.
template <bool MEAN, class Wanted>
static void add(const Rows &tau_SN, const In<float> &weight_S, const In<float> &least_S, Wanted wanted,
                const Out<float> &out_N) {
    int64_t tasks = length(tau_SN), n = length(tau_SN, 1);
    require(tau_SN.stride(1) == 1 || n < 2, "rows have gaps");
    require(length(weight_S) == tasks && length(least_S) == tasks, "a weight and a threshold per task");
    require(length(out_N) == n, "the result is not of the vectors' size");
    const float *weights = data(weight_S), *thresholds = data(least_S), *first = data(tau_SN);
    float *out = data(out_N);
    alignas(64) float total[STRIP];
    for (int64_t start = 0; start < n; start += STRIP) {
        int64_t size = std::min(STRIP, n - start);
        float *sum = out + start;
        std::fill_n(sum, size, 0.0f);
        if (MEAN) std::fill_n(total, size, 0.0f);
        for (int64_t s = 0; s < tasks; ++s) {
            const float *tau = first + s * tau_SN.stride(0) + start;
            const float w = weights[s], share = std::fabs(w), least = thresholds[s];
            const Wanted own = wanted.from(start);
            for (int64_t i = 0; i < size; ++i) {
                float value = w * tau[i];
                bool keep = (std::fabs(tau[i]) >= least) & own(i, value);
                sum[i] += kept(keep, value);
                if (MEAN) total[i] += kept(keep, share);
            }
        }
        if (MEAN)
            for (int64_t i = 0; i < size; ++i) sum[i] /= total[i] > 0.0f ? total[i] : 1.0f;
    }
}

static void weighted(Rows tau_SN, In<float> weight_S, In<float> least_S, Out<float> out_N) {
    add<false>(tau_SN, weight_S, least_S, Every{}, out_N);
}

static void mean(Rows tau_SN, In<float> weight_S, In<float> least_S, Out<float> out_N) {
    add<true>(tau_SN, weight_S, least_S, Every{}, out_N);
}

static void of_sign(Rows tau_SN, In<float> weight_S, In<float> least_S, In<bool> up_N, bool mean,
                    Out<float> out_N) {
    require(length(up_N) == length(tau_SN, 1), "a sign per element is needed");
    Sided sided{reinterpret_cast<const uint8_t *>(data(up_N))};
    if (mean)
        add<true>(tau_SN, weight_S, least_S, sided, out_N);
    else
        add<false>(tau_SN, weight_S, least_S, sided, out_N);
}

void add_sums(nb::module_ &m) {
    add_loop(m, "weighted", weighted, "tau_SN", "weight_S", "least_S", "out_N");
    add_loop(m, "mean", mean, "tau_SN", "weight_S", "least_S", "out_N");
    add_loop(m, "of_sign", of_sign, "tau_SN", "weight_S", "least_S", "up_N", "mean", "out_N");
}
