// The loop for "reduce, then map": the threads of a group read its elements, reduce them, exchange one record and map
// the elements. core/reduce_map.h says what a declaration is.
//
// A part of a group is the elements that one warp reads. They stay in registers, or in the shared memory of a block or
// of a cluster of blocks. If a group is too long for that, a part is what one thread reads at a time, and a second
// sweep, in reverse order, reads the elements again. If neighboring groups are side by side in memory, neighboring
// threads take neighboring groups. The schedule depends on the layout of a group's elements, their number and their
// type.
//
// Rules for fast code from nvcc: issue every load before the first one is unpacked; make loads conditional instead of
// clamping their addresses; use int for positions; write the numbers of a group last, when its registers are free.
#pragma once

#include "core/backend.h"
#include "core/list.h"
#include "cuda/groups.cuh"
#include "cuda/reduce.cuh"

namespace gradfuse::cuda {
inline namespace GRADFUSE_ISA {

// Threads on a multiprocessor: with 64 registers each, or with 128 if they compute in double.
template <class F>
struct Threads {
    static constexpr bool doubles = sizeof(typename F::T) == 8;
    static constexpr int most = doubles ? 512 : 1024;
    // Sums in double and columns leave fewer registers for elements.
    static constexpr bool little_room = F::columns > 0 || sizeof(typename F::Real) > sizeof(typename F::T);
    // Four doubles of a group need 80 registers.
    static constexpr bool least_room = members<typename F::Record, double> > 3 || F::group_outputs > 3;
    static constexpr int blocks(int threads) {
        return least_room && !doubles ? most * 3 / 4 / threads : most / threads;
    }
};

// Where the elements of a group are between the reduction and the map.
enum class Kept { in_registers, in_shared_memory, nowhere };

// How a kernel divides groups among the threads: K vectors of V elements each at a time.
template <int Threads_, int V_, int K_, Layout L, Kept Where>
struct Schedule {
    static constexpr int threads = Threads_, V = V_, K = K_;
    static constexpr Layout layout = L;
    static constexpr bool whole = L != Layout::any, tiled = L == Layout::side_by_side, streams = Where == Kept::nowhere,
                          in_registers = Where == Kept::in_registers, resident = Where == Kept::in_shared_memory;
};

// Stages are fused operations before the reduction and after the map; these do nothing. For each group: `load` loads
// with the inputs, `before` changes the inputs, `after` changes the output. `before` writes arrays only in the last
// sweep, because they may be inputs. All threads call `end` at the end of a block, which had this many groups.
struct NoStages {
    static constexpr int extra = 0;          // arrays that load reads
    static constexpr bool large = false;     // true if a thread should take one vector at a time: the code is large
    static constexpr bool calls = false;     // true if an activation is called: a thread needs more registers
    static constexpr bool replaces = false;  // what `before` leaves fits the storage type, and can replace the input
    bool wide() const { return true; }
    GRADFUSE_DEVICE NoStages of_group(std::int64_t, std::int64_t) const { return {}; }
    template <class At, class S>
    GRADFUSE_DEVICE void load(const At&, S&) const {}
    template <class At, class X, class S>
    GRADFUSE_DEVICE void before(const At&, X&, const S&, bool) const {}
    template <class At, class Y>
    GRADFUSE_DEVICE void after(const At&, Y&) const {}
    GRADFUSE_DEVICE void end(int) const {}
};

// Calls a declaration's functions with element j of each vector. There are columns only if Affine is true.
template <class F, bool Affine, class I = std::make_index_sequence<F::inputs>,
          class C = std::make_index_sequence<Affine ? F::columns : 0>>
struct Element;
template <class F, bool Affine, std::size_t... I, std::size_t... C>
struct Element<F, Affine, std::index_sequence<I...>, std::index_sequence<C...>> {
    using T = typename F::T;
    static constexpr int columns = sizeof...(C);

    template <int V>
    static GRADFUSE_DEVICE T first(const F& f, const T (&x)[F::inputs][V], int j) {
        return f.first(x[I][j]...);
    }
    template <class Local, int V>
    static GRADFUSE_DEVICE T keep(const F& f, const Local& local, const T (&x)[F::inputs][V], int j) {
        return f.keep(local, x[I][j]...);
    }
    template <class Sums, class Local, int V>
    static GRADFUSE_DEVICE void add(const F& f, Sums& sums, const Local& local, int position, T kept,
                                    const T (&x)[F::inputs][V], const T (&w)[columns + 1][V], int j) {
        if constexpr (F::adds_columns) {
            f.add(sums, local, position, kept, x[I][j]..., w[C][j]...);
        } else {
            f.add(sums, local, position, kept, x[I][j]...);
        }
    }
    template <class Constants, int V>
    static GRADFUSE_DEVICE auto map(const F& f, const Constants& c, int position, T kept, const T (&x)[F::inputs][V],
                                    const T (&w)[columns + 1][V], int j) {
        if constexpr (F::keeps) {
            return f.map(c, position, kept, w[C][j]...);
        } else {
            return f.map(c, position, x[I][j]..., w[C][j]...);
        }
    }
};

// The arguments of all kernels of a declaration.
template <class F, class S, class Stages>
struct Call {
    using T = typename F::T;
    static_assert(!Stages::replaces || F::inputs == 1);

    Call(const F& f, const Grouping& g, const ReduceMapArrays& a, const Stages& stages,
         const Columns<S, F::columns>& columns = {})
        : f(f), stages(stages), groups(g), columns(columns), out(static_cast<S*>(a.out ? a.out->data : nullptr)) {
        wide = groups.in_vectors(per_access<S>) && is_wide(out) && stages.wide();
        wide_across = groups.across_in_vectors(per_access<S>);
        for (int i = 0; i < F::inputs; ++i) {
            in[i] = static_cast<const S*>(a.in[i]->data);
            wide = wide && is_wide(in[i]);
            wide_across = wide_across && is_wide(in[i]);
        }
        for (int m = 0; m < numbers_in; ++m) group_in[m] = Numbers(a.group_in[m]);
        for (int m = 0; m < F::group_outputs; ++m) group_out[m] = DoubleView(a.group_out[m]);
    }

    // The element at the position given by the group's first number, 0 if there is none.
    GRADFUSE_DEVICE T pick(std::int64_t group) const {
        T picked = 0;
        if constexpr (F::picks) {
            const double position = group_in[0].get(group);
            if (exists(position)) {
                const std::int64_t at = groups.first(group) + groups.offset(std::int64_t(position));
                picked = Storage<S>::template load<T>(in[0][at]);
            }
        }
        return picked;
    }
    // The numbers of a group. They are read each time they are needed: registers are scarcer than loads.
    GRADFUSE_DEVICE typename F::Group numbers(std::int64_t group, T picked = 0) const {
        return make<typename F::Group, double>([&](int m) {
            if constexpr (F::picks) {
                if (m == 1) return double(picked);
                if (m == 2) return picked_weight(group);
            }
            return group_in[m].get(group);
        });
    }

    static constexpr int numbers_in = members<typename F::Group, double>;
    F f;
    Stages stages;
    Groups groups;
    Columns<S, F::columns> columns;
    const S* in[F::inputs];
    S* out;
    Numbers group_in[numbers_in + 1];
    DoubleView group_out[F::group_outputs + 1];
    bool wide;         // vectors may be accessed whole
    bool wide_across;  // the inputs' vectors of neighboring groups may be

private:
    GRADFUSE_DEVICE bool exists(double position) const { return position >= 0 && position < double(groups.length); }
    GRADFUSE_DEVICE double picked_weight(std::int64_t group) const {
        const double position = group_in[0].get(group);
        return exists(position) ? double(columns.at(0, columns.index(group, std::int64_t(position)))) : 1;
    }
};

template <class F, class S, class Stages, class Schedule, bool Affine>
struct Loop : Schedule, Call<F, S, Stages> {
    using T = typename F::T;
    using Real = typename F::Real;
    using Group = typename F::Group;
    using Record = typename F::Record;
    using E = Element<F, Affine>;
    static constexpr int V = Schedule::V, K = Schedule::K, threads = Schedule::threads;
    static constexpr int blocks_per_multiprocessor =
        Schedule::whole && Schedule::in_registers ? Threads<F>::blocks(threads) : 1;
    static constexpr std::int64_t longest = 1 << 20;  // positions are below this: exact in every T
    static constexpr bool has_first = !std::is_void_v<typename F::First>;
    using At = Positions<V, Schedule::layout>;

    int width_;                   // threads of a group in a block: a power of two
    int cluster_;                 // blocks of a group
    std::int64_t block_vectors_;  // vectors of a group in a block

    Loop(const Call<F, S, Stages>& call, int width, int cluster = 1)
        : Loop(call, width, cluster, (call.groups.length + V * cluster - 1) / (V * cluster)) {}
    Loop(const Call<F, S, Stages>& call, int width, int cluster, std::int64_t block_vectors)
        : Call<F, S, Stages>(call), width_(width), cluster_(cluster), block_vectors_(block_vectors) {}

    // Neighboring threads take neighboring groups.
    GRADFUSE_HD bool across() const { return Schedule::tiled || (!Schedule::whole && this->groups.across); }
    GRADFUSE_DEVICE int width() const {
        return Schedule::whole && !Schedule::resident && threads > 256 ? threads : width_;
    }
    GRADFUSE_HD int cluster() const { return Schedule::resident && has_clusters ? cluster_ : 1; }
    // A block has the threads of one resident group, or of several other ones.
    static constexpr bool one_group = Schedule::resident && !Schedule::tiled;
    GRADFUSE_HD int groups_of_block() const { return one_group ? 1 : threads / width_; }
    int threads_of_block() const { return one_group ? width_ : threads; }
    // Shared memory has the records of the threads or warps and that of the block, then the vectors of a resident
    // group, one input after the other.
    GRADFUSE_HD int exchanged() const { return (across() ? threads : threads / warp_size) + 1; }
    GRADFUSE_DEVICE SharedArray<Record> records() const { return {shared_memory<void>(), exchanged()}; }
    GRADFUSE_HD std::int64_t record_bytes() const { return (SharedArray<Record>::bytes(exchanged()) + 15) / 16 * 16; }
    // Of a resident group; of a tile of neighboring groups, what these have at one position.
    GRADFUSE_HD std::int64_t vector_bytes() const {
        return Schedule::tiled ? groups_of_block() * std::int64_t(sizeof(S)) : 16;
    }
    GRADFUSE_HD std::int64_t shared_bytes() const {
        return record_bytes() + (Schedule::resident ? F::inputs * block_vectors_ * vector_bytes() : 0);
    }

    // The share of a thread of positions [begin, end) of a group: vectors lane, lane + width ... of the `n` elements
    // starting at position `at`.
    struct Share {
        std::int64_t group, first, columns, begin, end, at;
        int lane, n, vectors;
        int groups;      // of this block
        int buffer = 0;  // of the shared memory, where its copies are

        GRADFUSE_DEVICE bool exists() const { return begin < end; }
        GRADFUSE_DEVICE void enter(std::int64_t position) {
            at = position;
            n = int(end - at < longest ? end - at : longest);
            vectors = (n + V - 1) / V;
        }
    };
    GRADFUSE_DEVICE Share share(std::int64_t group) const {
        const bool exists = group < this->groups.count;
        Share s;
        s.group = exists ? group : this->groups.count - 1;
        s.first = this->groups.first(s.group);
        s.columns = Affine ? this->columns.first(s.group) : 0;
        s.begin = 0;
        s.end = exists ? this->groups.length : 0;  // other threads only take part in the exchange
        s.lane = across() ? int(threadIdx.x) / groups_of_block() : int(threadIdx.x) % width();
        const std::int64_t left = this->groups.count - (group - own_group());
        s.groups = left < groups_of_block() ? int(left) : groups_of_block();
        s.enter(0);
        return s;
    }
    GRADFUSE_DEVICE int own_group() const {  // its index in the block
        return across() ? int(threadIdx.x) % groups_of_block() : int(threadIdx.x) / width();
    }
    GRADFUSE_DEVICE int present(const Share& s) const {  // the number of the group's threads that have elements
        const std::int64_t vectors = Schedule::streams ? (s.end - s.begin + V - 1) / V : s.vectors;
        return vectors < width() ? int(vectors) : width();
    }

    // each(k, v, at) for the existing vectors among the K from `begin` on; v is the vector's index in the group.
    template <class Each>
    GRADFUSE_DEVICE void for_vectors(const Share& s, int begin, const Each& each) const {
#pragma unroll
        for (int k = 0; k < K; ++k) {
            const int v = begin + s.lane + k * width();
            if (v >= s.vectors) break;
            each(k, v, At(this->groups, s.first, s.at + v * V, s.n - v * V < V ? s.n - v * V : V, this->wide));
        }
    }
    // each(begin) for every chunk that the group's threads read at a time, in order or in reverse; updates s.
    template <class Each>
    GRADFUSE_DEVICE void for_chunks(Share& s, bool reverse, const Each& each) const {
        const std::int64_t spans = (s.end - s.begin + longest - 1) / longest;
        for (std::int64_t i = 0; i < spans; ++i) {
            s.enter(s.begin + (reverse ? spans - 1 - i : i) * longest);
            const int step = K * width(), last = (s.vectors - 1) / step * step;
            for (int begin = 0; begin <= last; begin += step) each(reverse ? last - begin : begin);
        }
    }
    GRADFUSE_DEVICE static bool there(const At& at, int j) { return Schedule::whole || j < at.count; }

    // The vectors of a chunk as they are in memory. All are loaded before the first one is used.
    struct Loaded {
        Raw<S, V> x[K][F::inputs], extra[K];
    };
    template <class OfGroup>
    GRADFUSE_DEVICE void load(const Share& s, int begin, const OfGroup& stages, Loaded& loaded) const {
        for_vectors(s, begin, [&](int k, int, const At& at) {
#pragma unroll
            for (int i = 0; i < F::inputs; ++i) at.load(this->in[i], loaded.x[k][i]);
            stages.load(at, loaded.extra[k]);
        });
    }
    // each(k, v, at, x) for the vectors of a chunk, in the compute type.
    template <class OfGroup, class Each>
    GRADFUSE_DEVICE void for_loaded(const Share& s, int begin, const Loaded& loaded, const OfGroup& stages, bool last,
                                    const Each& each) const {
        for_vectors(s, begin, [&](int k, int v, const At& at) {
            T x[F::inputs][V];
            widen_all(at, loaded.x[k], loaded.extra[k], stages, last, x);
            each(k, v, at, x);
        });
    }

    // The steps for one vector of each input.
    template <class OfGroup>
    GRADFUSE_DEVICE void widen_all(const At& at, const Raw<S, V> (&raw)[F::inputs], const Raw<S, V>& extra,
                                   const OfGroup& stages, bool last, T (&x)[F::inputs][V]) const {
#pragma unroll
        for (int i = 0; i < F::inputs; ++i) widen(raw[i], x[i]);
        stages.before(at, x, extra, last);
    }
    GRADFUSE_DEVICE void join_center(const At& at, const T (&x)[F::inputs][V], T& center) const {
#pragma unroll
        for (int j = 0; j < V; ++j) {
            if (there(at, j)) center = F::First::join(center, E::first(this->f, x, j));
        }
    }
    // If the map follows, the kept values replace x.
    GRADFUSE_DEVICE void add_to(typename F::Sums& sums, const Share& s, const At& at, int v,
                                const typename F::Local& local, T (&x)[F::inputs][V]) const {
        T w[E::columns + 1][V];
        if constexpr (Affine && F::adds_columns) this->columns.read(s.columns, at, w);
#pragma unroll
        for (int j = 0; j < V; ++j) {
            const T kept = E::keep(this->f, local, x, j);
            if (there(at, j)) E::add(this->f, sums, local, v * V + j, kept, x, w, j);
            if constexpr (F::keeps && Schedule::in_registers) x[0][j] = kept;
        }
    }
    // terms(j, values) gets all values that the map returns.
    template <class Constants, class OfGroup, class Terms>
    GRADFUSE_DEVICE void map_vector(const Share& s, const At& at, int v, const typename F::Local& local,
                                    const Constants& c, const OfGroup& stages, const T (&x)[F::inputs][V],
                                    const Terms& terms) const {
        T w[E::columns + 1][V], y[V];
        if constexpr (Affine) this->columns.read(s.columns, at, w);
#pragma unroll
        for (int j = 0; j < V; ++j) {
            T kept = x[0][j];
            if constexpr (F::keeps && !Schedule::in_registers) kept = E::keep(this->f, local, x, j);
            const auto values = E::map(this->f, c, v * V + j, kept, x, w, j);
            y[j] = values.v[0];
            terms(j, values);
        }
        stages.after(at, y);
        at.write(this->out, y);
    }

    // Maps a vector if the map needs no record of the whole group.
    static constexpr bool maps_at_once = F::maps && !F::waits && !Schedule::in_registers;
    template <class OfGroup>
    GRADFUSE_DEVICE void map_at_once(const Share& s, const At& at, int v, int count, const Group& group,
                                     const OfGroup& stages, const T (&x)[F::inputs][V]) const {
        static_assert(!maps_at_once || !has_first);
        if constexpr (maps_at_once) {
            const auto local = this->f.local(0, count, group, 0);
            const auto constants = this->f.constants(Record{}, local, group, 0);
            map_vector(s, at, v, local, constants, stages, x, [](int, const auto&) {});
        }
    }

    struct Part {
        T center;
        double count;
        typename F::Local local;
        Record record;
    };
    // The number of elements that `lanes` neighboring threads hold.
    GRADFUSE_DEVICE int elements(const Share& s, int begin, int lanes) const {
        int count = 0;
#pragma unroll
        for (int k = 0; k < K; ++k) {
            const int left = s.n - (begin + s.lane / lanes * lanes + k * width()) * V;
            count += left < 0 ? 0 : left < lanes * V ? left : lanes * V;
        }
        return count;
    }
    // Reduces a part of `count` elements that belongs to `lanes` neighboring threads. for_first(each) and
    // for_sums(each) call each(k, v, at, x) for the vectors of this thread. If there is no first reduction, for_first
    // is not called.
    template <class ForFirst, class ForSums>
    GRADFUSE_DEVICE Part reduce(const Share& s, int count, int lanes, const Group& group, const ForFirst& for_first,
                                const ForSums& for_sums) const {
        Part part;
        part.count = count;
        part.center = 0;
        if constexpr (has_first) {
            part.center = F::First::start;
            for_first([&](int, int, const At& at, const auto& x) { join_center(at, x, part.center); });
            part.center = joined(part.center, lanes);
        }
        part.local = this->f.local(part.center, part.count, group, 0);
        typename F::Sums sums{};
        for_sums([&](int, int v, const At& at, auto& x) { add_to(sums, s, at, v, part.local, x); });
        part.record = this->f.record(part.local, sum_lanes(sums, lanes), part.count);
        return part;
    }
    GRADFUSE_DEVICE static T joined(T center, int lanes) {
        return warp_reduce(center, [](T& a, const T& b) { a = F::First::join(a, b); }, lanes);
    }
    GRADFUSE_DEVICE static typename F::Sums sum_lanes(const typename F::Sums& sums, int lanes) {
        if constexpr (Schedule::streams) {
            return sums;
        } else {
            constexpr int n = members<typename F::Sums, Real>;
            Values<double, n> wide;
            take<Real>(sums, [&](int m, Real value) { wide.v[m] = double(value); });
            const auto add = [](Values<double, n>& a, const Values<double, n>& b) {
#pragma unroll
                for (int m = 0; m < n; ++m) a.v[m] += b.v[m];
            };
            wide = warp_reduce(wide, add, lanes);
            return make<typename F::Sums, Real>([&](int m) { return Real(wide.v[m]); });
        }
    }

    // Merges the records of all parts of a group in order. The first `present` of its threads have one.
    GRADFUSE_DEVICE Record exchange(Record record, int present) const {
        const auto merge = [&](Record& a, const Record& b) { this->f.merge(a, b); };
        const SharedArray<Record> all = records();
        if (across()) {
            if (width() == 1) return record;
            const int groups = groups_of_block(), own = own_group();
            all.set(int(threadIdx.x), record);
            __syncthreads();
            record = all.get(own);
            for (int p = 1; p < present; ++p) merge(record, all.get(p * groups + own));
            return record;
        }
        const int lanes = width() < warp_size ? width() : warp_size, warps = width() / warp_size;
        const int warp = int(threadIdx.x) / warp_size, first = width() <= warp_size ? warp : warp / warps * warps;
        if constexpr (Schedule::streams) record = merge_lanes(record, merge, lanes, present - (warp - first) * lanes);
        if (width() <= warp_size) return record;
        if (threadIdx.x % warp_size == 0) all.set(warp, record);
        __syncthreads();
        return merge_lanes(all.get(first + int(threadIdx.x) % warps), merge, warps, (present + lanes - 1) / lanes);
    }
    // Merges the records of the blocks of a cluster in order.
    GRADFUSE_DEVICE Record exchange_in_cluster(const Record& record) const {
        if (cluster() == 1) return record;
        const int own = exchanged() - 1;
        if (threadIdx.x == 0) records().set(own, record);
        cluster_barrier();
        const Record other = records().get(own, int(threadIdx.x) % cluster());
        return merge_lanes(other, [&](Record& a, const Record& b) { this->f.merge(a, b); }, cluster(), cluster());
    }

    struct Held {  // as a bare array it takes more registers
        T x[K][F::inputs][V];
    };

    // terms(k, j, values) gets the values that the map returns for element j of the thread's vector k.
    template <class Terms>
    GRADFUSE_DEVICE void run_in_registers(const Share& s, const Terms& terms) const {
        const auto& stages = this->stages.of_group(s.group, s.columns);
        const T picked = this->pick(s.group);
        Held held;
        {
            Loaded loaded;
            load(s, 0, stages, loaded);
            for_vectors(s, 0, [&](int k, int, const At& at) {
                widen_all(at, loaded.x[k], loaded.extra[k], stages, true, held.x[k]);
            });
        }
        const auto for_held = [&](const auto& each) {
            for_vectors(s, 0, [&](int k, int v, const At& at) { each(k, v, at, held.x[k]); });
        };
        const int lanes = across() ? 1 : width() < warp_size ? width() : warp_size;
        const Part part = reduce(s, elements(s, 0, lanes), lanes, this->numbers(s.group), for_held, for_held);
        const Record whole = exchange(part.record, present(s));
        const auto constants = this->f.constants(whole, part.local, this->numbers(s.group, picked), 0);
        for_held([&](int k, int v, const At& at, const auto& x) {
            map_vector(s, at, v, part.local, constants, stages, x,
                       [&](int j, const auto& values) { terms(k, j, values); });
        });
        finish(s, whole, picked);
    }

    // A vector of this block's elements in shared memory. A thread accesses only those that it has copied itself,
    // unless they are a tile.
    GRADFUSE_DEVICE Raw<S, V>* copy_of(const Share& s, int input, int v) const {
        auto* const vectors = reinterpret_cast<Raw<S, V>*>(shared_memory<char>() + record_bytes());
        const int at = (s.buffer * F::inputs + input) * int(block_vectors_) + v;
        return vectors + (Schedule::tiled ? at * s.groups + own_group() : at);
    }
    GRADFUSE_DEVICE At resident_position(const Share& s, int v) const {
        return {this->groups, s.first, s.at + v * V, V, true};
    }
    // Copies are waited for in this many steps.
    static constexpr int copy_steps = most_open_copies + 1;
    GRADFUSE_DEVICE int copied_after(const Share& s, int step) const {  // vectors
        const int rounds = (s.vectors + width() - 1) / width(), vectors = rounds * step / copy_steps * width();
        return vectors < s.vectors ? vectors : s.vectors;
    }
    // Copies some positions of all groups of a block that lie side by side; `first` is the first group.
    GRADFUSE_DEVICE void copy_tile(const Share& s, std::int64_t first, std::int64_t begin, int positions) const {
        const std::int64_t start = this->groups.first(first) + begin * this->groups.step;
        const int n = this->wide_across ? per_access<S> : 1, units = s.groups / n;
#pragma unroll 1
        for (int k = int(threadIdx.x); k < positions * units; k += threads) {
            const int position = k / units, group = (k - position * units) * n;
#pragma unroll
            for (int i = 0; i < F::inputs; ++i) {
                const S* const from = this->in[i] + start + position * this->groups.step + group;
                S* const to = reinterpret_cast<S*>(shared_memory<char>() + record_bytes()) +
                              (i * int(block_vectors_) + position) * s.groups + group;
                if (this->wide_across) {
                    start_copy(to, from);
                } else {
                    *to = *from;
                }
            }
        }
        end_group_of_copies();
        wait_for_copies(0);
        __syncthreads();
    }
    // Starts to copy this block's elements.
    GRADFUSE_DEVICE void start_copies(const Share& s) const {
        for (int step = 0, v = s.lane; step < copy_steps; ++step) {
            for (const int end = copied_after(s, step + 1); v < end; v += width()) {
                const At at = resident_position(s, v);
#pragma unroll
                for (int i = 0; i < F::inputs; ++i) start_copy(copy_of(s, i, v), this->in[i] + at.start);
            }
            end_group_of_copies();
        }
    }
    // each(0, v, at, x) for this thread's vectors, as soon as they have been copied.
    template <class OfGroup, class Each>
    GRADFUSE_DEVICE void for_copied(const Share& s, const OfGroup& stages, bool last, const Each& each) const {
        for (int step = 0; step < copy_steps; ++step) {
            wait_for_copies(copy_steps - 1 - step);
            for_resident(s, copied_after(s, step), copied_after(s, step + 1), stages, true, last, each);
        }
    }
    // The same for those from vector `begin` to `end`. `is_new`: they have just been copied.
    template <class OfGroup, class Each>
    GRADFUSE_DEVICE void for_resident(const Share& s, int begin, int end, const OfGroup& stages, bool is_new, bool last,
                                      const Each& each) const {
#pragma unroll 1
        for (int v = begin + s.lane; v < end; v += width()) {
            const At at = resident_position(s, v);
            Raw<S, V> raw[F::inputs], extra;
            T x[F::inputs][V];
#pragma unroll
            for (int i = 0; i < F::inputs; ++i) {
                count_banks(copy_of(s, i, v), Schedule::tiled ? 4 : 16);
                raw[i] = *copy_of(s, i, v);
            }
            if constexpr (OfGroup::replaces) {
                widen(raw[0], x[0]);
                if (is_new) replace(s, at, v, stages, x);
            } else {
                stages.load(at, extra);
                widen_all(at, raw, extra, stages, last, x);
            }
            each(0, v, at, x);
        }
    }
    template <class OfGroup>
    GRADFUSE_DEVICE void replace(const Share& s, const At& at, int v, const OfGroup& stages,
                                 T (&x)[F::inputs][V]) const {
        Raw<S, V> extra;
        S stored[V];
        stages.load(at, extra);
        stages.before(at, x, extra, true);
        narrow<S>(x[0], stored);
#pragma unroll
        for (int j = 0; j < V; ++j) copy_of(s, 0, v)->set(j, stored[j]);
    }
    // The number of elements of this thread's part: those that its warp copies, or of a tile its own.
    GRADFUSE_DEVICE int elements_of_part(const Share& s) const {
        if (Schedule::tiled) return s.vectors > s.lane ? (s.vectors - s.lane + width() - 1) / width() : 0;
        const int first = s.lane / warp_size * warp_size, rounds = s.vectors / width(),
                  rest = s.vectors % width() - first;
        return (rounds * warp_size + (rest < 0 ? 0 : rest < warp_size ? rest : warp_size)) * V;
    }
    // Reduces the part of this thread's warp while others are copied. If the map needs no record, maps it too.
    template <class OfGroup>
    GRADFUSE_DEVICE Part reduce_copied(const Share& s, const OfGroup& stages, const Group& group) const {
        const int count = elements_of_part(s), lanes = Schedule::tiled ? 1 : warp_size;
        const auto for_new = [&](const auto& each) {
            const auto mapped = [&](int k, int v, const At& at, auto& x) {
                each(k, v, at, x);
                map_at_once(s, at, v, count, group, stages, x);
            };
            if constexpr (Schedule::tiled) {
                for_resident(s, 0, s.vectors, stages, true, maps_at_once, mapped);
            } else {
                for_copied(s, stages, maps_at_once, mapped);
            }
        };
        const auto for_all = [&](const auto& each) { for_resident(s, 0, s.vectors, stages, false, false, each); };
        if constexpr (has_first) {
            return reduce(s, count, lanes, group, for_new, for_all);
        } else {
            return reduce(s, count, lanes, group, for_all, for_new);
        }
    }
    // Every block of a cluster takes the same number of vectors, the last one what is left.
    GRADFUSE_DEVICE void run_in_shared_memory(Share& s) const {
        const std::int64_t each = std::int64_t(block_vectors_) * V;
        s.begin = std::int64_t(blockIdx.x) % cluster() * each;
        if (s.begin + each < s.end) s.end = s.begin + each;
        s.enter(s.begin);
        start_copies(s);
        const auto& stages = this->stages.of_group(s.group, s.columns);
        const T picked = this->pick(s.group);
        const Part part = reduce_copied(s, stages, this->numbers(s.group));
        const Record whole = exchange_in_cluster(exchange(part.record, present(s)));
        const auto constants = this->f.constants(whole, part.local, this->numbers(s.group, picked), s.at);
        for_resident(s, 0, s.vectors, stages, false, true, [&](int, int v, const At& at, const auto& x) {
            map_vector(s, at, v, part.local, constants, stages, x, [](int, const auto&) {});
        });
        finish(s, whole, picked);
        if (cluster() > 1) cluster_barrier();  // the shared memory of a block lasts as long as others may read it
    }

    GRADFUSE_DEVICE void run_in_two_sweeps(Share& s) const {
        const auto& stages = this->stages.of_group(s.group, s.columns);
        const T picked = this->pick(s.group);
        const Group group = this->numbers(s.group, picked);
        const Part mine = reduce_all(s, stages, group);
        const Record whole = exchange(mine.record, present(s));
        const auto local = this->f.local(mine.center, mine.count, group, 0);
        std::int64_t at = s.at;
        auto constants = this->f.constants(whole, local, group, at);
        for_chunks(s, true, [&](int begin) {
            if (s.at != at) constants = this->f.constants(whole, local, group, at = s.at);
            map_chunk(s, begin, local, constants, stages);
        });
        finish(s, whole, picked);
    }
    template <class Constants, class OfGroup>
    GRADFUSE_DEVICE void map_chunk(const Share& s, int begin, const typename F::Local& local, const Constants& c,
                                   const OfGroup& stages) const {
        Loaded loaded;
        load(s, begin, stages, loaded);
        for_loaded(s, begin, loaded, stages, true, [&](int, int v, const At& at, const auto& x) {
            map_vector(s, at, v, local, c, stages, x, [](int, const auto&) {});
        });
    }
    // Reduces all chunks of this thread. If the map needs no record of the whole group, it maps them too.
    template <class OfGroup>
    GRADFUSE_DEVICE Part reduce_all(Share& s, const OfGroup& stages, const Group& group) const {
        Part mine{};
        for_chunks(s, false, [&](int begin) {
            Loaded loaded;
            load(s, begin, stages, loaded);
            const int count = elements(s, begin, 1);
            const auto for_chunk = [&](const auto& each) {
                for_loaded(s, begin, loaded, stages, maps_at_once, [&](int k, int v, const At& at, auto& x) {
                    each(k, v, at, x);
                    map_at_once(s, at, v, count, group, stages, x);
                });
            };
            const Part part = reduce(s, count, 1, group, for_chunk, for_chunk);
            if (part.count > 0) join(mine, part);
        });
        return mine;
    }
    GRADFUSE_DEVICE void join(Part& a, const Part& b) const {
        if (a.count == 0) {
            a = b;
            return;
        }
        if constexpr (!std::is_void_v<typename F::First>) a.center = F::First::join(a.center, b.center);
        this->f.merge(a.record, b.record);
        a.count += b.count;
    }
    GRADFUSE_DEVICE void finish(const Share& s, const Record& whole, T picked) const {
        if constexpr (F::group_outputs > 0) {
            if (s.lane != 0 || s.begin > 0 || !s.exists()) return;
            double out[F::group_outputs];
            this->f.finish(whole, this->numbers(s.group, picked), out);
            for (int m = 0; m < F::group_outputs; ++m) this->group_out[m].set(s.group, out[m]);
        }
    }

    GRADFUSE_DEVICE void operator()() const {
        Share s = share(std::int64_t(blockIdx.x) / cluster() * groups_of_block() + own_group());
        if constexpr (Schedule::streams) {
            run_in_two_sweeps(s);
        } else if constexpr (Schedule::resident) {
            run_in_shared_memory(s);
        } else {
            run_in_registers(s, [](int, int, const auto&) {});
        }
        this->stages.end(groups_of_block());
    }
};

// ---- schedules

// Arrays of doubles have kernels for any layout only: those for vectors would be a fifth of the extension.
template <class S>
constexpr bool has_vectors = sizeof(S) < 8;

template <class S, Layout L>
constexpr int vector_of = L == Layout::side_by_side               ? 1
                          : L == Layout::any && per_access<S> > 4 ? 4
                                                                  : per_access<S>;

// The number of a group's vectors that a thread holds in this many registers.
template <class F, class S, class Stages, Layout L>
constexpr int vectors_in(int registers) {
    constexpr int words = (F::inputs + Stages::extra) * vector_of<S, L> * int(sizeof(Compute<S>)) / 4;
    return L == Layout::any && Stages::large ? 1 : registers / words;
}
template <class F, class S, class Stages, Layout L>
constexpr int few_vectors = vectors_in<F, S, Stages, L>(16);

template <class Schedule, bool Affine, class F, class S, class Stages>
void launch_loop(const Call<F, S, Stages>& call, int width) {
    const Loop<F, S, Stages, Schedule, Affine> loop(call, width);
    launch(loop, blocks_for(call.groups.count, loop.groups_of_block()), loop.shared_bytes());
}

// The number of threads for a group of this many vectors, k each; at least `side_by_side` threads if there are as many
// vectors.
inline int group_width(std::int64_t vectors, int k, int side_by_side = 8) {
    int width = 1;
    while (width * k < vectors || (width < side_by_side && width < vectors)) width *= 2;
    return width;
}

// The number of blocks that have a group in shared memory, 0 if it does not fit. One block if it leaves room for a
// second one on the multiprocessor; else a cluster, as small as possible.
template <class Loop, class Call>
int cluster_for(const Call& call) {
    const std::int64_t most = most_shared_bytes();
    const auto bytes = [&](int cluster) { return Loop(call, 1, cluster).shared_bytes(); };
    if (bytes(1) <= most / 2) return 1;
    for (int cluster = 2; cluster <= most_cluster<Loop>(); cluster *= 2) {
        if (bytes(cluster) <= most) return cluster;
    }
    return bytes(1) <= most ? 1 : 0;
}

// Vectors of 8 elements with two columns, or with two inputs and an activation, need more than 64 registers.
template <class F, class S, class Stages>
constexpr bool needs_room = sizeof(S) == 2 && (F::columns > 1 || (F::inputs > 1 && Stages::calls));

// False if a group does not fit in the shared memory of a cluster.
template <Layout L, bool Affine, class F, class S, class Stages>
bool loop_in_shared_memory(const Call<F, S, Stages>& call) {
    constexpr int threads = needs_room<F, S, Stages> ? 512 : Threads<F>::most;
    using Resident = Loop<F, S, Stages, Schedule<threads, vector_of<S, L>, 1, L, Kept::in_shared_memory>, Affine>;
    const int cluster = cluster_for<Resident>(call);
    if (cluster == 0) return false;
    const std::int64_t bytes = Resident(call, threads, cluster).shared_bytes();
    const int width = bytes <= threads * 32 ? threads / 4 : bytes <= threads * 64 ? threads / 2 : threads;
    launch(Resident(call, width, cluster), call.groups.count * cluster, bytes, width, cluster);
    return true;
}

// False if a group does not fit in the registers of a block or the shared memory of a cluster.
template <Layout L, bool Affine, class F, class S, class Stages>
bool loop_on_chip(const Call<F, S, Stages>& call) {
    constexpr int V = vector_of<S, L>, most = Threads<F>::most, few = few_vectors<F, S, Stages, L>;
    const std::int64_t vectors = (call.groups.length + V - 1) / V;
    const bool across = call.groups.across;
    if (vectors <= 256 / (across ? warp_size : 1) * few) {
        launch_loop<Schedule<256, V, few, L, Kept::in_registers>, Affine>(call,
                                                                          group_width(vectors, few, across ? 1 : 8));
        return true;
    }
    if constexpr (L != Layout::any) {
        if constexpr (!Threads<F>::little_room) {
            constexpr int K = vectors_in<F, S, Stages, L>(32);
            if (vectors <= most / 2 * K) {
                launch_loop<Schedule<most / 2, V, K, L, Kept::in_registers>, Affine>(call, most / 2);
                return true;
            }
            if (vectors <= most * K) {
                launch_loop<Schedule<most, V, K, L, Kept::in_registers>, Affine>(call, most);
                return true;
            }
        }
        if constexpr (F::reduces && F::maps && F::waits) return loop_in_shared_memory<L, Affine>(call);
    }
    return false;
}

// Groups of any layout; of those in whole vectors, the ones that are too long for the other kernels.
template <bool Affine, class F, class S, class Stages>
void loop_groups(const Call<F, S, Stages>& call) {
    constexpr Layout any = Layout::any;
    constexpr int threads = Threads<F>::little_room ? 256 : Threads<F>::most / 2, K = few_vectors<F, S, Stages, any>;
    if (loop_on_chip<any, Affine>(call)) return;
    const int width = call.groups.across ? threads / warp_size : threads;
    launch_loop<Schedule<threads, vector_of<S, any>, K, any, Kept::nowhere>, Affine>(call, width);
}

// Kernels with `plain` stages, if given, are for rows in whole vectors; kernels with `all` stages take any layout.
// PlainAffine and Affine say whether they have columns.
template <bool PlainAffine, bool Affine, class S, class F, class Plain, class All>
void reduce_map(const F& f, const Grouping& g, const ReduceMapArrays& a, const Columns<S, F::columns>& columns,
                const Plain* plain, const All& all) {
    if (g.length() == 0 || g.count() == 0) return;
    const Call<F, S, All> call(f, g, a, all, columns);
    if constexpr (has_vectors<S>) {
        if (plain && call.wide && call.groups.one_run && columns.whole(per_access<S>)) {
            const Call<F, S, Plain> plain_call(f, g, a, *plain, columns);
            if (loop_on_chip<Layout::one_run, PlainAffine>(plain_call)) return;
        }
    }
    loop_groups<Affine>(call);
}

// Calls f with a row of the list, for the compute type T.
template <class T, class F, template <class> class... Rows>
void with_row(int row, List<Rows...>, const F& f) {
    int i = 0;
    (void)((i++ == row && (f(Rows<T>{}), true)) || ...);
}

}  // namespace GRADFUSE_ISA
}  // namespace gradfuse::cuda
