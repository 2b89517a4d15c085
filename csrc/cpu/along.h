// "Reduce, then map" for groups that are one or several runs of memory. Lanes are elements of a group, parts are tiles.
#pragma once

#include "cpu/groups.h"

namespace gradfuse {
inline namespace GRADFUSE_ISA {

template <class F, Columns C, class Stages>
class Along : Loop<F, C, Stages> {
    using Base = Loop<F, C, Stages>;
    using Base::f_, Base::g_, Base::a_, Base::stages_, Base::in_, Base::out_, Base::wanted_, Base::width_;
    using Base::inputs, Base::columns, Base::column_sums, Base::group_outputs, Base::records, Base::sums, Base::locals,
        Base::has_first, Base::sums_columns, Base::most, Base::is_large;
    using typename Base::Call, typename Base::Constants, typename Base::Group, typename Base::Local,
        typename Base::Real, typename Base::Record, typename Base::Sums, typename Base::T;
    static constexpr std::int64_t part_size = tile_size, resident_bytes = 1 << 18, batch = 32;
    static constexpr int L = lanes_of<Real, sums>, L1 = lanes_of<T, 1>;
    // The weight of a run is applied to its record, not to each element.
    static constexpr bool weighs_runs = C == Columns::per_run && F::adds_columns;

public:
    Along(const F& f, const Grouping& g, const ReduceMapArrays& a, const Stages& stages)
        : Base(f, g, a, stages),
          pieces_((g.run + part_size - 1) / part_size),
          together_(g.run < part_size ? part_size / g.run : 1),
          parts_(pieces_ * ((g.runs + together_ - 1) / together_)),
          direct_(!stages.active() && in_[0].direct() && in_[inputs - 1].direct()),
          joins_(C == Columns::per_run && !weighs_runs && g.run_stride == g.run),
          resident_(g.length() * std::int64_t(sizeof(T)) <= resident_bytes),
          stores_(F::keeps && (out_.direct() || resident_)),
          held_(Stages::keeps_first && stages.active() && out_.direct() && F::maps && F::reduces),
          blocks_(F::maps && parts_ == 1 && is_contiguous(g) && (g.runs == 1 || C == Columns::per_run)),
          overlaps_(blocks_ && !is_large(g) && !has_first && F::reduces && !wanted_ && direct_ && out_.direct() &&
                    g.runs == 1) {}

    void run() const {
        // The division of groups into slots depends only on the shape. Each slot has its own column sums.
        const std::int64_t groups = g_.count(), n = g_.length(), least = 1 + (1 << 15) / n,
                           most_slots = (groups + 63) / 64;
        const std::int64_t per_slot = most_slots > least ? most_slots : least,
                           slots = (groups + per_slot - 1) / per_slot;
        const Heap<double> slot_sums(wanted_ ? column_sums * width_ * slots : 0);
        if (wanted_) {
            for (std::int64_t i = 0; i < column_sums * width_ * slots; ++i) slot_sums[i] = 0;
        }
        const auto sums_of = [&](std::int64_t slot) {
            return wanted_ ? slot_sums.data() + slot * column_sums * width_ : nullptr;
        };
        const std::int64_t tasks = wanted_ ? slots : groups;
        const bool few = n > 2 * block_size && tasks < 2 * get_num_threads();
        const bool scattered = g_.runs > 1 && g_.run_stride != g_.run && groups * n > 2 * block_size;
        if (parts_ > 1 && (few || scattered) && !(wanted_ && C == Columns::per_run)) {
            apart(per_slot, slots, sums_of);
        } else if (wanted_) {
            const auto slot = [&](std::int64_t s) {
                const std::int64_t end = (s + 1) * per_slot;
                some_groups(s * per_slot, end < groups ? end : groups, sums_of(s));
            };
            if (groups * n <= 2 * block_size) {
                for (std::int64_t s = 0; s < slots; ++s) slot(s);
            } else {
                parallel(slots, slot);
            }
        } else {
            for_row_blocks(groups, n,
                           [&](std::int64_t first, std::int64_t last) { some_groups(first, last, nullptr); });
        }
        if (wanted_) this->write_column_sums(slot_sums, slots);
    }

private:
    // Elements [offset, offset + n) of runs [run, run + runs) of a group.
    struct Part {
        std::int64_t run, runs, offset, n;
        std::int64_t count() const { return runs * n; }
    };
    Part part(std::int64_t p) const {
        if (parts_ == 1) return all();
        const std::int64_t run = p / pieces_ * together_, offset = p % pieces_ * part_size;
        return {run, g_.runs - run < together_ ? g_.runs - run : together_, offset,
                g_.run - offset < part_size ? g_.run - offset : part_size};
    }

    Part all() const { return {0, g_.runs, 0, g_.run}; }

    // The scratch of a thread: tiles for arrays that cannot be read or written in place, for one part or a whole group.
    struct Scratch {
        Scratch(const Along& loop, std::int64_t parts, double* totals)
            : in(loop.direct_ ? 0 : inputs * parts * tile_size),
              kept(!F::keeps || loop.blocks_ || (loop.stores_ && loop.out_.direct()) ? 0
                   : loop.stores_                                                    ? parts * tile_size
                                                                                     : tile_size),
              out(loop.out_.direct() ? 0 : tile_size),
              sums(loop.wanted_ && !weighs_runs ? column_sums * loop.width_ + vector_lanes<T> : 0),
              totals(totals) {}
        const Heap<T> in, kept, out, sums;  // sums: the column sums of a batch of groups
        double* const totals;               // the column sums of the task
    };

    // One group.
    struct Place {
        std::int64_t index, base, column;  // base: its first element; column: the first of its columns
        Group group;
    };

    Place place(std::int64_t g, const Group& group) const {
        const std::int64_t block = g_.blocks == 1 ? 0 : g / g_.groups;
        return {g, block * g_.block_stride + (g - block * g_.groups) * g_.group_stride, this->first_column(g), group};
    }
    std::int64_t start(const Place& at, const Part& p, std::int64_t r) const {
        return at.base + (p.run + r) * g_.run_stride + p.offset;
    }

    // The inputs of run r of a part. `loads`: they are not in scratch yet; `again`: they are for the map.
    void inputs_of(const Place& at, const Part& p, std::int64_t r, bool loads, bool again, T* scratch,
                   const T** in) const {
        for (int i = inputs - 1; i >= 0; --i) {
            T* const own = scratch + i * tile_size + r * p.n;
            if constexpr (Stages::possible) {
                const bool held = held_ && i == 0;
                in[i] = stages_.input(in_[i], i, start(at, p, r), p.n, held ? out_(start(at, p, r), nullptr) : own,
                                      held ? loads && !again : loads,
                                      [&](T* z) { map_again(at, p, r, in[inputs - 1], z); });
            } else if (in_[i].direct()) {
                in[i] = in_[i](start(at, p, r), p.n, nullptr);
            } else {
                if (loads) in_[i].load(start(at, p, r), p.n, own);
                in[i] = own;
            }
        }
    }
    const T* column_of(int c, const Place& at, const Part& p, std::int64_t r) const {
        if (C == Columns::none) return nullptr;
        return this->column(c) + at.column + (C == Columns::per_run ? p.run + r : p.offset);
    }
    void columns_of(const Place& at, const Part& p, std::int64_t r, const T** w) const {
        for (int c = 0; c < columns; ++c) w[c] = column_of(c, at, p, r);
    }
    // For a backward: z as its forward computed it, from the statistics.
    void map_again(const Place& at, const Part& p, std::int64_t r, const T* x, T* z) const {
        if constexpr (Stages::keeps_first) {
            using Forward = typename Stages::Forward;
            const Forward& forward = stages_.forward;
            const auto c = Stages::constants(forward, at.group);
            const T* const w[] = {column_of(0, at, p, r), column_of(1, at, p, r)};
            for_elements(int(p.n), z, [&](int i, T position, bool there) GRADFUSE_INLINE {
                return Element<Forward, C>::map(
                           forward, c, position, [&](int) GRADFUSE_INLINE { return there ? x[i] : T(0); },
                           column_at(w, i, there))
                    .v[0];
            });
        }
    }
    T* kept_of(const Place& at, const Part& p, std::int64_t r, T* scratch) const {
        return out_(start(at, p, r), scratch + r * p.n);
    }

    // w(k): the column's value for element i of a run.
    template <class Valid>
    static GRADFUSE_HD auto column_at(const T* const* w, std::int64_t i, Valid there) {
        return [w, i, there](int k) GRADFUSE_INLINE {
            return C == Columns::per_run ? w[k][0] : there ? w[k][i] : T(0);
        };
    }

    // Contiguous runs with columns are reduced as one run, unless each run has a weight that the sums need.
    Part as_read(const Part& p) const { return joins_ ? Part{p.run, 1, p.offset, p.count()} : p; }
    // The record of run r after its weight is applied. Adds the run's column sums to `totals`.
    GRADFUSE_HD Record weighed(const Place& at, std::int64_t r, const Record& record, double* totals) const {
        if constexpr (weighs_runs) {
            if (wanted_) {
                const auto sum = f_.column_sums_of(record, at.group);
                double* const to = totals + at.column + r;
                for (int k = 0; k < column_sums; ++k) to[k * width_] += sum.v[k];
            }
            return f_.weighed(record, double(column_of(0, at, all(), r)[0]));
        }
        return record;
    }
    // The merged record of a part or group whose runs have the records record_of_run(0), record_of_run(1) ...
    template <class RecordOf>
    GRADFUSE_HD Record merged(std::int64_t runs, const RecordOf& record_of_run) const {
        Record whole = record_of_run(0);
        for (std::int64_t r = 1; r < runs; ++r) f_.merge(whole, record_of_run(r));
        return whole;
    }
    GRADFUSE_HD Record record_of(const Local& local, std::int64_t n, const T* const* in) const {
        const T* const none[columns + 1] = {};
        alignas(64) Real lanes[sums][L] = {};
        second<false>(local, n, in, none, nullptr, lanes);
        return record(local, lanes, double(n));
    }
    GRADFUSE_HD Record record(const Local& local, const Real (&lanes)[sums][L], double n) const {
        const auto plus = [](const auto& a, const auto& b) GRADFUSE_INLINE { return a + b; };
        const auto total = make<Sums, Real>([&](int k) GRADFUSE_INLINE { return join_lanes(lanes[k], plus); });
        return f_.record(local, total, n);
    }

    Record reduce(const Place& at, const Part& of, bool stores, T* in_scratch, T* kept_scratch, Local& local,
                  double* totals) const {
        const Part p = as_read(of);
        const T *in[inputs], *w[columns + 1];
        T center = 0;
        if constexpr (has_first) {
            using First = typename F::First;
            alignas(64) T lanes[L1];
            for (T& lane : lanes) lane = First::start;
            for (std::int64_t r = 0; r < p.runs; ++r) {
                inputs_of(at, p, r, true, false, in_scratch, in);
                first(p.n, in, lanes);
            }
            center = join_lanes(lanes, [](const auto& a, const auto& b) GRADFUSE_INLINE { return First::join(a, b); });
        }
        local = f_.local(center, double(p.count()), at.group, p.offset);
        if constexpr (weighs_runs) {
            return merged(p.runs, [&](std::int64_t r) GRADFUSE_INLINE {
                inputs_of(at, p, r, true, false, in_scratch, in);
                return weighed(at, p.run + r, record_of(local, p.n, in), totals);
            });
        }
        alignas(64) Real lanes[sums][L] = {};
        for (std::int64_t r = 0; r < p.runs; ++r) {
            inputs_of(at, p, r, !has_first, false, in_scratch, in);
            columns_of(at, p, r, w);
            if (stores) {
                second<F::keeps>(local, p.n, in, w, kept_of(at, p, r, kept_scratch), lanes);
            } else {
                second<false>(local, p.n, in, w, nullptr, lanes);
            }
        }
        return record(local, lanes, double(p.count()));
    }

    // Element i of the inputs at `from`.
    template <class Valid>
    static GRADFUSE_HD auto input_at(const T* const* from, std::int64_t i, Valid there) {
        return [from, i, there](int k) GRADFUSE_INLINE { return there ? from[k][i] : T(0); };
    }

    GRADFUSE_HD void first(std::int64_t n, const T* const* in, T (&lanes)[L1]) const {
        const T* const from[] = {in[0], in[inputs - 1]};
        in_lanes<T, L1>(n, [&](int l, std::int64_t i, T, bool there, auto) GRADFUSE_INLINE {
            const T x = Call::first(f_, input_at(from, i, there));
            lanes[l] = F::First::join(lanes[l], there ? x : F::First::start);
        });
    }

    template <bool keep>
    GRADFUSE_HD void second(const Local& local, std::int64_t n, const T* const* in, const T* const* w, T* kept,
                            Real (&lanes)[sums][L]) const {
        const T* const from[] = {in[0], in[inputs - 1]};
        const T* const column[] = {w[0], w[columns > 1 ? 1 : 0]};
        const Local c = local;
        alignas(64) T last_kept[keep ? L : 1];
        alignas(64) Real last_lanes[sums][L];
        in_lanes<T, L>(
            n,
            [&](int l, std::int64_t i, T position, bool there, auto whole) GRADFUSE_INLINE {
                Sums s = make<Sums, Real>([&](int k) GRADFUSE_INLINE { return lanes[k][l]; });
                const T e = Call::add(f_, s, c, position, input_at(from, i, there), column_at(column, i, there));
                if constexpr (keep) *(whole ? kept + i : last_kept + l) = e;
                take<Real>(
                    s, [&](int k, Real v) GRADFUSE_INLINE { (whole || weighs_runs ? lanes : last_lanes)[k][l] = v; });
            },
            [&](int first, int there) GRADFUSE_INLINE {
                if constexpr (!weighs_runs) take_lanes<T>(last_lanes, first, there, lanes);
                if constexpr (keep) std::memcpy(kept + n - there, last_kept + first, sizeof(T) * std::size_t(there));
            });
    }

    void map(const Place& at, const Part& p, const Local& local, const Record& whole, bool stores, bool loads,
             T* in_scratch, T* kept_scratch, T* out_scratch, T* batch_sums) const {
        if constexpr (F::maps) {
            const Constants c = f_.constants(whole, local, at.group, p.offset);
            const T *in[inputs], *w[columns + 1];
            for (std::int64_t r = 0; r < p.runs; ++r) {
                columns_of(at, p, r, w);
                T* const out = out_(start(at, p, r), out_scratch);
                if (F::keeps && stores) {
                    in[0] = kept_of(at, p, r, kept_scratch);
                } else {
                    inputs_of(at, p, r, loads, F::reduces, in_scratch, in);
                    if constexpr (F::keeps) {
                        alignas(64) Real unused[sums][L] = {};
                        second<true>(local, p.n, in, w, kept_scratch, unused);
                        in[0] = kept_scratch;
                    }
                }
                if (adds_terms()) {
                    map_and_add(c, p, at, in, w, out, batch_sums);
                } else {
                    map_run(c, p.n, in, w, out);
                }
                if constexpr (Stages::possible) stages_.after_map(start(at, p, r), p.n, out);
                out_.commit(start(at, p, r), p.n, out);
            }
        }
    }

    GRADFUSE_HD void map_run(const Constants& constants, std::int64_t n, const T* const* in, const T* const* w,
                             T* out) const {
        const Constants c = constants;
        const T* const from[] = {in[0], in[inputs - 1]};
        constexpr int last = columns > 1 ? 1 : 0;
        constexpr bool per_run = C == Columns::per_run;
        const T value[] = {per_run ? *w[0] : T(0), per_run ? *w[last] : T(0)};
        const T* const column[] = {per_run ? value : w[0], per_run ? value + 1 : w[last]};
        for_elements(int(n), out, [&](int i, T position, bool there) GRADFUSE_INLINE {
            return Call::map(f_, c, position, input_at(from, i, there), column_at(column, i, there)).v[0];
        });
    }
    // Whether the map computes the terms of column sums.
    bool adds_terms() const { return wanted_ && !weighs_runs; }
    void map_and_add(const Constants& constants, const Part& p, const Place& at, const T* const* in, const T* const* w,
                     T* out, T* totals) const {
        if constexpr (sums_columns && !weighs_runs) {
            const Constants c = constants;
            const T* const from[] = {in[0], in[inputs - 1]};
            const T* const column[] = {w[0], w[columns > 1 ? 1 : 0]};
            constexpr int K = column_sums;
            const auto mapped = [&](std::int64_t i, T position, bool there) GRADFUSE_INLINE {
                return Call::map(f_, c, position, input_at(from, i, there), column_at(column, i, there));
            };
            T* const to[] = {totals + at.column + p.offset, totals + (K - 1) * width_ + at.column + p.offset};
            const LastVector<T> last(int(p.n), [&](int i, T position, bool there)
                                                   GRADFUSE_INLINE { return mapped(i, position, there).v[0]; });
            in_lanes<T, L1>(p.n, [&](int, std::int64_t i, T position, bool there, auto whole) GRADFUSE_INLINE {
                const auto y = mapped(i, position, there);
                if constexpr (whole) out[i] = y.v[0];
                for (int k = 0; k < K; ++k) to[k][i] += there ? y.v[1 + k] : T(0);
            });
            last.store(out);
        }
    }

    // Neighboring groups. Their numbers are read and written together, and their column sums are added to those in
    // double together.
    struct Batch {
        std::int64_t first, count;
        alignas(64) double numbers[most][batch], whole[records][batch];

        Group group(std::int64_t k) const { return lane_of<Group, double>(numbers, k); }
    };
    Place place(const Batch& b, std::int64_t k) const { return place(b.first + k, b.group(k)); }

    // Groups [begin, end), one after the other.
    void some_groups(std::int64_t begin, std::int64_t end, double* column_totals) const {
        const Scratch scratch(*this, resident_ ? parts_ : 1, column_totals);
        const Heap<Local> local(blocks_ ? 0 : parts_);
        Batch b;
        for (b.first = begin; b.first < end; b.first += batch) {
            b.count = end - b.first < batch ? end - b.first : batch;
            this->read_numbers(b.first, b.count, b.numbers);
            if constexpr (F::picks) {
                for (std::int64_t k = 0; k < b.count; ++k) {
                    this->pick(place(b.first + k, {}).base, b.first + k, k, b.numbers);
                }
            }
            clear_sums(scratch.sums, all());
            if (overlaps_) {
                overlapping(b);
            } else if (blocks_) {
                in_blocks(b, scratch);
            } else {
                for (std::int64_t k = 0; k < b.count; ++k) {
                    set_lane<double>(one_group(place(b, k), scratch, local.data()), b.whole, k);
                }
            }
            add_sums(scratch.sums, all(), column_totals);
            finish(b);
        }
    }
    void finish(const Batch& b) const {
        if constexpr (group_outputs > 0) {
            double results[group_outputs + 1][batch];
            for_lanes(b.count, [&](std::int64_t k) GRADFUSE_INLINE {
                double result[group_outputs];
                f_.finish(lane_of<Record, double>(b.whole, k), b.group(k), result);
                for (int m = 0; m < group_outputs; ++m) results[m][k] = result[m];
            });
            this->write_numbers(b.first, b.count, results);
        }
    }
    // f(i) for the index i of each column sum of a part.
    template <class Each>
    void for_sums(const Part& p, const Each& f) const {
        for (std::int64_t c = 0; c < column_sums * a_.periods && adds_terms(); ++c) {
            for_lanes(p.n, [&](std::int64_t i) GRADFUSE_INLINE { f(c * this->per_period_ + p.offset + i); });
        }
    }
    void clear_sums(const Heap<T>& sums, const Part& p) const {
        T* const to = sums.data();
        for_sums(p, [&](std::int64_t i) GRADFUSE_INLINE { to[i] = 0; });
    }
    void add_sums(const Heap<T>& sums, const Part& p, double* totals) const {
        const T* const from = sums.data();
        for_sums(p, [&](std::int64_t i) GRADFUSE_INLINE { totals[i] += double(from[i]); });
    }

    Record one_group(const Place& at, const Scratch& scratch, Local* local) const {
        const auto in_tile = [&](std::int64_t p) {
            return scratch.in.data() + (resident_ ? p * inputs * tile_size : 0);
        };
        const auto kept_tile = [&](std::int64_t p) {
            return scratch.kept.data() + (stores_ && !out_.direct() ? p * tile_size : 0);
        };
        const auto map_part = [&](std::int64_t p, const Record& whole, bool loads) {
            map(at, part(p), local[p], whole, stores_, loads, in_tile(p), kept_tile(p), scratch.out.data(),
                scratch.sums.data());
        };
        Record whole{};
        for (std::int64_t p = 0; p < parts_ && F::reduces; ++p) {
            const Record record = reduce(at, part(p), stores_, in_tile(p), kept_tile(p), local[p], scratch.totals);
            if (F::maps && !F::waits) map_part(p, record, false);
            if (p == 0) {
                whole = record;
            } else {
                f_.merge(whole, record);
            }
        }
        if (F::maps && F::waits) {
            // If the group is in L2, the order of memory, so that the output is prefetched. Otherwise the last part
            // first, because it is still in cache.
            const std::int64_t last = parts_ - 1;
            for (std::int64_t p = 0; p <= last; ++p) map_part(resident_ ? p : last - p, whole, !resident_);
        } else if (F::maps && !F::reduces) {
            for (std::int64_t p = 0; p < parts_; ++p) map_part(p, whole, true);
        }
        return whole;
    }

    // Contiguous groups of one part each. As many as fit in a tile are a block, and each step is done for the whole
    // block. So the latency of a sum or a square root counts once per block, not once per group. Blocks from memory are
    // smaller, so that the inputs and the output stay in L1.
    void in_blocks(Batch& b, const Scratch& scratch) const {
        if constexpr (F::maps) {
            const std::int64_t fit = (is_large(g_) ? part_size / (inputs + 1) : part_size) / g_.length();
            const std::int64_t most_groups = fit < 1 ? 1 : fit < batch ? fit : batch;
            for (std::int64_t k = 0; k < b.count; k += most_groups) {
                const std::int64_t left = b.count - k;
                block(b, k, left < most_groups ? left : most_groups, scratch);
            }
        }
    }
    // Run r of a group of a block.
    struct Run {
        const T *in[inputs], *w[columns + 1];
        T* out;  // also for kept values
    };
    void block(Batch& b, std::int64_t from, std::int64_t count, const Scratch& scratch) const {
        const std::int64_t length = g_.length(), base = place(b, from).base;
        const T* in[inputs];
        for (int i = inputs - 1; i >= 0; --i) {
            T* const own = scratch.in.data() + i * tile_size;
            if constexpr (Stages::possible) {
                in[i] = stages_.input(in_[i], i, base, count * length, own, true, [&](T* z) {
                    for (std::int64_t k = 0; k < count; ++k) {
                        for (std::int64_t r = 0; r < g_.runs; ++r) {
                            const std::int64_t at = k * length + r * g_.run;
                            map_again(place(b, from + k), all(), r, in[inputs - 1] + at, z + at);
                        }
                    }
                });
            } else {
                in[i] = in_[i](base, count * length, own);
            }
        }
        T* const out = out_(base, scratch.out.data());
        const auto run = [&](const Place& of, std::int64_t k, std::int64_t r) GRADFUSE_INLINE {
            Run at;
            for (int i = 0; i < inputs; ++i) at.in[i] = in[i] + k * length + r * g_.run;
            for (int c = 0; c < columns; ++c) at.w[c] = column_of(c, of, all(), r);
            at.out = out + k * length + r * g_.run;
            return at;
        };
        alignas(64) T local[locals + 1][batch], constants[Base::constants + 1][batch];
        if constexpr (F::reduces) {
            reduce_block(b, from, count, run, local, scratch.totals);
            for_lanes(count, [&](std::int64_t k) GRADFUSE_INLINE {
                set_lane<T>(f_.constants(lane_of<Record, double>(b.whole, from + k), lane_of<Local, T>(local, k),
                                         b.group(from + k), 0),
                            constants, k);
            });
        } else {
            for_lanes(count, [&](std::int64_t k) GRADFUSE_INLINE {
                set_lane<T>(f_.constants({}, {}, b.group(from + k), 0), constants, k);
            });
        }
        for (std::int64_t k = 0; k < count; ++k) {
            const Constants c = lane_of<Constants, T>(constants, k);
            const Place of = place(b, from + k);
            for (std::int64_t r = 0; r < g_.runs; ++r) {
                Run at = run(of, k, r);
                if (F::keeps) at.in[0] = at.out;
                if (adds_terms()) {
                    map_and_add(c, all(), of, at.in, at.w, at.out, scratch.sums.data());
                } else {
                    map_run(c, g_.run, at.in, at.w, at.out);
                }
            }
        }
        if constexpr (Stages::possible) stages_.after_map(base, count * length, out);
        out_.commit(base, count * length, out);
    }
    template <class RunOf, class Locals>
    void reduce_block(Batch& b, std::int64_t from, std::int64_t count, const RunOf& run, Locals& local,
                      double* totals) const {
        const std::int64_t length = g_.length();
        alignas(64) T center[batch];
        for (std::int64_t k = 0; k < count; ++k) {
            center[k] = 0;
            if constexpr (has_first) {
                using First = typename F::First;
                alignas(64) T tops[L1];
                for (T& top : tops) top = First::start;
                first(length, run(place(b, from + k), k, 0).in, tops);
                center[k] =
                    join_lanes(tops, [](const auto& x, const auto& y) GRADFUSE_INLINE { return First::join(x, y); });
            }
        }
        const double n = double(length);
        for_lanes(count, [&](std::int64_t k)
                             GRADFUSE_INLINE { set_lane<T>(f_.local(center[k], n, b.group(from + k), 0), local, k); });
        if constexpr (weighs_runs) {
            for (std::int64_t k = 0; k < count; ++k) {
                const Place at = place(b, from + k);
                const Record whole = merged(g_.runs, [&](std::int64_t r) GRADFUSE_INLINE {
                    return weighed(at, r, record_of(lane_of<Local, T>(local, k), g_.run, run(at, k, r).in), totals);
                });
                set_lane<double>(whole, b.whole, from + k);
            }
            return;
        }
        alignas(64) Real total[sums][batch];
        for (std::int64_t k = 0; k < count; ++k) {
            alignas(64) Real lanes[sums][L] = {};
            const Run at = run(place(b, from + k), k, 0);
            second<F::keeps>(lane_of<Local, T>(local, k), length, at.in, at.w, at.out, lanes);
            const auto plus = [](const auto& x, const auto& y) GRADFUSE_INLINE { return x + y; };
            for (int m = 0; m < sums; ++m) total[m][k] = join_lanes(lanes[m], plus);
        }
        for_lanes(count, [&](std::int64_t k) GRADFUSE_INLINE {
            set_lane<double>(f_.record(lane_of<Local, T>(local, k), lane_of<Sums, Real>(total, k), n), b.whole,
                             from + k);
        });
    }

    // Long rows in cache, read and written in place: each row is reduced while the row before it is mapped.
    struct InPlace {
        Place at;
        const T *in[2], *w[2];
        T* out;
        Local local;
    };
    GRADFUSE_HD InPlace in_place(const Place& at) const {
        InPlace g{at, {}, {}, out_(at.base, nullptr), f_.local(0, double(g_.run), at.group, 0)};
        for (int i = 0; i < 2; ++i) g.in[i] = in_[i](at.base, 0, nullptr);
        for (int c = 0; c < 2; ++c) g.w[c] = column_of(c, at, all(), 0);
        return g;
    }
    GRADFUSE_HD void overlapping(Batch& b) const {
        if constexpr (F::maps && F::reduces && !has_first) {
            InPlace now = in_place(place(b, 0));
            alignas(64) Real lanes[sums][L] = {};
            second<false>(now.local, g_.run, now.in, now.w, nullptr, lanes);
            Record whole = record(now.local, lanes, double(g_.run));
            for (std::int64_t k = 0; k < b.count; ++k) {
                const Constants c = f_.constants(whole, now.local, now.at.group, 0);
                set_lane<double>(whole, b.whole, k);
                if (k + 1 == b.count) {
                    map_run(c, g_.run, now.in, now.w, now.out);
                    break;
                }
                const InPlace next = in_place(place(b, k + 1));
                whole = map_and_reduce(c, now, next);
                now = next;
            }
        }
    }
    GRADFUSE_HD Record map_and_reduce(const Constants& c, const InPlace& now, const InPlace& next) const {
        T* const out = now.out;
        const Local local = next.local;
        const T *const x[] = {now.in[0], now.in[1]}, *const y[] = {next.in[0], next.in[1]};
        const T *const v[] = {now.w[0], now.w[1]}, *const w[] = {next.w[0], next.w[1]};
        alignas(64) Real lanes[sums][L] = {}, last_lanes[sums][L];
        const auto mapped = [&](std::int64_t i, T position, bool there) GRADFUSE_INLINE {
            return Call::map(f_, c, position, input_at(x, i, there), column_at(v, i, there)).v[0];
        };
        const LastVector<T> last(
            int(g_.run), [&](int i, T position, bool there) GRADFUSE_INLINE { return mapped(i, position, there); });
        in_lanes<T, L>(
            g_.run,
            [&](int l, std::int64_t i, T position, bool there, auto whole) GRADFUSE_INLINE {
                const T of_now = mapped(i, position, there);
                Sums s = make<Sums, Real>([&](int k) GRADFUSE_INLINE { return lanes[k][l]; });
                Call::add(f_, s, local, position, input_at(y, i, there), column_at(w, i, there));
                if constexpr (whole) out[i] = of_now;
                take<Real>(s, [&](int k, Real v) GRADFUSE_INLINE { (whole ? lanes : last_lanes)[k][l] = v; });
            },
            [&](int first, int there) GRADFUSE_INLINE { take_lanes<T>(last_lanes, first, there, lanes); });
        last.store(out);
        return record(local, lanes, double(g_.run));
    }

    // First all parts of all groups are reduced, then all are mapped, in the order of memory.
    template <class SumsOf>
    void apart(std::int64_t per_slot, std::int64_t slots, const SumsOf& sums_of) const {
        const std::int64_t groups = g_.count();
        const Heap<Record> record(groups * parts_);
        const Heap<Local> local(groups * parts_);
        const Heap<Group> group(groups);
        for (std::int64_t g = 0; g < groups; ++g) {
            double numbers[most][1];
            this->read_numbers(g, 1, numbers);
            if constexpr (F::picks) this->pick(place(g, {}).base, g, 0, numbers);
            group[g] = make<Group, double>([&](int m) { return numbers[m][0]; });
        }
        const bool stores = F::keeps && out_.direct();
        const auto reduce_part = [&](std::int64_t g, std::int64_t p, const Scratch& scratch) {
            const std::int64_t k = g * parts_ + p;
            record[k] =
                reduce(place(g, group[g]), part(p), stores, scratch.in.data(), scratch.kept.data(), local[k], nullptr);
        };
        const auto map_part = [&](std::int64_t g, std::int64_t p, const Record& whole, bool loads,
                                  const Scratch& scratch) {
            map(place(g, group[g]), part(p), local[g * parts_ + p], whole, stores, loads, scratch.in.data(),
                scratch.kept.data(), scratch.out.data(), scratch.sums.data());
        };
        if constexpr (F::reduces) {
            for_parts([&](std::int64_t g, std::int64_t p, const Scratch& scratch) {
                reduce_part(g, p, scratch);
                if (F::maps && !F::waits) map_part(g, p, record[g * parts_ + p], false, scratch);
            });
        }
        for (std::int64_t g = 0; g < groups && F::reduces; ++g) {
            Record& whole = record[g * parts_];
            for (std::int64_t p = 1; p < parts_; ++p) f_.merge(whole, record[g * parts_ + p]);
            if constexpr (group_outputs > 0) {
                double result[group_outputs], results[group_outputs + 1][1];
                f_.finish(whole, group[g], result);
                for (int m = 0; m < group_outputs; ++m) results[m][0] = result[m];
                this->write_numbers(g, 1, results);
            }
        }
        if (!F::maps || (F::reduces && !F::waits)) return;
        if (!wanted_) {
            for_parts([&](std::int64_t g, std::int64_t p, const Scratch& scratch) {
                map_part(g, p, record[g * parts_], true, scratch);
            });
            return;
        }
        parallel(slots * parts_, [&](std::int64_t t) {
            const Scratch scratch(*this, 1, nullptr);
            const std::int64_t s = t / parts_, p = t % parts_,
                               end = (s + 1) * per_slot < groups ? (s + 1) * per_slot : groups;
            for (std::int64_t g = s * per_slot; g < end; g += batch) {
                clear_sums(scratch.sums, part(p));
                for (std::int64_t k = g; k < g + batch && k < end; ++k) {
                    map_part(k, p, record[k * parts_], true, scratch);
                }
                add_sums(scratch.sums, part(p), sums_of(s));
            }
        });
    }
    // Calls f(group, part, scratch) for all parts in the order of memory.
    template <class Each>
    void for_parts(const Each& f) const {
        constexpr std::int64_t per_task = 8;
        const std::int64_t side_by_side = g_.count() * pieces_, all = g_.count() * parts_;
        parallel((all + per_task - 1) / per_task, [&](std::int64_t t) {
            const Scratch scratch(*this, 1, nullptr);
            for (std::int64_t k = t * per_task; k < (t + 1) * per_task && k < all; ++k) {
                const std::int64_t runs = k / side_by_side, piece = k % side_by_side;
                f(piece / pieces_, runs * pieces_ + piece % pieces_, scratch);
            }
        });
    }

    const std::int64_t pieces_, together_, parts_;
    const bool direct_, joins_, resident_, stores_, held_;
    const bool blocks_, overlaps_;  // groups are computed in blocks; each group is reduced while another is mapped
};

}  // namespace GRADFUSE_ISA
}  // namespace gradfuse
