// The value v that minimises sum_t min(tau_t^2, (tau_t - v)^2), per element.
//
// taskstore/merging/methods/lsq.py has the formula and makes the sorting network. Sums start at the most
// extreme value, so the result has one value on every machine.
#include <algorithm>
#include <cstring>
#include <vector>

#include "arrays.hpp"
#include "lanes.hpp"

static const int STRIP = 64, VECTORS = STRIP / LANES;  // elements that are sorted at a time
struct Row {
    Floats v[VECTORS];
};

// Sort each column downwards.
static void sort(Row *rows, const int64_t *pairs, int64_t count) {
    for (int64_t c = 0; c < count; ++c) {
        Row &high = rows[pairs[2 * c]], &low = rows[pairs[2 * c + 1]];
        for (int i = 0; i < VECTORS; ++i) {
            Floats a = high.v[i], b = low.v[i];
            high.v[i] = a < b ? b : a;
            low.v[i] = a < b ? a : b;
        }
    }
}

// Take row after row of one side into the mean, and keep the mean of the largest gain.
static void try_counts(const Row *rows, int64_t tasks, float sign, int i, Floats &gain, Floats &value) {
    const Floats zero = {};
    Floats total = zero;
    for (int64_t j = 0; j < tasks; ++j) {
        Floats x = rows[sign > 0 ? j : tasks - 1 - j].v[i] * sign;
        total += x > zero ? x : zero;  // the other side adds nothing
        Floats mean = total * (1.0f / static_cast<float>(j + 1)), own = total * mean;
        value = own > gain ? sign * mean : value;
        gain = own > gain ? own : gain;
    }
}

static void least_squares(In2<float> tau_SN, In2<int64_t> pairs_C2, Out<float> out_N) {
    int64_t tasks = length(tau_SN), n = length(tau_SN, 1), count = length(pairs_C2);
    require(length(out_N) == n, "the result is not of the vectors' size");
    require(length(pairs_C2, 1) == 2, "a network is of pairs");
    const float *tau = data(tau_SN);
    const int64_t *pairs = data(pairs_C2);
    for (int64_t i = 0; i < 2 * count; ++i)
        require(pairs[i] >= 0 && pairs[i] < tasks, "a network of other rows");
    float *out = data(out_N);
    std::vector<Row> rows(tasks);
    for (int64_t start = 0; start < n; start += STRIP) {
        int64_t size = std::min<int64_t>(STRIP, n - start);
        for (int64_t s = 0; s < tasks; ++s)
            std::memcpy(&rows[s], tau + s * n + start, size * sizeof *tau);
        sort(rows.data(), pairs, count);
        Row values = {};
        for (int i = 0; i < VECTORS; ++i) {
            Floats gain = {};
            try_counts(rows.data(), tasks, 1.0f, i, gain, values.v[i]);
            try_counts(rows.data(), tasks, -1.0f, i, gain, values.v[i]);
        }
        std::memcpy(out + start, &values, size * sizeof *out);
    }
}

void add_least_squares(nb::module_ &m) {
    add_loop(m, "least_squares", least_squares, "tau_SN", "pairs_C2", "out_N");
}
