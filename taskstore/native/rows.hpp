// Rows of a chunk: element i stands in row (first + i) div columns.
#pragma once

#include <algorithm>

#include "arrays.hpp"

struct Rows {
    int64_t columns, first, n;

    // `rows` are enough for all elements; the numbers are small enough to be multiplied.
    Rows(int64_t columns, int64_t first, int64_t n, int64_t rows) : columns(columns), first(first), n(n) {
        const int64_t most = int64_t{1} << 48;
        require(columns > 0 && columns <= most && first >= 0 && first <= most, "rows of a strange length");
        require(n == 0 || (first + n - 1) / columns < rows, "there are fewer rows than the chunk touches");
    }
    int64_t of(int64_t i) const { return (first + i) / columns; }
    // Where a row that the chunk touches starts and ends in it.
    int64_t start(int64_t r) const { return std::clamp(r * columns - first, int64_t{0}, n); }
    int64_t stop(int64_t r) const { return std::clamp((r + 1) * columns - first, int64_t{0}, n); }
};
