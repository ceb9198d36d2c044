// The loop of taskstore/kernels/tall.py.
#include "tall.hpp"

#include <algorithm>

#include "arrays.hpp"

template <class U>
static void tall(In<float> tau_N, In<float> merged_N, In<U> w0_N, In<U> w1_N, float lam, bool one_sided,
                 Out<uint8_t> bits_P, Out<U> chosen_N) {
    int64_t n = length(tau_N);
    require(length(merged_N) == n && length(w0_N) == n && length(w1_N) == n && length(chosen_N) == n,
            "vectors differ in size");
    require(length(bits_P) == packed_size(n), "the mask is not of the weights' size");
    const float *tau = data(tau_N), *merged = data(merged_N);
    const U *w0 = data(w0_N), *w1 = data(w1_N);
    U *chosen = data(chosen_N);
    uint8_t *packed = data(bits_P);
    alignas(64) uint8_t mask[BLOCK];
    for (int64_t i = 0; i < n; i += BLOCK)
        tall_block(tau + i, merged + i, w0 + i, w1 + i, lam, one_sided, std::min(BLOCK, n - i), mask,
                   packed + i / 8, chosen + i);
}

template <class U> static void add(nb::module_ &m) {
    add_loop(m, "tall", tall<U>, "tau_N", "merged_N", "w0_N", "w1_N", "lam", "one_sided", "bits_P",
             "chosen_N");
}

void add_tall(nb::module_ &m) {
    add<uint16_t>(m);
    add<uint32_t>(m);
}
