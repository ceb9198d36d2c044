// Loops of taskstore/kernels/products.py: sums of products, the same at every level.
#include <algorithm>

#include "arrays.hpp"
#include "four_sums.hpp"

static const int64_t TILE = 512;       // elements that are summed up at a time, in the nearest cache

// Of one run in PARTS sums; the parts are added first to last.
static double dot(const float *a, const float *b, int64_t n) {
    float sums[PARTS] = {};
    int64_t whole = n - n % PARTS;
    for (int64_t part = 0; part < PARTS; part += 16)  // which the processor's vectors hold
        for (int64_t i = part; i < whole; i += PARTS)
            for (int64_t j = 0; j < 16; ++j) sums[part + j] += a[i + j] * b[i + j];
    for (int64_t i = whole; i < n; ++i) sums[i - whole] += a[i] * b[i];
    float total = 0;
    for (float sum : sums) total += sum;
    return total;
}

static void inner(In2<float> x_SN, In<int64_t> runs, int64_t length_of_run, Out2<double> sums_SS) {
    int64_t vectors = length(x_SN), n = length(x_SN, 1);
    require(length(sums_SS) == vectors && length(sums_SS, 1) == vectors, "the sums are not S times S");
    require(length_of_run > 0, "a run is empty");
    const float *x = data(x_SN);
    const int64_t *run = data(runs);
    double *sums = data(sums_SS);
    for (int64_t k = 0; k < length(runs); ++k) {
        require(run[k] >= 0 && run[k] <= n / length_of_run, "a run is past the end");
        int64_t start = run[k] * length_of_run, size = std::min(length_of_run, n - start);
        for (int64_t s = 0; s < vectors; ++s)
            for (int64_t u = 0; u <= s; ++u)
                sums[s * vectors + u] += dot(x + s * n + start, x + u * n + start, size);
    }
}

template <bool WHOLE, class O, class R>
static void sums_of(In<O> w0_N, In<O> x_N, In<R> rebuilt_N, int64_t one_in, Out<double> sums_4) {
    int64_t n = length(w0_N);
    require(length(x_N) == n && length(rebuilt_N) == n && length(sums_4) == 4, "vectors differ in size");
    require(is_sample(one_in), "one in a power of two");
    four_sums<WHOLE>(data(w0_N), data(x_N), data(rebuilt_N), n, one_in, data(sums_4));
}

// Low-rank products in binary64, the same bits on every machine. A matrix library adds the terms of a sum in an
// order of its own, which differs between machines. Here each sum starts at 0 and takes its terms one by one,
// each a multiplication and an addition that are rounded by themselves (SPEC.md, section 9).
//
// Elements [start, start + N) of the product, in C order, are added to w.
static void add_product(In2<double> left_OR, In2<double> right_RI, int64_t start, Out<double> w_N) {
    int64_t rank = length(right_RI), columns = length(right_RI, 1), n = length(w_N);
    require(length(left_OR, 1) == rank, "the factors have several ranks");
    require(start >= 0 && (n == 0 || (columns > 0 && (start + n - 1) / columns < length(left_OR))),
            "the product has fewer elements");
    const double *left = data(left_OR), *right = data(right_RI);
    double *w = data(w_N), sums[TILE];
    for (int64_t at = 0, size; at < n; at += size) {
        int64_t row = (start + at) / columns, column = (start + at) % columns;
        size = std::min({TILE, columns - column, n - at});
        std::fill_n(sums, size, 0.0);
        const double *l = left + row * rank, *r0 = right + column;
        int64_t r = 0;
        for (; r + 4 <= rank; r += 4, r0 += 4 * columns) {
            const double *r1 = r0 + columns, *r2 = r1 + columns, *r3 = r2 + columns;
            for (int64_t j = 0; j < size; ++j)
                sums[j] = (((sums[j] + l[r] * r0[j]) + l[r + 1] * r1[j]) + l[r + 2] * r2[j]) +
                          l[r + 3] * r3[j];
        }
        for (; r < rank; ++r, r0 += columns)
            for (int64_t j = 0; j < size; ++j) sums[j] += l[r] * r0[j];
        for (int64_t j = 0; j < size; ++j) w[at + j] += sums[j];
    }
}

static void add_squares_of_rows(In2<double> w_OI, Out<double> squares_O) {
    int64_t rows = length(w_OI), columns = length(w_OI, 1);
    require(length(squares_O) == rows, "not a sum per row");
    const double *w = data(w_OI);
    double *squares = data(squares_O);
    for (int64_t i = 0; i < rows; ++i, w += columns) {
        double total = squares[i];
        for (int64_t j = 0; j < columns; ++j) total += w[j] * w[j];
        squares[i] = total;
    }
}

static void add_squares_of_columns(In2<double> w_OI, Out<double> squares_I) {
    int64_t rows = length(w_OI), columns = length(w_OI, 1);
    require(length(squares_I) == columns, "not a sum per column");
    const double *w = data(w_OI);
    double *__restrict squares = data(squares_I);
    for (int64_t i = 0; i < rows; ++i, w += columns)
        for (int64_t j = 0; j < columns; ++j) squares[j] += w[j] * w[j];
}

template <class O, class R>
static void add_four_sums(nb::module_ &m, const char *name,
                          void (*loop)(In<O>, In<O>, In<R>, int64_t, Out<double>)) {
    add_loop(m, name, loop, "w0_N", "x_N", "rebuilt_N", "one_in", "sums_4");
}

void add_products(nb::module_ &m) {
    add_loop(m, "inner", inner, "x_SN", "runs", "length_of_run", "sums_SS");
    add_four_sums(m, "four_sums", sums_of<false, float, float>);
    add_four_sums(m, "four_sums", sums_of<false, float, uint16_t>);
    add_four_sums(m, "four_sums_of_bf16", sums_of<true, uint16_t, uint16_t>);
    add_loop(m, "add_product", add_product, "left_OR", "right_RI", "start", "w_N");
    add_loop(m, "add_squares_of_rows", add_squares_of_rows, "w_OI", "squares_O");
    add_loop(m, "add_squares_of_columns", add_squares_of_columns, "w_OI", "squares_I");
}
