// The loops of taskstore/format/codecs/deltas/tables.py, and the sums that codes of rows are made of.
#include "codecs/rans.hpp"
#include "codecs/sizes.hpp"

namespace {

constexpr size_t SYMBOLS = 256;

// Add up octaves by row and by column, and count those that moved.
void sums(In<int16_t> octaves_N, size_t first, Out2<int64_t> rows_2R, Out2<int64_t> columns_2K) {
    size_t n = octaves_N.size(), rows = rows_2R.shape(1), columns = columns_2K.shape(1);
    require(rows_2R.shape(0) == 2 && columns_2K.shape(0) == 2 && first < std::max<size_t>(columns, 1) &&
                rows * columns >= first + n,
            "rows and columns are not those of the elements");
    auto *octaves = data(octaves_N);
    auto *row_sums = data(rows_2R), *column_sums = data(columns_2K);
    for (size_t row = 0, begin = 0, at = first; begin < n; ++row, at = 0) {
        size_t many = std::min(columns - at, n - begin);
        auto *__restrict totals = column_sums + at, *__restrict moved = column_sums + columns + at;
        int64_t total = 0, some = 0;
        for (size_t i = 0; i < many; ++i) {
            int64_t octave = octaves[begin + i], one = octave > 0;
            total += octave;
            some += one;
            totals[i] += octave;
            moved[i] += one;
        }
        row_sums[row] = total;
        row_sums[rows + row] = some;
        begin += many;
    }
}

// Shares of WHOLE by weight, at least 1; false where no symbol has a weight, or one is not known.
bool shared(const uint8_t *codes, const int64_t *weights, size_t known, uint16_t *shares) {
    int64_t total = 0, there = 0;
    for (size_t s = 0; s < SYMBOLS; ++s) {
        if (codes[s] >= known) return false;
        total += weights[codes[s]];
        there += codes[s] > 0;
    }
    int64_t so_far = 0, begun = 0;
    for (size_t s = 0; s < SYMBOLS; ++s) {
        shares[s] = 0;
        if (codes[s] == 0) continue;
        so_far += weights[codes[s]];
        int64_t end = so_far * (int64_t(WHOLE) - there) / total;
        shares[s] = uint16_t(1 + end - begun);
        begun = end;
    }
    return there > 0;
}

bool share(In2<uint8_t> codes_CS, In<int64_t> weights, Out2<uint16_t> shares_CS) {
    require(codes_CS.shape(0) == shares_CS.shape(0) && codes_CS.shape(1) == SYMBOLS &&
                shares_CS.shape(1) == SYMBOLS,
            "codes are not those of the shares");
    bool good = true;
    for (size_t c = 0; c < codes_CS.shape(0); ++c)
        good &= shared(data(codes_CS) + SYMBOLS * c, data(weights), weights.size(),
                       data(shares_CS) + SYMBOLS * c);
    return good;
}

// Shares from a stream's bytes from `at` on; whether these are the weights of as many contexts, and no
// more. Reads no further than they go.
bool shares_of(In<uint8_t> tables, size_t at, In<int64_t> weights, Out2<uint16_t> shares_CS) {
    require(shares_CS.shape(1) == SYMBOLS, "there are 256 symbols");
    auto *bytes = data(tables);
    size_t size = tables.size();
    for (size_t c = 0; c < shares_CS.shape(0); ++c) {
        if (at + 2 > size) return false;
        size_t first = bytes[at], last = bytes[at + 1];
        at += 2;
        if (last < first || at + last - first + 1 > size) return false;
        uint8_t codes[SYMBOLS] = {};
        for (size_t s = first; s <= last; ++s)
            codes[s] = uint8_t(bytes[at++] + (s >= first + 2 ? codes[s - 2] : 0));
        if (!shared(codes, data(weights), weights.size(), data(shares_CS) + SYMBOLS * c)) return false;
    }
    return at == size;
}

} // namespace

void add_delta_tables(nb::module_ &m) {
    add_loop(m, "sums", sums, "octaves_N", "first", "rows_2R", "columns_2K");
    add_loop(m, "share", share, "codes_CS", "weights", "shares_CS");
    add_loop(m, "shares_of", shares_of, "tables", "at", "weights", "shares_CS");
}
