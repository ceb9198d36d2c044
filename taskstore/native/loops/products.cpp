// Loops of taskstore/kernels/products.py: sums of products, the same at every level.
#include <algorithm>

#include "arrays.hpp"
#include "bf16.hpp"

static const int64_t STRIP = 256;      // elements that a sample takes together
static const int64_t STRIPS = 32;      // that are added in float32 before float64
static const int64_t PARTS = 64;       // sums in float32, each of every 64th element
static const int64_t TILE = 512;       // elements that are summed up at a time, in the nearest cache

static float value(float x) { return x; }
static float value(uint16_t x) { return widened(x); }

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

struct Four {  // |e|^2, |w|^2, |tau|^2 and <tau, tau^>, in parts
    float e[PARTS], w[PARTS], t[PARTS], p[PARTS];
};

// Four elements a part at a time.
template <bool WHOLE, class O, class R>
static void add_strip(Four &sums, const O *w0, const O *x, const R *rebuilt) {
    for (int64_t j = 0; j < PARTS; ++j) {
        float e[4], w[4], t[4], p[4];
        for (int64_t k = 0; k < 4; ++k) {
            float o = value(w0[j + PARTS * k]), a = value(x[j + PARTS * k]);
            if (WHOLE) a = a - o;
            float b = value(rebuilt[j + PARTS * k]) - o, d = b - a, whole = o + a;
            e[k] = d * d, w[k] = whole * whole, t[k] = a * a, p[k] = a * b;
        }
        sums.e[j] += (e[0] + e[1]) + (e[2] + e[3]);
        sums.w[j] += (w[0] + w[1]) + (w[2] + w[3]);
        sums.t[j] += (t[0] + t[1]) + (t[2] + t[3]);
        sums.p[j] += (p[0] + p[1]) + (p[2] + p[3]);
    }
}

// `x` is the fine-tune where WHOLE, else the task vector; one strip in `one_in`, a power of two, is looked at.
template <bool WHOLE, class O, class R>
static void four_sums(In<O> w0_N, In<O> x_N, In<R> rebuilt_N, int64_t one_in, Out<double> sums_4) {
    int64_t n = length(w0_N);
    require(length(x_N) == n && length(rebuilt_N) == n && length(sums_4) == 4, "vectors differ in size");
    require(one_in > 0 && one_in <= 1024 && !(one_in & (one_in - 1)), "one in a power of two");
    const O *w0 = data(w0_N), *x = data(x_N);
    const R *rebuilt = data(rebuilt_N);
    double all[4] = {};
    int64_t group = STRIP * one_in, whole = n / group, groups = (n + group - 1) / group;
    const float each = 1.0f / static_cast<float>(one_in);  // past the last whole group all are looked at
    for (int64_t start = 0; start < groups; start += STRIPS) {
        Four sums = {};
        for (int64_t k = start; k < std::min(start + STRIPS, whole); ++k) {
            int64_t i = STRIP * (k * one_in + ((k * 0x9E3779B1) >> 30 & (one_in - 1)));
            add_strip<WHOLE>(sums, w0 + i, x + i, rebuilt + i);
        }
        if (start + STRIPS > whole)
            for (int64_t i = whole * group; i < n; ++i) {
                float o = value(w0[i]), a = value(x[i]);
                if (WHOLE) a = a - o;
                float b = value(rebuilt[i]) - o;
                sums.e[0] += (b - a) * (b - a) * each;
                sums.w[0] += (o + a) * (o + a) * each;
                sums.t[0] += a * a * each;
                sums.p[0] += a * b * each;
            }
        for (int64_t j = 0; j < PARTS; ++j) {
            all[0] += sums.e[j], all[1] += sums.w[j];
            all[2] += sums.t[j], all[3] += sums.p[j];
        }
    }
    for (int64_t k = 0; k < 4; ++k) data(sums_4)[k] = all[k] * static_cast<double>(one_in);
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
    add_four_sums(m, "four_sums", four_sums<false, float, float>);
    add_four_sums(m, "four_sums", four_sums<false, float, uint16_t>);
    add_four_sums(m, "four_sums_of_bf16", four_sums<true, uint16_t, uint16_t>);
    add_loop(m, "add_product", add_product, "left_OR", "right_RI", "start", "w_N");
    add_loop(m, "add_squares_of_rows", add_squares_of_rows, "w_OI", "squares_O");
    add_loop(m, "add_squares_of_columns", add_squares_of_columns, "w_OI", "squares_I");
}
