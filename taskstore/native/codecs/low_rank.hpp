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

    // To elements [first, first + n), in C order; several rows at a time where there are as many.
    void add(size_t first, float *values, size_t n) const {
        while (n) {
            size_t row = first / columns_, column = first % columns_;
            bool whole = !column && n >= ROWS * columns_;
            size_t width = std::min(n, columns_ - column), many = whole ? ROWS * columns_ : width;
            if (whole) tiles<ROWS>(row, 0, width, values);
            else tiles<1>(row, column, width, values);
            first += many, values += many, n -= many;
        }
    }

private:
    static constexpr size_t ROWS = pairs::WIDTH == 16 ? 4 : 2; // the sums of so many stay in registers
    static constexpr size_t TILE = 8 * pairs::WIDTH;

    // The numbers of component r, shifted, each as one half of a pair.
    static void put(const Factor &factor, size_t r, int shift, int32_t *to, size_t step) {
        auto *from = factor.data() + int64_t(r) * factor.stride(0);
        int64_t apart = factor.stride(1);
        for (size_t i = 0, n = factor.shape(1); i < n; ++i) {
            int32_t x = int32_t(uint32_t(int32_t(from[int64_t(i) * apart])) << shift);
            to[i * step] |= r % 2 ? pairs::pair(0, x) : pairs::pair(x, 0);
        }
    }
    template <size_t R> void tiles(size_t row, size_t column, size_t width, float *values) const {
        constexpr size_t VECTORS = R > 1 ? 4 : 8, N = VECTORS * pairs::WIDTH;
        for (size_t j = 0; j < width; j += N) tile<R, VECTORS>(row, column + j, std::min(N, width - j), values + j);
    }
    // `values` of the first row, those of the next are as many elements behind as a row has.
    template <size_t R, size_t VECTORS> void tile(size_t row, size_t column, size_t n, float *values) const {
        pairs::Vector sums[R][VECTORS];
        for (auto &of : sums)
            for (auto &sum : of) sum = pairs::all(0);
        const int32_t *left = left_.data() + row * pairs_;
        const int32_t *right = right_.data() + column;
        for (size_t p = 0; p < pairs_; ++p, right += width_) {
            pairs::Vector y[VECTORS];
            for (size_t v = 0; v < VECTORS; ++v) y[v] = pairs::load(right + v * pairs::WIDTH);
            for (size_t r = 0; r < R; ++r) {
                pairs::Vector x = pairs::all(left[r * pairs_ + p]);
                for (size_t v = 0; v < VECTORS; ++v) sums[r][v] = pairs::add_products(sums[r][v], x, y[v]);
            }
        }
        for (size_t r = 0; r < R; ++r) {
            int32_t whole[VECTORS * pairs::WIDTH];
            for (size_t v = 0; v < VECTORS; ++v) pairs::store(whole + v * pairs::WIDTH, sums[r][v]);
            float scale = scales_[row + r], *__restrict to = values + r * columns_;
            for (size_t j = 0; j < n; ++j) to[j] += scale * float(whole[j]);
        }
    }

    size_t rank_, rows_, columns_, pairs_, width_;
    std::vector<int32_t> left_, right_; // (M, P) and (P, N + TILE), P pairs of components
    const float *scales_;
};
