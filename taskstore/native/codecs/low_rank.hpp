// Adds a part of low rank, scale_i T_ij with T = sum_r 2^shift_r left_ri right_rj, in whole numbers. While
// |T| stays below 2^19 the product with a scale is exact too, so there is one rounding, in the last sum.
#pragma once

#include "arrays.hpp"
#include "codecs/pairs.hpp"

#include <algorithm>
#include <vector>

// A factor may have any strides: the left one is often some columns of a larger array.
using Factor = nb::ndarray<const int8_t, nb::ndim<2>, nb::device::cpu>;

class LowRank {
public:
    LowRank(const Factor &left_RM, const Factor &right_RN, In<uint8_t> shifts_R, In<float> scales_M)
        : rank_(shifts_R.size()), rows_(left_RM.shape(1)), columns_(right_RN.shape(1)),
          pairs_((rank_ + 1) / 2), width_(columns_ + TILE), left_(pairs_ * rows_),
          right_(pairs_ * width_), scales_(data(scales_M)) {
        auto *shifts = data(shifts_R);
        require(left_RM.shape(0) == rank_ && right_RN.shape(0) == rank_ && scales_M.size() == rows_ &&
                    (rank_ == 0 || *std::max_element(shifts, shifts + rank_) <= 15),
                "factors have several ranks");
        // a shift is shared by both sides, so that their numbers stay below 2^15
        for (size_t r = 0; r < rank_; ++r) {
            int some = std::min<int>(shifts[r], 8);
            put(left_RM, r, some, left_.data() + r / 2, pairs_);
            put(right_RN, r, shifts[r] - some, right_.data() + r / 2 * width_, 1);
        }
    }
    bool empty() const { return rank_ == 0; }
    size_t size() const { return rows_ * columns_; }

    // To elements [first, first + n), in C order.
    void add(size_t first, float *values, size_t n) const {
        size_t row = first / columns_, column = first % columns_;
        while (n) {
            size_t many = std::min(n, columns_ - column);
            for (size_t j = 0; j < many; j += TILE)
                tile(row, column + j, values + j, std::min(TILE, many - j));
            values += many;
            n -= many;
            ++row;
            column = 0;
        }
    }

private:
    static constexpr size_t VECTORS = 8, TILE = VECTORS * pairs::WIDTH;

    // The numbers of component r, shifted, each as one half of a pair.
    static void put(const Factor &factor, size_t r, int shift, int32_t *to, size_t step) {
        auto *from = factor.data() + int64_t(r) * factor.stride(0);
        int64_t apart = factor.stride(1);
        for (size_t i = 0, n = factor.shape(1); i < n; ++i) {
            int32_t x = int32_t(uint32_t(int32_t(from[int64_t(i) * apart])) << shift);
            to[i * step] |= r % 2 ? pairs::pair(0, x) : pairs::pair(x, 0);
        }
    }
    void tile(size_t row, size_t column, float *__restrict values, size_t n) const {
        pairs::Vector sums[VECTORS];
        for (auto &sum : sums) sum = pairs::all(0);
        const int32_t *left = left_.data() + row * pairs_;
        const int32_t *right = right_.data() + column;
        for (size_t p = 0; p < pairs_; ++p, right += width_) {
            pairs::Vector x = pairs::all(left[p]);
            for (size_t v = 0; v < VECTORS; ++v)
                sums[v] = pairs::add_products(sums[v], x, pairs::load(right + v * pairs::WIDTH));
        }
        int32_t whole[TILE];
        for (size_t v = 0; v < VECTORS; ++v) pairs::store(whole + v * pairs::WIDTH, sums[v]);
        float scale = scales_[row];
        for (size_t j = 0; j < n; ++j) values[j] += scale * float(whole[j]);
    }

    size_t rank_, rows_, columns_, pairs_, width_;
    std::vector<int32_t> left_, right_; // (M, P) and (P, N + TILE), P pairs of components
    const float *scales_;
};
