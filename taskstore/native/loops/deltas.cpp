// The loops of `deltas`, for a writer and a reader. Elements are taken in blocks that stay in the nearest
// cache; within a block each loop does one thing.
#include "codecs/delta_scales.hpp"
#include "codecs/fields.hpp"
#include "codecs/rans.hpp"
#include "codecs/sizes.hpp"

#include <vector>

namespace {

using namespace deltas;
using Bytes = In<uint8_t>;
constexpr size_t BLOCK = 512; // more would drive the coder's tables out of the nearest cache

template <class U> Way way_of(int32_t unused, int32_t m, int32_t g, int32_t f = 0) {
    require(unused >= 0 && m >= 0 && unused + m < BITS<U> - 1 && g >= 1 && (f == 0 || f == 2 || f == 3),
            "no weights have such mantissas");
    return {unused, m, g, f};
}

template <class U>
Scales scales_of(const In<U> &w0_N, const Bytes &rows, const Bytes &columns, size_t first) {
    size_t count = columns.size();
    require(count == 0 || (first < count && rows.size() >= (first + w0_N.size() + count - 1) / count),
            "rows and columns are not those of the elements");
    return {data(rows), data(columns), count, first};
}

template <class U>
void scales(In<U> w0_N, int32_t unused, int32_t m, int32_t g, Bytes rows, Bytes columns, size_t first,
            Out<uint8_t> scales_N) {
    require_same_size(w0_N, scales_N);
    Scales scaled = scales_of(w0_N, rows, columns, first);
    Way way = way_of<U>(unused, m, g);
    auto *base = data(w0_N);
    auto *to = data(scales_N);
    for (size_t start = 0, n; (n = std::min(BLOCK, w0_N.size() - start)); start += n) {
        int32_t w0[BLOCK];
        widened(n, base + start, w0);
        scaled.template next<U>(n, w0, way, to + start);
    }
}

// The exponent of a delta, 0 where there is none; for a writer's choices.
template <class U> INLINED int32_t octave_of(int32_t w0, int32_t w, Way way) {
    int32_t t0 = magnitude<U>(w0, way.unused), t = magnitude<U>(w, way.unused), m = way.m;
    int32_t x = std::max(t0, t), y = std::min(t0, t);
    int32_t e = std::max(shr(x, m), 1), v = std::max(shr(y, m), 1);
    int32_t near = log2(sub(fixed(x, m, v), fixed(y, m, v)));
    int32_t octave = std::max(sub(add(v, near), m), 1), other = across<U>(w0, w);
    octave = other | (sub(e, v) > FINER) ? e : octave;
    return other | (t != t0) ? octave : 0;
}

template <class U>
void octaves(In<U> w0_N, In<U> w_N, int32_t unused, int32_t m, Out<int16_t> octaves_N) {
    require_same_size(w0_N, w_N, octaves_N);
    Way way = way_of<U>(unused, m, 1);
    auto *base = data(w0_N), *tuned = data(w_N);
    auto *to = data(octaves_N);
    for (size_t start = 0, n; (n = std::min(BLOCK, w0_N.size() - start)); start += n) {
        int32_t w0[BLOCK], w[BLOCK], found[BLOCK];
        widened(n, base + start, w0);
        widened(n, tuned + start, w);
        for (size_t i = 0; i < n; ++i) found[i] = octave_of<U>(w0[i], w[i], way);
        widened(n, found, to + start);
    }
}

// The symbol of a weight given its base.
template <class U> INLINED int32_t symbol_of(int32_t w0, int32_t w, Way way) {
    int32_t t0 = magnitude<U>(w0, way.unused), t = magnitude<U>(w, way.unused);
    int32_t other = across<U>(w0, w);
    int32_t v = unit(t0, way), e = std::max(shr(t, way.m), 1);
    int32_t size = fixed(t, way.m, v), base = fixed(t0, way.m, v);
    int32_t d = sub(size ^ sub(0, other), base);
    int32_t negative = d < 0;
    int32_t h = d ^ sub(0, negative);
    int32_t r = std::max(sub(log2(h), way.f), 0);
    int32_t symbol = add(shl(add(shl(r, way.f), shr(h, r)), 1), negative);
    int32_t octaves = sub(v, e);
    int32_t near = add(add(SMALL - 2, shl(octaves, 1)), other);
    int32_t far = (add(octaves, TOP) < way.m) | (symbol > LAST) | (octaves > NEAR);
    far |= (octaves > 0) & (shr(t, way.m) == 0);
    symbol = octaves > 0 ? near : symbol;
    symbol = far ? ESCAPED : symbol;
    int32_t nothing = (t == 0) & (octaves > 0);
    return nothing ? add(ZERO, other) : symbol;
}

template <class U>
void symbols(In<U> w0_N, In<U> w_N, int32_t unused, int32_t m, int32_t g, int32_t f,
             Out<uint8_t> symbols_N) {
    require_same_size(w0_N, w_N, symbols_N);
    Way way = way_of<U>(unused, m, g, f);
    auto *base = data(w0_N), *tuned = data(w_N);
    auto *to = data(symbols_N);
    for (size_t start = 0, n; (n = std::min(BLOCK, w0_N.size() - start)); start += n) {
        int32_t w0[BLOCK], w[BLOCK], found[BLOCK];
        widened(n, base + start, w0);
        widened(n, tuned + start, w);
        for (size_t i = 0; i < n; ++i) found[i] = symbol_of<U>(w0[i], w[i], way);
        widened(n, found, to + start);
    }
}

// What the plain bits of a weight say.
template <class U> INLINED int32_t plain_of(int32_t w0, int32_t w, int32_t s, Way way) {
    int32_t t0 = magnitude<U>(w0, way.unused), t = magnitude<U>(w, way.unused), m = way.m;
    int32_t v = unit(t0, way), size = fixed(t, m, v);
    Bucket found = bucket(s, fixed(t0, m, v), way);
    int32_t both = sub(size ^ sub(0, across<U>(w0, w)), found.low);
    int32_t one_side = shr(sub(size, rounded_up(found.least, found.k)), found.k);
    int32_t alone = t & sub(shl(1, m), 1);
    int32_t bits = found.least < 0 ? both : one_side;
    bits = s >= SMALL ? alone : bits;
    return s >= ESCAPED ? w : bits;
}

// Plain bits of all elements, one after the other's; returns how many. `words` has room for whole ones.
template <class U>
uint64_t plain(In<U> w0_N, In<U> w_N, Bytes symbols_N, int32_t unused, int32_t m, int32_t g, int32_t f,
               Out<uint32_t> words) {
    require_same_size(w0_N, w_N, symbols_N);
    require(words.size() > (w0_N.size() * BITS<U> + 31) / 32, "plain bits have too little room");
    Way way = way_of<U>(unused, m, g, f);
    FieldWriter writer(data(words));
    auto *base = data(w0_N), *tuned = data(w_N);
    auto *symbols = data(symbols_N);
    for (size_t start = 0, n; (n = std::min(BLOCK, w0_N.size() - start)); start += n) {
        int32_t w0[BLOCK], w[BLOCK], s[BLOCK], widths[BLOCK], bits[BLOCK], low[BLOCK], vrk[BLOCK];
        widened(n, base + start, w0);
        widened(n, tuned + start, w);
        widened(n, symbols + start, s);
        for (size_t i = 0; i < n; ++i) widths[i] = width<U>(w0[i], s[i], way, low[i], vrk[i]);
        for (size_t i = 0; i < n; ++i) bits[i] = plain_of<U>(w0[i], w[i], s[i], way);
        for (size_t i = 0; i < n; ++i) writer.put(U(bits[i]), unsigned(widths[i]));
    }
    return writer.end();
}

// A chunk from its streams. Bounded by what is in them: 0 where all is right, 1 where the coder does not
// end as it began, 2 where plain bits are fewer or more than the symbols have, or filled by ones.
// `coded` is the coder's states, less START, and its words.
template <class U>
int decode(In<U> w0_N, int32_t unused, int32_t m, int32_t g, int32_t f, Bytes rows, Bytes columns,
           size_t first, Bytes contexts_E, In2<uint16_t> shares_CS, Bytes coded, Bytes plain_P,
           Out<U> w_N) {
    require_same_size(w0_N, w_N);
    constexpr size_t HEAD = LANES * sizeof(uint32_t);
    require(coded.size() >= HEAD && coded.size() % 2 == 0 && contexts_E.size() == 256 &&
                shares_CS.shape(1) == 256, "streams of deltas have other sizes");
    require(f, "fields of plain bits have no width");
    Way way = way_of<U>(unused, m, g, f);
    Scales scaled = scales_of(w0_N, rows, columns, first);
    std::vector<uint32_t> table(shares_CS.shape(0) * WHOLE);
    for (size_t c = 0; c < shares_CS.shape(0); ++c)
        if (!spread(data(shares_CS) + 256 * c, table.data() + WHOLE * c)) return 1;
    uint32_t table_of[256];
    for (int e = 0; e < 256; ++e) {
        require(data(contexts_E)[e] < shares_CS.shape(0), "a scale has a context without shares");
        table_of[e] = data(contexts_E)[e] * WHOLE;
    }
    uint32_t states[LANES];
    std::memcpy(states, data(coded), HEAD);
    for (uint32_t &x : states) x += START;
    size_t count = (coded.size() - HEAD) / 2;
    std::vector<uint16_t> words(count + RansDecoder::ROOM);
    std::memcpy(words.data(), data(coded) + HEAD, 2 * count);
    RansDecoder decoder(states, words.data(), count);
    FieldReader reader(data(plain_P), plain_P.size());
    bool enough = true;
    auto *base = data(w0_N);
    auto *to = data(w_N);
    for (size_t start = 0, n; (n = std::min(BLOCK, w0_N.size() - start)); start += n) {
        uint8_t scales[BLOCK], symbols[BLOCK];
        int32_t w0[BLOCK], s[BLOCK], widths[BLOCK], bits[BLOCK], w[BLOCK], low[BLOCK], vrk[BLOCK];
        widened(n, base + start, w0);
        scaled.template next<U>(n, w0, way, scales);
        decoder.take(n, scales, table_of, table.data(), symbols);
        widened(n, symbols, s);
        uint64_t total = 0;
        for (size_t i = 0; i < n; ++i) widths[i] = width<U>(w0[i], s[i], way, low[i], vrk[i]);
        for (size_t i = 0; i < n; ++i) total += uint64_t(widths[i]);
        enough = enough && reader.template read<BITS<U>>(n, widths, total, bits);
        if (!enough) continue; // the coder's end tells what is wrong first
        for (size_t i = 0; i < n; ++i) w[i] = weight<U>(w0[i], s[i], bits[i], low[i], vrk[i], way);
        widened(n, w, to + start);
    }
    if (!decoder.ended()) return 1;
    return enough && reader.ended() ? 0 : 2;
}

template <class U> void add_for(nb::module_ &m) {
    add_loop(m, "scales", scales<U>, "w0_N", "unused", "m", "g", "rows", "columns", "first", "scales_N");
    add_loop(m, "octaves", octaves<U>, "w0_N", "w_N", "unused", "m", "octaves_N");
    add_loop(m, "symbols", symbols<U>, "w0_N", "w_N", "unused", "m", "g", "f", "symbols_N");
    add_loop(m, "plain", plain<U>, "w0_N", "w_N", "symbols_N", "unused", "m", "g", "f", "words");
    add_loop(m, "decode", decode<U>, "w0_N", "unused", "m", "g", "f", "rows", "columns", "first",
             "contexts_E", "shares_CS", "coded", "plain", "w_N");
}

} // namespace

void add_deltas(nb::module_ &m) {
    add_for<uint16_t>(m);
    add_for<uint32_t>(m);
}
