// Loops of taskstore/kernels/mixed/matrix.py: one matrix of several tasks, each row multiplied by its own task's.
#include <memory>
#include <string_view>

#include "arrays.hpp"
#include "mixed_products.hpp"
#include "rows.hpp"
#include "threads.hpp"

namespace LOOPS_MODULE { // one Matrix a level: types of one name would be one type to nanobind

using namespace mixed;

constexpr int64_t SHARE = 16; // rows of weights that a thread takes at a time
constexpr int64_t FEW = 4;    // rows of one task from which on its weights are built first
constexpr int64_t MANY = 8;   // the same of slabs

struct Groups { // rows order[ends[g - 1]] to order[ends[g]] are those of tasks[g]
    const int32_t *order, *ends, *tasks;
    int64_t count, total;
};

class Matrix {
  public:
    Matrix(int64_t rows, int64_t columns, int item) : rows_(rows), columns_(columns), item_(item) {
        require(rows > 0 && columns > 0, "a matrix is empty");
    }

    // Rows below those that are there; W0 and D, of which D may be empty. In slabs: all rows at once.
    template <class U> int64_t segment(In<U> w0_N, In<U> d_N, bool slabs) {
        int64_t n = length(w0_N), first = segments_.empty() ? 0 : segments_.back().first + segments_.back().rows;
        require(sizeof(U) == static_cast<size_t>(item_), "weights are not of the matrix's dtype");
        require(n && n % columns_ == 0 && first + n / columns_ <= rows_, "a segment is not of whole rows");
        require(!length(d_N) || length(d_N) == n, "W0 and D differ in size");
        require(!slabs || (n == rows_ * columns_ && rows_ % 16 == 0 && columns_ % 32 == 0 && item_ == 2),
                "slabs are of matrices of 16 bits, of 16 rows and 32 columns or multiples");
        segments_.push_back({first, n / columns_, data(w0_N), length(d_N) ? data(d_N) : nullptr, slabs, {}});
        keep(-1, w0_N, d_N);
        return static_cast<int64_t>(segments_.size()) - 1;
    }

    void mask(int64_t segment, int32_t task, In<uint8_t> bits_P) {
        Segment &mine = at(segment);
        require(mine.d && length(bits_P) == (mine.rows * columns_ + 7) / 8, "a mask is not of the segment's size");
        mine.ways[task].mask = data(bits_P);
        keep(task, bits_P);
    }

    // The next chunk of a task's rest; all but the last have the size of the first.
    void rest(int64_t segment, int32_t task, int64_t n, In<uint8_t> symbols, In2<float> table_256K, In<float> steps_R,
              int64_t columns, int64_t first, In<uint32_t> where_E, In<float> points_E, Factor left_RM,
              Factor right_RN, In<uint8_t> shifts_R, In<float> scales_M) {
        Segment &mine = at(segment);
        require(!mine.slabs, "a rest is of rows, not of slabs");
        Way &way = mine.ways[task];
        int64_t packed = length(table_256K, 1), before = way.chunk * static_cast<int64_t>(way.chunks.size());
        require(n > 0 && columns > 0 && first >= 0 && first < columns, "a chunk is empty");
        require(way.chunks.empty() || way.chunks.back().n == way.chunk, "a chunk follows a shorter one");
        require(before + n <= mine.rows * columns_ && (way.chunks.empty() || n <= way.chunk), "a chunk is too large");
        require(length(table_256K) == 256 && packed >= 1 && packed <= 4, "a table is not one of bytes");
        require(length(symbols) * packed >= n, "a chunk lacks symbols");
        Rows(columns, first, n, length(steps_R));
        require(length(where_E) == length(points_E), "escapes differ in number");
        for (int64_t e = 0; e < length(where_E); ++e)
            require(where_E.data()[e] < n && (!e || where_E.data()[e - 1] < where_E.data()[e]), "escapes are out of order");
        auto part = std::make_shared<LowRank>(left_RM, right_RN, shifts_R, scales_M);
        require(part->empty() || (length(right_RN, 1) == columns && static_cast<uint64_t>(first + n) <= part->size()),
                "a low-rank part is not of the chunk's size");
        std::vector<float> table(256 * (packed == 3 ? 4 : packed));
        for (int64_t b = 0; b < 256; ++b)
            std::copy_n(table_256K.data() + packed * b, packed, table.data() + table.size() / 256 * b);
        if (way.chunks.empty()) way.chunk = n;
        way.chunks.push_back({data(symbols), std::move(table), data(steps_R), data(points_E), data(where_E), n, packed,
                              columns, first, length(where_E), std::move(part)});
        keep(task, symbols, steps_R, where_E, points_E, scales_M);
    }

    void drop(int32_t task) {
        for (Segment &segment : segments_) segment.ways.erase(task);
        kept_.erase(task);
    }

    // Rows of the matrix, each as its task has it; negative tasks are the base.
    template <class U> void take(const char *dtype, In<int64_t> which_M, In<int32_t> tasks_M, Out2<U> out_MN) {
        whole();
        int64_t count = length(which_M);
        require(length(tasks_M) == count && length(out_MN) == count && length(out_MN, 1) == columns_, "rows differ in number");
        for (int64_t i = 0; i < count; ++i)
            require(which_M.data()[i] >= 0 && which_M.data()[i] < rows_, "a row is not one of the matrix");
        by_type<U>(dtype, [&](auto type) {
            std::vector<float> v(columns_ + 3);
            for (int64_t i = 0; i < count; ++i) {
                const Segment &mine = holding(which_M.data()[i]);
                U *out = out_MN.data() + i * columns_;
                const U *found = rows_of(type, mine, way(mine, tasks_M.data()[i]), which_M.data()[i] - mine.first, 1, columns_, out, v.data());
                if (found != out) std::copy(found, found + columns_, out);
            }
        });
    }

    // y = x W_t^T + bias_t: row order[i] belongs to the group in which i is.
    template <class U>
    void multiply(const char *dtype, In2<U> x_MN, In<int32_t> order_M, In<int32_t> ends_G, In<int32_t> tasks_G,
                  In2<float> bias_GR, Out2<U> y_MR, int threads) {
        whole();
        Groups groups{data(order_M), data(ends_G), data(tasks_G), length(ends_G), length(order_M)};
        int64_t m = length(x_MN);
        require(length(x_MN, 1) == columns_ && length(y_MR) == m && length(y_MR, 1) == rows_, "activations differ in size");
        require(length(tasks_G) == groups.count && (groups.count ? groups.ends[groups.count - 1] == groups.total : !groups.total),
                "groups do not hold all rows");
        for (int64_t g = 0; g < groups.count; ++g)
            require(groups.ends[g] >= (g ? groups.ends[g - 1] : 0), "groups are out of order");
        for (int64_t i = 0; i < groups.total; ++i)
            require(groups.order[i] >= 0 && groups.order[i] < m, "a group names a row that is not there");
        require(!length(bias_GR) || (length(bias_GR) == groups.count && length(bias_GR, 1) == rows_), "a bias is not of the matrix's size");
        const float *bias = length(bias_GR) ? data(bias_GR) : nullptr;
        by_type<U>(dtype, [&](auto type) { run(type, data(x_MN), m, groups, bias, data(y_MR), threads); });
    }

  private:
    int64_t rows_, columns_;
    int item_;
    std::vector<Segment> segments_;
    std::unordered_map<int32_t, std::vector<nb::object>> kept_;

    template <class... A> void keep(int32_t task, const A &...arrays) {
        nb::gil_scoped_acquire acquired;
        (kept_[task].push_back(nb::cast(arrays)), ...);
    }

    Segment &at(int64_t segment) {
        require(segment >= 0 && segment < static_cast<int64_t>(segments_.size()), "there is no such segment");
        return segments_[segment];
    }

    void whole() const {
        require(!segments_.empty() && segments_.back().first + segments_.back().rows == rows_, "a matrix lacks rows");
        for (const Segment &segment : segments_)
            for (const auto &[task, way] : segment.ways)
                require(!way.chunk || way.chunk * (static_cast<int64_t>(way.chunks.size()) - 1) + way.chunks.back().n ==
                        segment.rows * columns_, "a rest lacks chunks");
    }

    const Segment &holding(int64_t row) const {
        auto after = std::upper_bound(segments_.begin(), segments_.end(), row, [](int64_t r, const Segment &s) { return r < s.first; });
        return *--after;
    }

    static const Way *way(const Segment &segment, int32_t task) {
        auto found = segment.ways.find(task);
        return found == segment.ways.end() ? nullptr : &found->second;
    }

    static bool named(const char *dtype, std::string_view name) { return dtype == name; }

    template <class U, class Work> static void by_type(const char *dtype, const Work &work) {
        if constexpr (sizeof(U) == 4) require(named(dtype, "F32"), "weights are not of that dtype"), work(F32());
        else if (named(dtype, "BF16")) work(Bf16());
        else require(named(dtype, "F16"), "weights are not of that dtype"), work(F16());
    }

    // What all threads of one product read.
    template <class T> struct Job {
        using U = typename T::Bits;
        const U *x;
        const float *wide; // x in float32, where products are of that
        const Groups &groups;
        const float *bias;
        U *y;
        int64_t rows;

        void store(int64_t i, int64_t g, int64_t row, float sum) const {
            y[groups.order[i] * rows + row] = stored(T(), sum + (bias ? bias[g * rows + row] : 0.0f));
        }
    };
    struct Column { // a row of activations of a task with few of them
        int64_t i, group;
        const uint8_t *mask;
    };

    template <class T, class U = typename T::Bits>
    void run(T type, const U *x, int64_t m, const Groups &groups, const float *bias, U *y, int threads) const {
        std::vector<float> wide;
        if (!(std::is_same_v<T, Bf16> && has_pairs())) {
            wide.resize(m * columns_);
            for (size_t i = 0; i < wide.size(); ++i) wide[i] = value(type, x[i]);
        }
        Job<T> job{x, wide.data(), groups, bias, y, rows_};
        for (const Segment &segment : segments_) {
            if constexpr (std::is_same_v<T, Bf16> && PAIRS)
                if (segment.slabs && wide.empty()) {
                    share((rows_ + SLAB - 1) / SLAB, 1, threads, [&](int64_t first, int64_t last) {
                        for (int64_t slab = first; slab < last; ++slab) multiply_slab(job, segment, slab * SLAB);
                    });
                    continue;
                }
            std::vector<Column> few;
            std::vector<int64_t> many;
            for (int64_t g = 0, begin = 0; g < groups.count; begin = groups.ends[g++]) {
                const Way *how = way(segment, groups.tasks[g]);
                bool chosen = wide.empty() && columns_ % 32 == 0 && segment.d && !segment.slabs && !(how && how->chunk);
                if (chosen && groups.ends[g] - begin < FEW)
                    for (int64_t i = begin; i < groups.ends[g]; ++i) few.push_back({i, g, how ? how->mask : nullptr});
                else if (begin < groups.ends[g]) many.push_back(g);
            }
            share(segment.rows, SHARE, threads, [&](int64_t first, int64_t last) {
                if constexpr (std::is_same_v<T, Bf16>) choose(job, segment, few, first, last);
                build(type, job, segment, many, first, last);
            });
        }
    }

    // Tasks with few rows: weights are chosen in registers, W0 and D read once for all of them.
    void choose(const Job<Bf16> &job, const Segment &segment, const std::vector<Column> &few, int64_t first, int64_t last) const {
        constexpr int R = 2;
        std::vector<uint8_t> none(few.empty() ? 0 : columns_ / 8);
        const uint16_t *w0 = static_cast<const uint16_t *>(segment.w0), *d0 = static_cast<const uint16_t *>(segment.d);
        for (int64_t row = first; row < last; row += R)
            for (size_t at = 0; at < few.size(); at += COLUMNS) {
                int some = static_cast<int>(std::min<size_t>(COLUMNS, few.size() - at));
                const uint16_t *w[R], *d[R], *x[COLUMNS];
                const uint8_t *masks[R][COLUMNS];
                float sums[R][COLUMNS];
                for (int r = 0; r < R; ++r) {
                    int64_t begin = std::min(row + r, last - 1) * columns_;
                    w[r] = w0 + begin, d[r] = d0 + begin;
                    for (int c = 0; c < COLUMNS; ++c) {
                        const Column &column = few[at + std::min(c, some - 1)];
                        masks[r][c] = column.mask ? column.mask + begin / 8 : none.data();
                        x[c] = job.x + job.groups.order[column.i] * columns_;
                    }
                }
                if (some == 1) chosen_products<R, 1>(w, d, masks, x, columns_, sums);
                else if (some <= 3) chosen_products<R, std::min(3, COLUMNS)>(w, d, masks, x, columns_, sums);
                else chosen_products<R, COLUMNS>(w, d, masks, x, columns_, sums);
                for (int c = 0; c < some; ++c)
                    for (int r = 0; r < R && row + r < last; ++r)
                        job.store(few[at + c].i, few[at + c].group, segment.first + row + r, sums[r][c]);
            }
    }

#if defined(__AVX512BW__)
    // Rows `row` on: for tasks with few rows weights are chosen in registers, for others the slab is built.
    void multiply_slab(const Job<Bf16> &job, const Segment &segment, int64_t row) const {
        int64_t size = std::min(SLAB, rows_ - row), begin = row * columns_, weights = size * columns_;
        const uint16_t *w0 = static_cast<const uint16_t *>(segment.w0) + begin;
        const uint16_t *d = segment.d ? static_cast<const uint16_t *>(segment.d) + begin : nullptr;
        std::vector<uint8_t> none(weights / 8);
        std::vector<uint16_t> room;
        std::vector<Column> few, plain;
        const Groups &groups = job.groups;
        for (int64_t g = 0, from = 0; g < groups.count; from = groups.ends[g++]) {
            const Way *how = way(segment, groups.tasks[g]);
            const uint8_t *mask = how && how->mask ? how->mask + begin / 8 : nullptr;
            bool build = mask && groups.ends[g] - from >= MANY;
            std::vector<Column> mine;
            for (int64_t i = from; i < groups.ends[g]; ++i)
                (build ? mine : d ? few : plain).push_back({i, g, mask ? mask : none.data()});
            if (mine.empty()) continue;
            room.resize(weights);
            select(w0, d, mask, 0, weights, room.data());
            multiply_columns<false>(job, room.data(), d, mine, row, size);
        }
        multiply_columns<true>(job, w0, d, few, row, size);
        multiply_columns<false>(job, w0, d, plain, row, size);
    }

    template <bool CHOSEN>
    void multiply_columns(const Job<Bf16> &job, const uint16_t *w, const uint16_t *d, const std::vector<Column> &columns,
                          int64_t row, int64_t size) const {
        constexpr int MOST = CHOSEN ? FEWER : MORE;
        for (size_t at = 0; at < columns.size(); at += MOST) {
            int some = static_cast<int>(std::min<size_t>(MOST, columns.size() - at));
            const uint8_t *masks[MOST];
            const uint16_t *x[MOST];
            __m512 sums[MOST][2];
            for (int c = 0; c < MOST; ++c) {
                const Column &column = columns[at + std::min(c, some - 1)];
                masks[c] = column.mask, x[c] = job.x + job.groups.order[column.i] * columns_;
            }
            auto multiply = [&]<int C>(std::integral_constant<int, C>) {
                if (size == SLAB) slab_products<2, C, CHOSEN>(w, d, masks, x, columns_, sums);
                else slab_products<1, C, CHOSEN>(w, d, masks, x, columns_, sums);
            };
            if (some == 1) multiply(std::integral_constant<int, 1>());
            else if (some == 2) multiply(std::integral_constant<int, 2>());
            else if (some <= 4) multiply(std::integral_constant<int, 4>());
            else if (some <= 6) multiply(std::integral_constant<int, 6>());
            else if (some <= 8) multiply(std::integral_constant<int, 8>());
            else multiply(std::integral_constant<int, MOST>());
            for (int c = 0; c < some; ++c)
                for (int64_t half = 0; 16 * half < size; ++half) {
                    const Column &column = columns[at + c];
                    int64_t first = row + 16 * half;
                    store_sums(sums[c][half], job.bias ? job.bias + column.group * rows_ + first : nullptr,
                               job.y + job.groups.order[column.i] * rows_ + first);
                }
        }
    }
    static constexpr bool PAIRS = true;
#else
    void multiply_slab(const Job<Bf16> &, const Segment &, int64_t) const {}
    static constexpr bool PAIRS = false;
#endif

    // The others: a few rows of a task's weights are built, then multiplied by all of its activations.
    template <class T>
    void build(T type, const Job<T> &job, const Segment &segment, const std::vector<int64_t> &many, int64_t first, int64_t last) const {
        using U = typename T::Bits;
        std::vector<U> room(many.empty() ? 0 : ROWS * columns_);
        std::vector<float> v(many.empty() ? 0 : ROWS * columns_ + 3);
        const Groups &groups = job.groups;
        for (int64_t row = first; row < last; row += ROWS)
            for (int64_t g : many) {
                int count = static_cast<int>(std::min<int64_t>(ROWS, last - row));
                const U *w[ROWS], *found = rows_of(type, segment, way(segment, groups.tasks[g]), row, count, columns_,
                                                   room.data(), v.data());
                for (int r = 0; r < ROWS; ++r) w[r] = found + (r < count ? r : 0) * columns_;
                for (int64_t i = g ? groups.ends[g - 1] : 0; i < groups.ends[g]; i += COLUMNS) {
                    int some = static_cast<int>(std::min<int64_t>(COLUMNS, groups.ends[g] - i));
                    float sums[ROWS][COLUMNS];
                    multiply_tile(type, job, w, groups.order + i, some, sums);
                    for (int c = 0; c < some; ++c)
                        for (int r = 0; r < count; ++r) job.store(i + c, g, segment.first + row + r, sums[r][c]);
                }
            }
    }

    template <class T, class U = typename T::Bits>
    void multiply_tile(T type, const Job<T> &job, const U *const *w, const int32_t *order, int some, float (*sums)[COLUMNS]) const {
        auto by_count = [&]<class X>(const X *all, auto multiply) {
            const X *x[COLUMNS];
            for (int c = 0; c < COLUMNS; ++c) x[c] = all + order[std::min(c, some - 1)] * columns_;
            if (some == 1) multiply(std::integral_constant<int, 1>(), x);
            else if (some == 2) multiply(std::integral_constant<int, std::min(2, COLUMNS)>(), x);
            else multiply(std::integral_constant<int, COLUMNS>(), x);
        };
        if constexpr (std::is_same_v<T, Bf16>)
            if (!job.wide) return by_count(job.x, [&](auto C, const U *const *x) { pair_products<ROWS, C>(w, x, columns_, sums); });
        by_count(job.wide, [&](auto C, const float *const *x) { products<T, ROWS, C>(type, w, x, columns_, sums); });
    }

    static uint32_t stored(F32, float v) { return bits(v); }
    static uint16_t stored(F16, float v) { return std::bit_cast<uint16_t>(static_cast<_Float16>(v)); }
    static uint16_t stored(Bf16, float v) { return v != v ? 0x7FC0 : rounded(bits(v)); }
};

} // namespace LOOPS_MODULE

void add_mixed(nb::module_ &m) {
    using LOOPS_MODULE::Matrix;
    nb::class_<Matrix>(m, "Matrix")
        .def(nb::init<int64_t, int64_t, int>(), nb::arg("rows"), nb::arg("columns"), nb::arg("item"))
        .def("segment", &Matrix::segment<uint16_t>, nb::arg().noconvert(), nb::arg().noconvert(), nb::arg())
        .def("segment", &Matrix::segment<uint32_t>, nb::arg().noconvert(), nb::arg().noconvert(), nb::arg())
        .def("mask", &Matrix::mask)
        .def("rest", &Matrix::rest)
        .def("drop", &Matrix::drop)
        .def("take", &Matrix::take<uint16_t>, nb::call_guard<nb::gil_scoped_release>())
        .def("take", &Matrix::take<uint32_t>, nb::call_guard<nb::gil_scoped_release>())
        .def("multiply", &Matrix::multiply<uint16_t>, nb::call_guard<nb::gil_scoped_release>())
        .def("multiply", &Matrix::multiply<uint32_t>, nb::call_guard<nb::gil_scoped_release>());
}
