// TALL-masks of a block: taskstore/kernels/tall.py has the formula.
#pragma once

#include <cmath>

#include "masks.hpp"

// Up to BLOCK elements; `mask` has room for BLOCK bytes.
template <class U>
static inline void tall_block(const float *__restrict tau, const float *__restrict merged,
                              const U *__restrict w0, const U *__restrict w1, float lam, bool one_sided,
                              int64_t n, uint8_t *__restrict mask, uint8_t *__restrict packed,
                              U *__restrict chosen) {
    alignas(64) uint32_t wanted[BLOCK];  // all ones, or none
    if (one_sided)
        for (int64_t j = 0; j < n; ++j)
            wanted[j] = 0u - ((std::fabs(tau[j]) > lam * std::fabs(merged[j] - tau[j])) &
                              ((tau[j] > 0) == (merged[j] > 0)));
    else
        for (int64_t j = 0; j < n; ++j)
            wanted[j] = 0u - (std::fabs(tau[j]) > lam * std::fabs(merged[j] - tau[j]));
    for (int64_t j = 0; j < n; ++j) {
        U moved = static_cast<U>((w0[j] ^ w1[j]) & wanted[j]);
        chosen[j] = static_cast<U>(w0[j] ^ moved);
        mask[j] = moved != 0;
    }
    std::memset(mask + n, 0, 8 * packed_size(n) - n);
    gather(mask, packed_size(n), packed);
}
