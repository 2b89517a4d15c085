// Column sums: the terms that a map gives for each column, summed over groups (dweight and dbias).
#pragma once

#include "cuda/reduce_map.cuh"

namespace gradfuse::cuda {
inline namespace GRADFUSE_ISA {

constexpr std::int64_t most_slots = 256;

// For rows of vectors: computes the dx of a slot of rows, and the slot's column sums. Short rows, less than a vector
// for each lane of a warp, are in registers, and the sums too.
template <class F, class S, class Stages>
struct SlotsOfShortRows : Loop<F, S, Stages, Schedule<256, 4, 1, Layout::rows, Kept::in_registers>, true> {
    using Base = Loop<F, S, Stages, Schedule<256, 4, 1, Layout::rows, Kept::in_registers>, true>;
    using T = typename F::T;
    static constexpr int V = Base::V, K = Base::K, blocks_per_multiprocessor = 3;

    int rows_per_slot, slots;
    T* sums;  // [sum][slot][column]

    explicit SlotsOfShortRows(const Call<F, S, Stages>& call)
        : Base(call, group_width(call.groups.length / V, K)), rows_per_slot(0), slots(0), sums(nullptr) {}

    std::int64_t most() const { return most_slots * this->groups_of_block(); }
    std::int64_t blocks() const { return blocks_for(slots, this->groups_of_block()); }

    GRADFUSE_DEVICE void operator()() const {
        T total[F::column_sums][K][V] = {};
        for (int r = 0; r < rows_per_slot; ++r) {
            const std::int64_t row = std::int64_t(slot()) * rows_per_slot + r;
            this->run_in_registers(this->share(row), [&](int k, int j, const auto& values) {
#pragma unroll
                for (int m = 0; m < F::column_sums; ++m) total[m][k][j] += values.v[1 + m];
            });
            __syncthreads();  // before the next records are exchanged
        }
        if (slot() < slots) store(total);
    }

private:
    GRADFUSE_DEVICE int slot() const { return int(blockIdx.x) * this->groups_of_block() + this->own_group(); }
    GRADFUSE_DEVICE void store(const T (&total)[F::column_sums][K][V]) const {
        this->for_vectors(this->share(0), 0, [&](int k, int, const auto& at) {
#pragma unroll
            for (int m = 0; m < F::column_sums; ++m) {
                const std::int64_t first = (std::int64_t(m) * slots + slot()) * this->groups.length;
                View<T>(sums, true).store(first + at.position, V, true, total[m][k]);
            }
        });
    }
};

// Longer rows are in shared memory, and the sums too. A block has a slot; it copies the next row while it works on one,
// if there is room for both.
template <class F, class S, class Stages>
struct SlotsOfRows : Loop<F, S, Stages, Schedule<512, per_access<S>, 1, Layout::rows, Kept::in_shared_memory>, true> {
    using Base = Loop<F, S, Stages, Schedule<512, per_access<S>, 1, Layout::rows, Kept::in_shared_memory>, true>;
    using T = typename F::T;
    using Share = typename Base::Share;
    using Part = Access<T, 4>;  // of a vector
    static constexpr int V = Base::V, parts = V / 4, blocks_per_multiprocessor = 2;

    int rows_per_slot, slots, buffers;
    T* sums;  // [sum][slot][column]

    SlotsOfRows(const Call<F, S, Stages>& call, int buffers)
        : Base(call, width_for(call.groups.length / V)), rows_per_slot(0), slots(0), buffers(buffers), sums(nullptr) {}

    std::int64_t most() const { return most_slots * Base::threads / this->width_; }
    std::int64_t blocks() const { return slots; }
    std::int64_t copy_bytes() const { return F::inputs * this->block_vectors_ * std::int64_t(16); }
    std::int64_t shared_bytes() const {
        return this->record_bytes() + buffers * copy_bytes() +
               F::column_sums * this->block_vectors_ * V * std::int64_t(sizeof(T));
    }

    GRADFUSE_DEVICE void operator()() const {
        const std::int64_t first = std::int64_t(blockIdx.x) * rows_per_slot, left = this->groups.count - first;
        const int rows = int(left < rows_per_slot ? left : rows_per_slot);
        const bool ahead = buffers > 1;
        Share s = this->share(first);
        clear(s);
        if (ahead) copy(s);
        for (int r = 1; r <= rows; ++r) {
            Share next = this->share(r < rows ? first + r : this->groups.count);
            if (ahead) {
                next.buffer = 1 - s.buffer;
                copy(next);
                wait_for_copies(1);
            } else {
                copy(s);
                wait_for_copies(0);
            }
            take_row(s);
            s = next;
            __syncthreads();  // before the next records are exchanged
        }
        store(this->share(first));
    }

private:
    static int width_for(std::int64_t vectors) {
        const int width = group_width(vectors, 2);
        return width < warp_size ? warp_size : width < Base::threads ? width : Base::threads;
    }
    GRADFUSE_DEVICE Part* sum(int m, int part, int v) const {
        auto* const all =
            shared_memory<char>() + this->record_bytes() + buffers * F::inputs * int(this->block_vectors_) * 16;
        auto* const at = reinterpret_cast<Part*>(all) + (m * parts + part) * int(this->block_vectors_) + v;
        count_banks(at, 16);
        return at;
    }
    GRADFUSE_DEVICE void clear(const Share& s) const {
        for (int v = s.lane; v < s.vectors; v += this->width()) {
            for (int i = 0; i < F::column_sums * parts; ++i) *sum(i / parts, i % parts, v) = {};
        }
    }
    GRADFUSE_DEVICE void copy(const Share& s) const {
#pragma unroll 1
        for (int v = s.lane; v < s.vectors; v += this->width()) {
#pragma unroll
            for (int i = 0; i < F::inputs; ++i) {
                start_copy(this->copy_of(s, i, v), this->in[i] + this->resident_position(s, v).start);
            }
        }
        end_group_of_copies();
    }
    GRADFUSE_DEVICE void take_row(const Share& s) const {
        const auto& stages = this->stages.of_group(s.group, s.columns);
        const auto for_row = [&](const auto& each) { this->for_resident(s, 0, s.vectors, stages, false, false, each); };
        const auto part =
            this->reduce(s, this->elements_of_part(s), warp_size, this->numbers(s.group), for_row, for_row);
        const auto whole = this->exchange(part.record, this->present(s));
        const auto constants = this->f.constants(whole, part.local, this->numbers(s.group), 0);
        this->for_resident(s, 0, s.vectors, stages, false, true, [&](int, int v, const auto& at, const auto& x) {
            T terms[F::column_sums][V];
            this->map_vector(s, at, v, part.local, constants, stages, x, [&](int j, const auto& values) {
#pragma unroll
                for (int m = 0; m < F::column_sums; ++m) terms[m][j] = values.v[1 + m];
            });
#pragma unroll
            for (int i = 0; i < F::column_sums * parts; ++i) {
                Part* const to = sum(i / parts, i % parts, v);
                Part total = *to;
#pragma unroll
                for (int j = 0; j < 4; ++j) total.element[j] += terms[i / parts][i % parts * 4 + j];
                *to = total;
            }
        });
    }
    GRADFUSE_DEVICE void store(const Share& s) const {
        for (int v = s.lane; v < s.vectors; v += this->width()) {
            for (int i = 0; i < F::column_sums * parts; ++i) {
                const std::int64_t slot = std::int64_t(i / parts) * slots + blockIdx.x;
                auto* const to = sums + slot * this->groups.length + v * V + i % parts * 4;
                *reinterpret_cast<Part*>(to) = *sum(i / parts, i % parts, v);
            }
        }
    }
};

// Column sums of any groups. Each term is computed again from the numbers of its group. Lanes take neighboring columns;
// if neighboring elements belong to the same column, a block takes one column.
template <class F, class S, class Stages>
struct SumsOfColumns : Kernel, Call<F, S, Stages> {
    using T = typename F::T;
    using E = Element<F, true>;
    using At = Positions<1, Layout::runs>;
    using Totals = Values<double, F::column_sums>;

    std::int64_t per_period, periods;
    Divider run;  // elements of a column in a group
    std::int64_t per_column;
    bool one_column;  // per block
    double* sums;     // [sum][slot][column]
    std::int64_t slots;

    SumsOfColumns(const Call<F, S, Stages>& call, const Grouping& g, bool per_run, std::int64_t periods)
        : Call<F, S, Stages>(call),
          per_period(per_run ? g.runs : g.length()),
          periods(periods),
          run(per_run ? g.run : 1, g.count() / periods * g.run),
          per_column(g.count() / periods * run.divisor),
          one_column(per_run || g.across()) {
        const std::int64_t wanted = per_column / (one_column ? threads * 32 : warp_size * 16) + 1;
        slots = wanted < most_slots ? wanted : most_slots;
        sums = allocate_array<double>(F::column_sums * slots * columns_count());
    }

    GRADFUSE_HD std::int64_t columns_count() const { return per_period * periods; }
    std::int64_t blocks() const {
        return slots * (one_column ? columns_count() : (columns_count() + warp_size - 1) / warp_size);
    }
    static std::int64_t shared_bytes() { return threads * std::int64_t(sizeof(Totals)); }

    GRADFUSE_DEVICE void operator()() const {
        const std::int64_t tile = std::int64_t(blockIdx.x) / slots, slot = std::int64_t(blockIdx.x) % slots;
        const std::int64_t column = one_column ? tile : tile * warp_size + int(threadIdx.x) % warp_size;
        const std::int64_t per_slot = (per_column + slots - 1) / slots, begin = slot * per_slot;
        const std::int64_t end = begin + per_slot < per_column ? begin + per_slot : per_column;
        const int step = one_column ? threads : threads / warp_size;
        Totals total{};
        if (column < columns_count()) {
            const std::int64_t period = column / per_period, of_period = column - period * per_period;
            for (std::int64_t e = begin + int(threadIdx.x) / (threads / step); e < end; e += step) {
                std::int64_t sample = e;
                const std::int64_t in_run = run.split(sample);
                add(total, period + sample * periods, of_period * run.divisor + in_run, period * per_period);
            }
        }
        store(column, slot, total);
    }

private:
    // The terms of an element.
    GRADFUSE_DEVICE void add(Totals& total, std::int64_t g, std::int64_t position, std::int64_t columns_first) const {
        const std::int64_t first = this->groups.first(g);
        const At at(this->groups, first, position, 1, true);
        const auto& stages = this->stages.of_group(g, columns_first);
        Raw<S, 1> raw[F::inputs], extra;
        T x[F::inputs][1], w[F::columns + 1][1];
        for (int i = 0; i < F::inputs; ++i) at.load(this->in[i], raw[i]);
        stages.load(at, extra);
        for (int i = 0; i < F::inputs; ++i) widen(raw[i], x[i]);
        stages.before(at, x, extra, false);
        this->columns.read(columns_first, at, w);
        const auto group = this->numbers(g);
        const auto constants = this->f.constants(typename F::Record{}, this->f.local(T(0), 1, group, 0), group, 0);
        const auto terms = E::map(this->f, constants, 0, T(0), x, w, 0);
        for (int m = 0; m < F::column_sums; ++m) total.v[m] += double(terms.v[1 + m]);
    }
    GRADFUSE_DEVICE void store(std::int64_t column, std::int64_t slot, Totals total) const {
        const auto join = [](Totals& a, const Totals& b) {
            for (int m = 0; m < F::column_sums; ++m) a.v[m] += b.v[m];
        };
        void* const shared = shared_memory<void>();
        if (one_column) {
            total = block_reduce(total, shared, join, threads);
        } else {
            const SharedArray<Totals> all(shared, threads);
            all.set(int(threadIdx.x), total);
            __syncthreads();
            for (int t = int(threadIdx.x) + warp_size; t < threads; t += warp_size) join(total, all.get(t));
        }
        const bool writes = one_column ? threadIdx.x == 0 : threadIdx.x < warp_size && column < columns_count();
        if (!writes) return;
        for (int m = 0; m < F::column_sums; ++m) sums[(m * slots + slot) * columns_count() + column] = total.v[m];
    }
};

// to[m][column] = the sum of a column over the slots, in order; 32 columns per block.
template <class T, int N>
struct MergeSlots : Kernel {
    static constexpr int threads = 1024, warps = threads / warp_size;

    const T* sums;  // [N][slots][columns]
    std::int64_t slots, columns, tiles;
    DoubleView to[N];

    GRADFUSE_DEVICE void operator()() const {
        const int m = int(std::int64_t(blockIdx.x) / tiles), lane = int(threadIdx.x) % warp_size;
        const std::int64_t column = std::int64_t(blockIdx.x) % tiles * warp_size + lane;
        const SharedArray<double> all(shared_memory<void>(), threads);
        double sum = 0;
        for (std::int64_t s = int(threadIdx.x) / warp_size; s < slots && column < columns; s += warps) {
            sum += double(sums[(m * slots + s) * columns + column]);
        }
        all.set(int(threadIdx.x), sum);
        __syncthreads();
        if (threadIdx.x >= warp_size || column >= columns) return;
        for (int w = 1; w < warps; ++w) sum += all.get(w * warp_size + lane);
        to[m].set(column, sum);
    }
};

template <class T, int N>
void merge_slots(const T* sums, std::int64_t slots, std::int64_t columns, const Array* const* to) {
    MergeSlots<T, N> kernel{{}, sums, slots, columns, (columns + warp_size - 1) / warp_size, {}};
    for (int m = 0; m < N; ++m) kernel.to[m] = DoubleView(to[m]);
    launch(kernel, N * kernel.tiles, kernel.threads * std::int64_t(sizeof(double)));
}

template <class F, class Kernel>
void launch_slots(Kernel kernel, const Array* const* to) {
    const std::int64_t rows = kernel.groups.count, columns = kernel.groups.length, most = kernel.most();
    kernel.rows_per_slot = int((rows + most - 1) / most);
    kernel.slots = int((rows + kernel.rows_per_slot - 1) / kernel.rows_per_slot);
    kernel.sums = allocate_array<typename F::T>(F::column_sums * kernel.slots * columns);
    launch(kernel, kernel.blocks(), kernel.shared_bytes(), kernel.threads_of_block());
    merge_slots<typename F::T, F::column_sums>(kernel.sums, kernel.slots, columns, to);
}

// False if a row does not fit in the shared memory of a block.
template <class F, class S, class Stages>
bool slots_of_rows(const Call<F, S, Stages>& call, const Array* const* to) {
    if (call.groups.length < warp_size * per_access<S>) {
        launch_slots<F>(SlotsOfShortRows<F, S, Stages>(call), to);
        return true;
    }
    for (int buffers = 2; buffers > 0; --buffers) {
        const SlotsOfRows<F, S, Stages> kernel(call, buffers);
        if (kernel.shared_bytes() > most_shared_bytes()) continue;
        launch_slots<F>(kernel, to);
        return true;
    }
    return false;
}

template <class F, class S, class Stages>
void sums_of_columns(const Call<F, S, Stages>& call, const Grouping& g, const ReduceMapArrays& a) {
    const SumsOfColumns<F, S, Stages> kernel(call, g, a.column_per_run, a.periods);
    launch(kernel, kernel.blocks(), kernel.shared_bytes());
    merge_slots<double, F::column_sums>(kernel.sums, kernel.slots, kernel.columns_count(), a.column_sum);
}

// reduce_map for a declaration with column sums. SumsOfColumns runs before the map, because `out` may be an input.
template <class S, class F, class Plain, class All>
void reduce_map_and_columns(const F& f, const Grouping& g, const ReduceMapArrays& a,
                            const Columns<S, F::columns>& columns, const Plain* plain, const All& all) {
    const bool wanted = a.column_sum[0] || a.column_sum[1];
    if (!wanted) return reduce_map<true, true, S>(f, g, a, columns, plain, all);
    const Call<F, S, All> call(f, g, a, all, columns);
    if constexpr (has_vectors<S>) {
        const bool rows = plain && call.wide && call.groups.one_run && columns.whole(per_access<S>) &&
                          !a.column_per_run && a.periods == 1;
        if (rows && g.count() > 0) {
            if (slots_of_rows(Call<F, S, Plain>(f, g, a, *plain, columns), a.column_sum)) return;
        }
    }
    sums_of_columns(call, g, a);
    reduce_map<true, true, S>(f, g, a, columns, plain, all);
}

}  // namespace GRADFUSE_ISA
}  // namespace gradfuse::cuda
