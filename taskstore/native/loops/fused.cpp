// The loop of taskstore/kernels/fused.py: bf16 models are merged by their sum and masked, a block at a time.
#include <algorithm>
#include <bit>
#include <vector>

#include "arrays.hpp"
#include "four_sums.hpp"
#include "tall.hpp"

static int64_t ones(const uint8_t *packed, int64_t n) {
    int64_t count = 0, i = 0;
    for (; i + 8 <= n; i += 8) {
        uint64_t word;
        std::memcpy(&word, packed + i, 8);
        count += std::popcount(word);
    }
    for (; i < n; ++i) count += std::popcount(packed[i]);
    return count;
}

static bool differ(const uint16_t *a, const uint16_t *b, int64_t n) {
    uint16_t any = 0;
    for (int64_t j = 0; j < n; ++j) any |= a[j] ^ b[j];
    return any != 0;
}

// Returns the largest exponent field of the merged vector, as it stands in its bits. Of each task: the ones of its
// mask, whether it differs from the base, and the four sums, of one strip in `one_in`.
static uint32_t sum_tall_bf16(In2<uint16_t> theta_SN, In<uint16_t> w0_N, In<float> lam_S,
                              int64_t one_in, Out<uint16_t> w1_N, Out2<uint8_t> bits_SP,
                              Out2<uint16_t> chosen_SN, Out<int64_t> ones_S, Out<bool> differs_S,
                              Out2<double> sums_S4) {
    int64_t tasks = length(theta_SN), n = length(w0_N), packed = packed_size(n);
    require(length(theta_SN, 1) == n && length(w1_N) == n, "weights differ in size");
    require(length(chosen_SN) == tasks && length(chosen_SN, 1) == n, "weights differ in size");
    require(length(bits_SP) == tasks && length(bits_SP, 1) == packed && length(lam_S) == tasks,
            "masks are not of the weights' size");
    require(length(ones_S) == tasks && length(differs_S) == tasks && length(sums_S4) == tasks &&
                length(sums_S4, 1) == 4 && is_sample(one_in),
            "counts are not of the tasks");
    const uint16_t *theta_s = data(theta_SN), *w0_n = data(w0_N);
    const float *lam = data(lam_S);
    uint16_t *w1_n = data(w1_N), *chosen = data(chosen_SN);
    uint8_t *masks = data(bits_SP);
    bool *differs = data(differs_S);
    std::fill_n(differs, tasks, false);
    alignas(64) float theta0[BLOCK], merged[BLOCK];
    alignas(64) uint8_t mask[BLOCK];
    std::vector<float> taus(tasks * BLOCK);
    uint32_t largest = 0;
    for (int64_t start = 0; start < n; start += BLOCK) {
        int64_t size = std::min(BLOCK, n - start);
        const uint16_t *w0 = w0_n + start;
        uint16_t *w1 = w1_n + start;
        for (int64_t j = 0; j < size; ++j) theta0[j] = widened(w0[j]);
        std::fill_n(merged, size, 0.0f);
        for (int64_t s = 0; s < tasks; ++s) {
            const uint16_t *theta = theta_s + s * n + start;
            float *tau = taus.data() + s * BLOCK;
            for (int64_t j = 0; j < size; ++j) {
                tau[j] = widened(theta[j]) - theta0[j];
                merged[j] += tau[j];
            }
            differs[s] |= differ(theta, w0, size);
        }
        for (int64_t j = 0; j < size; ++j) largest = std::max(largest, bits(merged[j]) & EXPONENT);
        for (int64_t j = 0; j < size; ++j) w1[j] = sum_or(w0[j], theta0[j], merged[j]);
        for (int64_t s = 0; s < tasks; ++s)
            tall_block(taus.data() + s * BLOCK, merged, w0, w1, lam[s], false, size, mask,
                       masks + s * packed + start / 8, chosen + s * n + start);
    }
    for (int64_t s = 0; s < tasks; ++s) {
        data(ones_S)[s] = ones(masks + s * packed, packed);
        four_sums<true>(w0_n, theta_s + s * n, chosen + s * n, n, one_in, data(sums_S4) + 4 * s);
    }
    return largest;
}

void add_fused(nb::module_ &m) {
    add_loop(m, "sum_tall_bf16", sum_tall_bf16, "theta_SN", "w0_N", "lam_S", "one_in", "w1_N",
             "bits_SP", "chosen_SN", "ones_S", "differs_S", "sums_S4");
}
