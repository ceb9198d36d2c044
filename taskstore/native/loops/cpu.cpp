// Loops of taskstore/kernels/cpu.py: masks that choose and swap, task vectors of bf16 models.
#include <algorithm>

#include "arrays.hpp"
#include "bf16.hpp"
#include "masks.hpp"

template <class U> static void select(In<uint8_t> bits_P, In<U> w0_N, In<U> w1_N, Out<U> chosen_N) {
    int64_t n = length(w0_N);
    require(length(bits_P) == packed_size(n), "the mask is not of the weights' size");
    require(length(w1_N) == n && length(chosen_N) == n, "weights differ in size");
    const uint8_t *bits = data(bits_P);
    const U *w0 = data(w0_N), *w1 = data(w1_N);
    U *chosen = data(chosen_N);
    alignas(64) uint8_t mask[BLOCK];
    for (int64_t start = 0; start < n; start += BLOCK) {
        int64_t size = std::min(BLOCK, n - start);
        spread(bits + start / 8, packed_size(size), mask);
        for (int64_t j = 0; j < size; ++j)
            chosen[start + j] = mask[j] ? w1[start + j] : w0[start + j];
    }
}

template <class U> static void swap(In<uint8_t> a_P, In<uint8_t> b_P, In<U> d_N, Out<U> w_N) {
    int64_t n = length(w_N);
    require(length(a_P) == packed_size(n) && length(b_P) == packed_size(n),
            "a mask is not of the weights' size");
    require(length(d_N) == n, "weights differ in size");
    const uint8_t *a = data(a_P), *b = data(b_P);
    const U *d = data(d_N);
    U *w = data(w_N);
    alignas(64) uint8_t mask[BLOCK];
    uint8_t changed[BLOCK / 8];
    for (int64_t start = 0; start < n; start += BLOCK) {
        int64_t size = std::min(BLOCK, n - start), packed = packed_size(size);
        uint8_t some = 0;
        for (int64_t j = 0; j < packed; ++j) {
            changed[j] = a[start / 8 + j] ^ b[start / 8 + j];
            some |= changed[j];
        }
        if (!some) continue;
        spread(changed, packed, mask);
        for (int64_t j = 0; j < size; ++j)  // 0 - 1 is all ones
            w[start + j] ^= static_cast<U>(d[start + j] & static_cast<U>(0 - mask[j]));
    }
}

static bool differ(In<uint8_t> a_P, In<uint8_t> b_P) {
    require(length(a_P) == length(b_P), "masks differ in size");
    return std::memcmp(data(a_P), data(b_P), length(a_P)) != 0;
}

// Returns the largest exponent field of tau, as it stands in its bits.
static uint32_t subtract_bf16(In<uint16_t> theta_N, In<float> theta0_N, Out<float> tau_N) {
    int64_t n = length(theta_N);
    require(length(theta0_N) == n && length(tau_N) == n, "vectors differ in size");
    const uint16_t *theta = data(theta_N);
    const float *theta0 = data(theta0_N);
    float *tau = data(tau_N);
    uint32_t largest = 0;
    for (int64_t i = 0; i < n; ++i) {
        tau[i] = widened(theta[i]) - theta0[i];
        largest = std::max(largest, bits(tau[i]) & EXPONENT);
    }
    return largest;
}

static void add_bf16(In<float> theta0_N, In<float> tau_N, In<uint16_t> w0_N, Out<uint16_t> w1_N) {
    int64_t n = length(w0_N);
    require(length(theta0_N) == n && length(tau_N) == n && length(w1_N) == n, "vectors differ in size");
    const float *theta0 = data(theta0_N), *tau = data(tau_N);
    const uint16_t *w0 = data(w0_N);
    uint16_t *w1 = data(w1_N);
    for (int64_t i = 0; i < n; ++i) w1[i] = sum_or(w0[i], theta0[i], tau[i]);
}

void add_cpu(nb::module_ &m) {
    add_loop(m, "select", select<uint16_t>, "bits_P", "w0_N", "w1_N", "chosen_N");
    add_loop(m, "select", select<uint32_t>, "bits_P", "w0_N", "w1_N", "chosen_N");
    add_loop(m, "swap", swap<uint16_t>, "a_P", "b_P", "d_N", "w_N");
    add_loop(m, "swap", swap<uint32_t>, "a_P", "b_P", "d_N", "w_N");
    add_loop(m, "differ", differ, "a_P", "b_P");
    add_loop(m, "subtract_bf16", subtract_bf16, "theta_N", "theta0_N", "tau_N");
    add_loop(m, "add_bf16", add_bf16, "theta0_N", "tau_N", "w0_N", "w1_N");
}
