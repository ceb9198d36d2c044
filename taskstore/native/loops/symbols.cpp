// Loops of taskstore/kernels/symbols.py: several small numbers in a byte, `packed` of them below `radix` each.
#include <algorithm>
#include <cstring>

#include "arrays.hpp"

// Numbers into bytes; returns how many escapes there are, whose excess is written from the start on.
static int64_t pack(In<uint16_t> z_N, int64_t radix, int64_t packed, Out<uint8_t> symbols,
                    Out<uint16_t> excess_N) {
    int64_t n = length(z_N);
    require(packed > 0 && radix > 1 && radix <= 256 && length(symbols) == (n + packed - 1) / packed,
            "the bytes do not hold as many symbols");
    require(length(excess_N) == n, "vectors differ in size");
    const uint16_t *z = data(z_N), top = static_cast<uint16_t>(radix - 1);
    uint16_t *excess = data(excess_N), largest = 0;
    uint8_t *out = data(symbols);
    for (int64_t i = 0; i < n; ++i) largest = std::max(largest, z[i]);
    int64_t found = 0;
    if (largest >= top)
        for (int64_t i = 0; i < n; ++i) {
            excess[found] = static_cast<uint16_t>(z[i] - top);  // kept only where `found` moves on
            found += z[i] >= top;
        }
    auto byte = [&](int64_t b, int64_t many) {
        uint32_t value = 0, place = 1;
        for (int64_t j = 0; j < many; ++j, place *= static_cast<uint32_t>(radix))
            value += place * std::min(z[b * packed + j], top);
        out[b] = static_cast<uint8_t>(value);
    };
    int64_t whole = n / packed;
    if (packed == 2 && radix == 16)
        for (int64_t b = 0; b < whole; ++b) {
            uint32_t pair;
            std::memcpy(&pair, z + 2 * b, 4);
            out[b] = static_cast<uint8_t>(std::min(pair & 0xFFFF, 15u) | std::min(pair >> 16, 15u) << 4);
        }
    else if (packed == 4 && radix == 4)
        for (int64_t b = 0; b < whole; ++b)
            out[b] = static_cast<uint8_t>(std::min(z[4 * b], top) | std::min(z[4 * b + 1], top) << 2 |
                                          std::min(z[4 * b + 2], top) << 4 | std::min(z[4 * b + 3], top) << 6);
    else
        for (int64_t b = 0; b < whole; ++b) byte(b, packed);
    if (n % packed) byte(whole, n % packed);
    return found;
}

static int64_t count(In<uint8_t> symbols, In<int64_t> escapes_256) {
    require(length(escapes_256) == 256, "a count per byte");
    const uint8_t *symbol = data(symbols);
    const int64_t *escapes = data(escapes_256);
    int64_t found = 0;
    uint32_t each[256];
    std::copy_n(escapes, 256, each);
    for (int64_t b = 0, n = length(symbols); b < n; ++b) found += each[symbol[b]];
    return found;
}

// Positions of the escapes, as many as `where_E` has room for.
static void find(In<uint8_t> symbols, In2<bool> escapes_256K, Out<uint32_t> where_E) {
    require(length(escapes_256K) == 256, "a row per byte");
    const uint8_t *symbol = data(symbols);
    const bool *escapes = data(escapes_256K);
    uint32_t *where = data(where_E);
    int64_t packed = length(escapes_256K, 1), found = 0, room = length(where_E);
    bool some[256];
    for (int64_t b = 0; b < 256; ++b)
        some[b] = std::any_of(escapes + b * packed, escapes + (b + 1) * packed, [](bool x) { return x; });
    for (int64_t b = 0, n = length(symbols); b < n; ++b) {
        if (!some[symbol[b]]) continue;  // most bytes
        for (int64_t j = 0; j < packed && found < room; ++j)
            if (escapes[symbol[b] * packed + j]) where[found++] = static_cast<uint32_t>(b * packed + j);
    }
    require(found == room, "there are fewer escapes");
}

static void look_up(In<uint8_t> symbols, In2<float> table_256K, Out<float> values_M) {
    int64_t packed = length(table_256K, 1), n = length(symbols);
    require(length(table_256K) == 256 && length(values_M) == n * packed, "a row per byte");
    const uint8_t *symbol = data(symbols);
    const float *table = data(table_256K);
    float *values = data(values_M);
    for (int64_t b = 0; b < n; ++b)
        for (int64_t j = 0; j < packed; ++j) values[b * packed + j] = table[symbol[b] * packed + j];
}

void add_symbols(nb::module_ &m) {
    add_loop(m, "pack", pack, "z_N", "radix", "packed", "symbols", "excess_N");
    add_loop(m, "count", count, "symbols", "escapes_256");
    add_loop(m, "find", find, "symbols", "escapes_256K", "where_E");
    add_loop(m, "look_up", look_up, "symbols", "table_256K", "values_M");
}
