// The adaptive range coder of taskstore/kernels/factored/range_coder.py; SPEC.md, section 4, fixes every
// step. A number of a context is its bucket, whose share is learnt on the way, and plain bits.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <vector>

constexpr int BUCKETS = 50;                        // up to 2^25 - 1
constexpr uint32_t MORE = 24, MOST = 1 << 15;      // what a count grows by, and where all are halved
constexpr uint32_t LOWEST = 1 << 24;               // of the range
constexpr uint32_t LARGEST_NUMBER = (1 << 25) - 1; // that has a bucket

// How often each bucket occurred in a context.
struct Counts {
    uint32_t of[BUCKETS], total;

    Counts() : total(BUCKETS) { std::fill_n(of, BUCKETS, 1); }
    void learn(int bucket) {
        of[bucket] += MORE;
        total += MORE;
        if (total < MOST) return;
        total = 0;
        for (uint32_t &count : of) total += count = (count + 1) >> 1;
    }
};

class RangeEncoder {
public:
    RangeEncoder(uint8_t *out, size_t room) : out_(out), room_(room) {}

    // 0 <= size <= LARGEST_NUMBER
    void size(Counts &counts, uint32_t size) {
        int bucket = int(size), left = 0;
        if (size >= 4) {
            int e = std::bit_width(size) - 1;
            bucket = 2 * e + ((size >> (e - 1)) & 1);
            left = e - 1;
        }
        uint32_t below = 0;
        for (int b = 0; b < bucket; ++b) below += counts.of[b];
        put(below, counts.of[bucket], counts.total);
        counts.learn(bucket);
        plain(size, left);
    }
    void signed_(Counts &counts, int value) {
        size(counts, uint32_t(std::abs(value)));
        if (value) plain(value < 0, 1);
    }
    void plain(uint32_t value, int bits) {
        while (bits > 12) {
            bits -= 12;
            put((value >> bits) & 4095, 1, 4096);
        }
        if (bits) put(value & ((1u << bits) - 1), 1, 1u << bits);
    }
    // The number in the range with the most zeros at its end, which are left out; returns bytes written,
    // or more than there is room for, in which case nothing is complete.
    size_t end() {
        uint64_t high = low_ + range_ - 1;
        for (int bits = 32; bits >= 0; --bits) {
            uint64_t mark = high >> bits << bits;
            if (mark < low_) continue;
            low_ = mark;
            break;
        }
        for (int i = 0; i < 5; ++i) push();
        size_t used = used_ - 1;
        while (used && used <= room_ && !out_[used - 1]) --used;
        return used;
    }

private:
    void put(uint32_t below, uint32_t share, uint32_t total) {
        uint32_t part = range_ / total;
        low_ += uint64_t(part) * below;
        range_ = part * share;
        while (range_ < LOWEST) {
            range_ <<= 8;
            push();
        }
    }
    // One byte out. A byte waits while a carry may still come, and with it those of 255 behind it.
    void push() {
        if (low_ < 0xFF000000 || low_ >> 32) {
            uint64_t carry = low_ >> 32, byte = waiting_;
            for (; many_; --many_, byte = 255) {
                if (used_ && used_ <= room_) out_[used_ - 1] = uint8_t(byte + carry);
                ++used_; // the very first byte is always 0 and left out
            }
            waiting_ = (low_ >> 24) & 255;
        }
        ++many_;
        low_ = (low_ & 0x00FFFFFF) << 8;
    }

    uint64_t low_ = 0, waiting_ = 0, many_ = 1, used_ = 0;
    uint32_t range_ = 0xFFFFFFFF;
    uint8_t *out_;
    size_t room_;
};

// Reads no byte behind the last: zeros stand there. Any bytes decode to some numbers.
class RangeDecoder {
public:
    RangeDecoder(const uint8_t *data, size_t size) : at_(data), end_(data + size) {
        for (int i = 0; i < 4; ++i) code_ = code_ << 8 | next();
    }
    uint32_t size(Counts &counts) {
        uint32_t part = range_ / counts.total;
        uint32_t below = 0, bucket = 0, code = inside();
        while (bucket < BUCKETS - 1 && part * (below + counts.of[bucket]) <= code)
            below += counts.of[bucket++];
        code_ -= part * below;
        range_ = part * counts.of[bucket];
        pull();
        counts.learn(int(bucket));
        if (bucket < 4) return bucket;
        int e = int(bucket >> 1);
        return (2 | (bucket & 1)) << (e - 1) | plain(e - 1);
    }
    int signed_(Counts &counts) {
        int value = int(size(counts));
        return value && plain(1) ? -value : value;
    }
    uint32_t plain(int bits) {
        uint32_t value = 0;
        while (bits) {
            int some = std::min(bits, 12);
            uint32_t part = range_ >> some;
            uint32_t found = std::min(inside() / part, (1u << some) - 1);
            code_ -= found * part;
            range_ = part;
            pull();
            value = value << some | found;
            bits -= some;
        }
        return value;
    }

private:
    // A writer's code is below the range; one of noise may be above all of them.
    uint32_t inside() const { return uint32_t(std::min<uint64_t>(code_, 0xFFFFFFFF)); }
    uint32_t next() { return at_ < end_ ? *at_++ : 0; }
    void pull() {
        while (range_ < LOWEST) {
            code_ = code_ << 8 | next();
            range_ <<= 8;
        }
    }

    uint64_t code_ = 0;
    uint32_t range_ = 0xFFFFFFFF;
    const uint8_t *at_, *end_;
};
