// BLAKE3 of a piece of a tensor: the values of its chunks, and of pairs of values.
//
// taskstore/packing/parts/subtrees.py says what they are for. Chunks are hashed side by side, one per
// lane of a vector; how many does not change a value.
#include <algorithm>
#include <cstring>

#include "arrays.hpp"
#include "lanes.hpp"

static const int CHUNK = 1024, BLOCK = 64;  // bytes of a leaf, and of what is mixed in at a time
static const uint32_t START = 1, END = 2;
static const uint32_t IV[8] = {0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A,
                               0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19};
static const int WORDS[7][16] = {  // which word of the message each half of a round takes
    {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15},
    {2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8},
    {3, 4, 10, 12, 13, 2, 7, 14, 6, 5, 9, 0, 11, 15, 8, 1},
    {10, 7, 12, 9, 14, 3, 13, 15, 4, 0, 11, 2, 5, 8, 1, 6},
    {12, 13, 9, 11, 15, 10, 14, 8, 7, 2, 5, 3, 0, 1, 6, 4},
    {9, 14, 11, 5, 8, 12, 15, 1, 13, 3, 0, 10, 2, 6, 4, 7},
    {11, 15, 5, 0, 1, 9, 8, 6, 14, 10, 2, 12, 3, 4, 7, 13}};

static Words all(uint32_t x) { return Words{} + x; }
static Words turned(Words x, int bits) { return (x >> bits) | (x << (32 - bits)); }

static void mix(Words &a, Words &b, Words &c, Words &d, Words x, Words y) {
    a += b + x;
    d = turned(d ^ a, 16);
    c += d;
    b = turned(b ^ c, 12);
    a += b + y;
    d = turned(d ^ a, 8);
    c += d;
    b = turned(b ^ c, 7);
}

// Mix a block of each lane into its value.
static void compress(Words *value, const Words *m, Words low, Words high, Words size, Words flags) {
    Words v[16];
    for (int i = 0; i < 8; ++i) v[i] = value[i];
    for (int i = 0; i < 4; ++i) v[8 + i] = all(IV[i]);
    v[12] = low, v[13] = high, v[14] = size, v[15] = flags;
#pragma GCC unroll 7
    for (int r = 0; r < 7; ++r) {
        const int *w = WORDS[r];
        mix(v[0], v[4], v[8], v[12], m[w[0]], m[w[1]]);  // columns, then diagonals
        mix(v[1], v[5], v[9], v[13], m[w[2]], m[w[3]]);
        mix(v[2], v[6], v[10], v[14], m[w[4]], m[w[5]]);
        mix(v[3], v[7], v[11], v[15], m[w[6]], m[w[7]]);
        mix(v[0], v[5], v[10], v[15], m[w[8]], m[w[9]]);
        mix(v[1], v[6], v[11], v[12], m[w[10]], m[w[11]]);
        mix(v[2], v[7], v[8], v[13], m[w[12]], m[w[13]]);
        mix(v[3], v[4], v[9], v[14], m[w[14]], m[w[15]]);
    }
    for (int i = 0; i < 8; ++i) value[i] = v[i] ^ v[8 + i];
}

// Of up to LANES chunks, the last of which may be shorter: `bytes` of data -> eight words each.
static void leaves_of(const uint8_t *bytes, int64_t size, uint64_t counter, uint32_t *out) {
    Words value[8], message[16] = {}, low = {}, high = {};
    for (int i = 0; i < 8; ++i) value[i] = all(IV[i]);
    for (int lane = 0; lane < LANES; ++lane) {
        low[lane] = static_cast<uint32_t>(counter + lane);
        high[lane] = static_cast<uint32_t>((counter + lane) >> 32);
    }
    for (int b = 0; b < CHUNK / BLOCK; ++b) {
        uint32_t words[16][LANES], sizes[LANES], flags[LANES];
        for (int lane = 0; lane < LANES; ++lane) {
            int64_t chunk = std::clamp<int64_t>(size - lane * CHUNK, 0, CHUNK), left = chunk - b * BLOCK;
            uint32_t block[16] = {};
            sizes[lane] = static_cast<uint32_t>(std::clamp<int64_t>(left, 0, BLOCK));
            if (sizes[lane]) std::memcpy(block, bytes + lane * CHUNK + b * BLOCK, sizes[lane]);
            for (int i = 0; i < 16; ++i) words[i][lane] = block[i];
            flags[lane] = (b == 0 ? START : 0) | (left <= BLOCK ? END : 0);
        }
        Words sizes_L, flags_L;
        std::memcpy(message, words, sizeof words);
        std::memcpy(&sizes_L, sizes, sizeof sizes);
        std::memcpy(&flags_L, flags, sizeof flags);
        compress(value, message, low, high, sizes_L, flags_L);
        for (int lane = 0; lane < LANES; ++lane)
            if (sizes[lane] && flags[lane] & END)
                for (int i = 0; i < 8; ++i) out[8 * lane + i] = value[i][lane];
    }
}

static void leaves(In<uint8_t> data_N, uint64_t first, Out2<uint32_t> value_CW) {
    int64_t n = length(data_N), chunks = (n + CHUNK - 1) / CHUNK;
    require(length(value_CW) == chunks && length(value_CW, 1) == 8, "eight words per chunk are needed");
    const uint8_t *bytes = data(data_N);
    uint32_t *value = data(value_CW);
    for (int64_t c = 0; c < chunks; c += LANES)
        leaves_of(bytes + c * CHUNK, std::min<int64_t>(n - c * CHUNK, LANES * CHUNK), first + c, value + 8 * c);
}

// Join each pair of values; an odd one at the end is left out.
static void parents(In2<uint32_t> value_CW, uint32_t flags, Out2<uint32_t> joined_PW) {
    int64_t pairs = length(value_CW) / 2;
    require(length(value_CW, 1) == 8 && length(joined_PW, 1) == 8 && length(joined_PW) >= pairs,
            "eight words per pair are needed");
    const uint32_t *value_c = data(value_CW);
    uint32_t *joined = data(joined_PW);
    for (int64_t begin = 0; begin < pairs; begin += LANES) {
        int lanes = static_cast<int>(std::min<int64_t>(LANES, pairs - begin));
        Words value[8], message[16] = {};
        for (int i = 0; i < 8; ++i) value[i] = all(IV[i]);
        for (int lane = 0; lane < lanes; ++lane)
            for (int i = 0; i < 16; ++i) message[i][lane] = value_c[16 * (begin + lane) + i];
        compress(value, message, Words{}, Words{}, all(BLOCK), all(flags));
        for (int lane = 0; lane < lanes; ++lane)
            for (int i = 0; i < 8; ++i) joined[8 * (begin + lane) + i] = value[i][lane];
    }
}

void add_subtrees(nb::module_ &m) {
    add_loop(m, "leaves", leaves, "data_N", "first", "value_CW");
    add_loop(m, "parents", parents, "value_CW", "flags", "joined_PW");
}
