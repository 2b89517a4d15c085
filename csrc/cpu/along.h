// "Reduce, then map" where a group lies in one or several runs of memory. Lanes are elements of the group, parts are
// tiles.
#pragma once

#include "cpu/groups.h"

namespace gradfuse {
inline namespace GRADFUSE_ISA {

template <class F, Columns C, class Stages>
class Along : Loop<F, C, Stages> {
    using Base = Loop<F, C, Stages>;
    using Base::f_, Base::g_, Base::a_, Base::stages_, Base::in_, Base::out_, Base::wanted_, Base::width_;
    using Base::inputs, Base::columns, Base::column_sums, Base::group_outputs, Base::records, Base::sums,
        Base::has_first, Base::sums_columns, Base::most;
    using typename Base::Call, typename Base::Constants, typename Base::Group, typename Base::Local,
        typename Base::Real, typename Base::Record, typename Base::Sums, typename Base::T;
    static constexpr std::int64_t part_size = tile_size, resident_bytes = 1 << 18, batch = 32;
    static constexpr int L = lanes_of<Real, sums>, L1 = lanes_of<T, 1>;

public:
    Along(const F& f, const Grouping& g, const ReduceMapArrays& a, const Stages& stages)
        : Base(f, g, a, stages),
          pieces_((g.run + part_size - 1) / part_size),
          together_(g.run < part_size ? part_size / g.run : 1),
          parts_(pieces_ * ((g.runs + together_ - 1) / together_)),
          direct_(!stages.active() && in_[0].direct() && in_[inputs - 1].direct()),
          resident_(g.length() * std::int64_t(sizeof(T)) <= resident_bytes),
          stores_(F::keeps && (out_.direct() || resident_)),
          held_(Stages::keeps_first && stages.active() && out_.direct() && F::maps && F::reduces),
          in_place_(parts_ == 1 && g.runs == 1 && direct_ && out_.direct() && !wanted_ && F::maps) {}

    void run() const {
        // Slots of groups are cut by shape alone, each with sums of its columns.
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
        const bool scattered = g_.runs > 1 && groups * n > 2 * block_size && (!F::reduces || !resident_);
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

    // What a thread needs: tiles for what cannot be read or written where it lies, for one part or for all of a group.
    struct Scratch {
        Scratch(const Along& loop, std::int64_t parts)
            : in(loop.direct_ ? 0 : inputs * parts * tile_size),
              kept(!F::keeps || (loop.stores_ && loop.out_.direct()) ? 0
                   : loop.stores_                                    ? parts * tile_size
                                                                     : tile_size),
              out(loop.out_.direct() ? 0 : tile_size),
              sums(loop.wanted_ ? column_sums * loop.width_ : 0) {}
        const Heap<T> in, kept, out, sums;  // sums: of columns, of a batch of groups
    };

    // One group as a thread sees it.
    struct Place {
        std::int64_t index, base;  // base: its first element
        Group group;
    };

    Place place(std::int64_t g, const Group& group) const {
        const std::int64_t block = g_.blocks == 1 ? 0 : g / g_.groups;
        return {g, block * g_.block_stride + (g - block * g_.groups) * g_.group_stride, group};
    }
    std::int64_t start(const Place& at, const Part& p, std::int64_t r) const {
        return at.base + (p.run + r) * g_.run_stride + p.offset;
    }

    // The inputs of a part's r-th run; `loads`: they have not been brought to scratch yet; `again`: for the map.
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
        return this->column(c, at.index) + (C == Columns::per_run ? p.run + r : p.offset);
    }
    void columns_of(const Place& at, const Part& p, std::int64_t r, const T** w) const {
        for (int c = 0; c < columns; ++c) w[c] = column_of(c, at, p, r);
    }
    // z as the forward of a backward mapped it, from its statistics.
    void map_again(const Place& at, const Part& p, std::int64_t r, const T* x, T* z) const {
        if constexpr (Stages::keeps_first) {
            using Forward = typename Stages::Forward;
            const Forward& forward = stages_.forward;
            const auto c = Stages::constants(forward, at.group);
            const T* const w[] = {column_of(0, at, p, r), column_of(1, at, p, r)};
            for_elements<T>(int(p.n), 0, [&](int i, T position, bool there) GRADFUSE_INLINE {
                const auto y = Element<Forward, C>::map(
                    forward, c, position, [&](int) GRADFUSE_INLINE { return there ? x[i] : T(0); },
                    column_at(w, i, there));
                if (there) z[i] = y.v[0];
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

    Record reduce(const Place& at, const Part& p, bool stores, T* in_scratch, T* kept_scratch, Local& local) const {
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
        const auto plus = [](const auto& a, const auto& b) GRADFUSE_INLINE { return a + b; };
        const auto total = make<Sums, Real>([&](int k) { return join_lanes(lanes[k], plus); });
        return f_.record(local, total, double(p.count()));
    }

    GRADFUSE_HD void first(std::int64_t n, const T* const* in, T (&lanes)[L1]) const {
        const T* const from[] = {in[0], in[inputs - 1]};
        in_lanes<T, L1>(n, [&](int l, std::int64_t i, T, bool there) GRADFUSE_INLINE {
            const auto x = [&](int k) GRADFUSE_INLINE { return there ? from[k][i] : T(0); };
            const T joined = F::First::join(lanes[l], Call::first(f_, x));
            lanes[l] = there ? joined : lanes[l];
        });
    }

    template <bool Store>
    GRADFUSE_HD void second(const Local& local, std::int64_t n, const T* const* in, const T* const* w, T* kept,
                            Real (&lanes)[sums][L]) const {
        const T* const from[] = {in[0], in[inputs - 1]};
        const T* const column[] = {w[0], w[columns > 1 ? 1 : 0]};
        const Local c = local;
        in_lanes<T, L>(n, [&](int l, std::int64_t i, T position, bool there) GRADFUSE_INLINE {
            const auto x = [&](int k) GRADFUSE_INLINE { return there ? from[k][i] : T(0); };
            Sums s = make<Sums, Real>([&](int k) GRADFUSE_INLINE { return lanes[k][l]; });
            const T e = Call::add(f_, s, c, position, x, column_at(column, i, there));
            if constexpr (Store) {
                if (there) kept[i] = e;
            }
            take<Real>(s, [&](int k, Real v) GRADFUSE_INLINE { lanes[k][l] = there ? v : lanes[k][l]; });
        });
    }

    void map(const Place& at, const Part& p, const Local& local, const Record& whole, bool stores, bool loads,
             T* in_scratch, T* kept_scratch, T* out_scratch, T* batch_sums, const T* const* next) const {
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
                if (wanted_) {
                    map_and_add(c, p, r, at, in, w, out, batch_sums);
                } else {
                    map_and_fetch(c, p.n, in, w, out, next);
                }
                if constexpr (Stages::possible) stages_.after_map(start(at, p, r), p.n, out);
                out_.commit(start(at, p, r), p.n, out);
            }
        }
    }

    GRADFUSE_HD void map_run(const Constants& constants, std::int64_t at, std::int64_t n, const T* const* in,
                             const T* const* w, T* out) const {
        const Constants c = constants;
        const T* const from[] = {in[0], in[inputs - 1]};
        const T* const column[] = {w[0], w[columns > 1 ? 1 : 0]};
        for_elements<T>(int(n), int(at), [&](int i, T position, bool there) GRADFUSE_INLINE {
            const auto x = [&](int k) GRADFUSE_INLINE { return there ? from[k][i] : T(0); };
            const T y = Call::map(f_, c, position, x, column_at(column, i, there)).v[0];
            if (there) out[i] = y;
        });
    }
    // While a group is written the next one is fetched: memory is read without a pause.
    void map_and_fetch(const Constants& c, std::int64_t n, const T* const* in, const T* const* w, T* out,
                       const T* const* next) const {
        constexpr std::int64_t chunk = 1024 / sizeof(T), line = 64 / sizeof(T);
        if (!next) return map_run(c, 0, n, in, w, out);
        for (std::int64_t at = 0; at < n; at += chunk) {
            const std::int64_t count = n - at < chunk ? n - at : chunk;
            const T *x[inputs], *v[columns + 1];
            for (int i = 0; i < inputs; ++i) {
                for (std::int64_t j = 0; j < count; j += line) __builtin_prefetch(next[i] + at + j);
                x[i] = in[i] + at;
            }
            for (int k = 0; k < columns; ++k) v[k] = w[k] + (C == Columns::per_position ? at : 0);
            map_run(c, at, count, x, v, out + at);
        }
    }
    // Terms of the column sums go to their positions, or, of a run that shares one column, to lanes.
    void map_and_add(const Constants& constants, const Part& p, std::int64_t r, const Place& at, const T* const* in,
                     const T* const* w, T* out, T* totals) const {
        if constexpr (sums_columns) {
            const Constants c = constants;
            const T* const from[] = {in[0], in[inputs - 1]};
            const T* const column[] = {w[0], w[columns > 1 ? 1 : 0]};
            const std::int64_t first = at.index % a_.periods * this->per_period_;
            constexpr int K = column_sums;
            if constexpr (C == Columns::per_run) {
                constexpr int lanes = lanes_of<double, K>;
                alignas(64) double a[K][lanes] = {};
                in_lanes<T, lanes>(p.n, [&](int l, std::int64_t i, T position, bool there) GRADFUSE_INLINE {
                    const auto x = [&](int k) GRADFUSE_INLINE { return there ? from[k][i] : T(0); };
                    const auto y = Call::map(f_, c, position, x, column_at(column, i, there));
                    if (there) out[i] = y.v[0];
                    for (int k = 0; k < K; ++k) a[k][l] += there ? double(y.v[1 + k]) : 0.0;
                });
                const auto plus = [](const auto& u, const auto& v) GRADFUSE_INLINE { return u + v; };
                for (int k = 0; k < K; ++k) totals[k * width_ + first + p.run + r] += T(join_lanes(a[k], plus));
            } else {
                T* const to[] = {totals + first + p.offset, totals + (K - 1) * width_ + first + p.offset};
                for_elements<T>(int(p.n), 0, [&](int i, T position, bool there) GRADFUSE_INLINE {
                    const auto x = [&](int k) GRADFUSE_INLINE { return there ? from[k][i] : T(0); };
                    const auto y = Call::map(f_, c, position, x, column_at(column, i, there));
                    if (there) out[i] = y.v[0];
                    for (int k = 0; k < K; ++k) {
                        if (there) to[k][i] += y.v[1 + k];
                    }
                });
            }
        }
    }

    // Groups [begin, end), one after another, in batches: numbers are read and written, sums of columns widened,
    // together.
    void some_groups(std::int64_t begin, std::int64_t end, double* column_totals) const {
        const Scratch scratch(*this, in_place_ ? 0 : resident_ ? parts_ : 1);
        const Heap<Local> local(in_place_ ? 0 : parts_);
        double numbers[most][batch], results[group_outputs + 1][batch], whole[records][batch];
        for (std::int64_t g = begin; g < end; g += batch) {
            const std::int64_t count = end - g < batch ? end - g : batch;
            this->read_numbers(g, count, numbers);
            if constexpr (F::picks) {
                for (std::int64_t k = 0; k < count; ++k) this->pick(place(g + k, {}).base, g + k, k, numbers);
            }
            const auto at = [&](std::int64_t k) GRADFUSE_INLINE {
                return place(g + k, make<Group, double>([&](int m) GRADFUSE_INLINE { return numbers[m][k]; }));
            };
            const auto done = [&](std::int64_t k, const Record& record) GRADFUSE_INLINE {
                if constexpr (group_outputs > 0) {
                    take<double>(record, [&](int m, double v) GRADFUSE_INLINE { whole[m][k] = v; });
                }
            };
            if (in_place_) {
                groups_in_place(count, g + count < end, at, done);
            } else {
                clear_sums(scratch.sums, all());
                for (std::int64_t k = 0; k < count; ++k) {
                    done(k, one_group(at(k), direct_ && g + k + 1 < end, scratch, local.data()));
                }
                add_sums(scratch.sums, all(), column_totals);
            }
            if constexpr (group_outputs > 0) {
                for_lanes(count, [&](std::int64_t k) GRADFUSE_INLINE {
                    double result[group_outputs];
                    f_.finish(make<Record, double>([&](int m) GRADFUSE_INLINE { return whole[m][k]; }),
                              make<Group, double>([&](int m) GRADFUSE_INLINE { return numbers[m][k]; }), result);
                    for (int m = 0; m < group_outputs; ++m) results[m][k] = result[m];
                });
                this->write_numbers(g, count, results);
            }
        }
    }
    // Sums of the columns that a part has: f(i) for the place of each.
    template <class Each>
    void for_sums(const Part& p, const Each& f) const {
        const std::int64_t first = C == Columns::per_run ? p.run : p.offset, n = C == Columns::per_run ? p.runs : p.n;
        for (std::int64_t c = 0; c < column_sums * a_.periods; ++c) {
            for_lanes(n, [&](std::int64_t i) GRADFUSE_INLINE { f(c * this->per_period_ + first + i); });
        }
    }
    void clear_sums(const Heap<T>& sums, const Part& p) const {
        T* const to = sums.data();
        if (wanted_) for_sums(p, [&](std::int64_t i) GRADFUSE_INLINE { to[i] = 0; });
    }
    void add_sums(const Heap<T>& sums, const Part& p, double* totals) const {
        const T* const from = sums.data();
        if (wanted_) for_sums(p, [&](std::int64_t i) GRADFUSE_INLINE { totals[i] += double(from[i]); });
    }

    Record one_group(const Place& at, bool fetches, const Scratch& scratch, Local* local) const {
        const T* next[2];
        for (int i = 0; i < inputs && fetches; ++i) {
            next[i] = in_[i](start(place(at.index + 1, at.group), part(0), 0), 0, nullptr);
        }
        const auto in_tile = [&](std::int64_t p) {
            return scratch.in.data() + (resident_ ? p * inputs * tile_size : 0);
        };
        const auto kept_tile = [&](std::int64_t p) {
            return scratch.kept.data() + (stores_ && !out_.direct() ? p * tile_size : 0);
        };
        const auto map_part = [&](std::int64_t p, const Record& whole, bool loads) {
            map(at, part(p), local[p], whole, stores_, loads, in_tile(p), kept_tile(p), scratch.out.data(),
                scratch.sums.data(), p == 0 && fetches ? next : nullptr);
        };
        Record whole{};
        for (std::int64_t p = 0; p < parts_ && F::reduces; ++p) {
            const Record record = reduce(at, part(p), stores_, in_tile(p), kept_tile(p), local[p]);
            if (F::maps && !F::waits) map_part(p, record, false);
            if (p == 0) {
                whole = record;
            } else {
                f_.merge(whole, record);
            }
        }
        if (F::maps && F::waits) {
            for (std::int64_t p = parts_ - 1; p >= 0; --p)
                map_part(p, whole, !resident_);  // the last is still in cache
        } else if (F::maps && !F::reduces) {
            for (std::int64_t p = 0; p < parts_; ++p) map_part(p, whole, true);
        }
        return whole;
    }

    // Groups of one part and one run, read and written where they lie. Without a first reduction a group is reduced
    // while the one before it is mapped.
    struct InPlace {
        Place at;
        const T *in[2], *w[2];
        T* out;
        Local local;
    };
    GRADFUSE_HD InPlace in_place(const Place& at) const {
        InPlace g{at, {}, {}, out_(at.base, nullptr), {}};
        for (int i = 0; i < 2; ++i) g.in[i] = in_[i](at.base, 0, nullptr);
        for (int c = 0; c < 2; ++c) g.w[c] = column_of(c, at, all(), 0);
        return g;
    }
    GRADFUSE_HD Record record(const Local& local, const Real (&lanes)[sums][L]) const {
        const auto plus = [](const auto& a, const auto& b) GRADFUSE_INLINE { return a + b; };
        const auto total = make<Sums, Real>([&](int k) GRADFUSE_INLINE { return join_lanes(lanes[k], plus); });
        return f_.record(local, total, double(g_.run));
    }
    template <class At, class Done>
    GRADFUSE_HD void groups_in_place(std::int64_t count, bool more, const At& at, const Done& done) const {
        if constexpr (F::maps) {
            const std::int64_t n = g_.run;
            if constexpr (!F::reduces) {
                for (std::int64_t k = 0; k < count; ++k) {
                    const InPlace g = in_place(at(k));
                    map_run(f_.constants({}, {}, g.at.group, 0), 0, n, g.in, g.w, g.out);
                }
            } else if constexpr (has_first) {
                using First = typename F::First;
                for (std::int64_t k = 0; k < count; ++k) {
                    InPlace g = in_place(at(k));
                    alignas(64) T tops[L1];
                    for (T& top : tops) top = First::start;
                    first(n, g.in, tops);
                    const auto join = [](const auto& a, const auto& b) GRADFUSE_INLINE { return First::join(a, b); };
                    g.local = f_.local(join_lanes(tops, join), double(n), g.at.group, 0);
                    alignas(64) Real lanes[sums][L] = {};
                    second<F::keeps>(g.local, n, g.in, g.w, g.out, lanes);
                    const Record whole = record(g.local, lanes);
                    const T* const in[] = {F::keeps ? g.out : g.in[0], g.in[1]};
                    const T* const next[] = {g.in[0] + g_.group_stride, g.in[1] + g_.group_stride};
                    map_and_fetch(f_.constants(whole, g.local, g.at.group, 0), n, in, g.w, g.out,
                                  k + 1 < count || more ? next : nullptr);
                    done(k, whole);
                }
            } else {
                InPlace now = in_place(at(0));
                now.local = f_.local(0, double(n), now.at.group, 0);
                alignas(64) Real lanes[sums][L] = {};
                second<false>(now.local, n, now.in, now.w, nullptr, lanes);
                Record whole = record(now.local, lanes);
                for (std::int64_t k = 0; k < count; ++k) {
                    const Constants c = f_.constants(whole, now.local, now.at.group, 0);
                    done(k, whole);
                    if (k + 1 == count) {
                        map_run(c, 0, n, now.in, now.w, now.out);
                        break;
                    }
                    InPlace next = in_place(at(k + 1));
                    next.local = f_.local(0, double(n), next.at.group, 0);
                    whole = map_and_reduce(c, now, next);
                    now = next;
                }
            }
        }
    }
    GRADFUSE_HD Record map_and_reduce(const Constants& c, const InPlace& now, const InPlace& next) const {
        T* const out = now.out;
        const Local local = next.local;
        const T *const x[] = {now.in[0], now.in[1]}, *const y[] = {next.in[0], next.in[1]};
        const T *const v[] = {now.w[0], now.w[1]}, *const w[] = {next.w[0], next.w[1]};
        alignas(64) Real lanes[sums][L] = {};
        in_lanes<T, L>(g_.run, [&](int l, std::int64_t i, T position, bool there) GRADFUSE_INLINE {
            const auto of_now = [&](int k) GRADFUSE_INLINE { return there ? x[k][i] : T(0); };
            const auto of_next = [&](int k) GRADFUSE_INLINE { return there ? y[k][i] : T(0); };
            const T mapped = Call::map(f_, c, position, of_now, column_at(v, i, there)).v[0];
            Sums s = make<Sums, Real>([&](int k) GRADFUSE_INLINE { return lanes[k][l]; });
            Call::add(f_, s, local, position, of_next, column_at(w, i, there));
            if (there) out[i] = mapped;
            take<Real>(s, [&](int k, Real value) GRADFUSE_INLINE { lanes[k][l] = there ? value : lanes[k][l]; });
        });
        return record(local, lanes);
    }

    // All parts are reduced, then all are mapped, in the order of memory, whatever group they are of.
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
            record[k] = reduce(place(g, group[g]), part(p), stores, scratch.in.data(), scratch.kept.data(), local[k]);
        };
        const auto map_part = [&](std::int64_t g, std::int64_t p, const Record& whole, bool loads,
                                  const Scratch& scratch) {
            map(place(g, group[g]), part(p), local[g * parts_ + p], whole, stores, loads, scratch.in.data(),
                scratch.kept.data(), scratch.out.data(), scratch.sums.data(), nullptr);
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
            const Scratch scratch(*this, 1);
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
    // Calls f(group, part, scratch) for all parts, as they follow each other in memory.
    template <class Each>
    void for_parts(const Each& f) const {
        constexpr std::int64_t per_task = 8;
        const std::int64_t side_by_side = g_.count() * pieces_, all = g_.count() * parts_;
        parallel((all + per_task - 1) / per_task, [&](std::int64_t t) {
            const Scratch scratch(*this, 1);
            for (std::int64_t k = t * per_task; k < (t + 1) * per_task && k < all; ++k) {
                const std::int64_t runs = k / side_by_side, piece = k % side_by_side;
                f(piece / pieces_, runs * pieces_ + piece % pieces_, scratch);
            }
        });
    }

    const std::int64_t pieces_, together_, parts_;
    const bool direct_, resident_, stores_, held_, in_place_;
};

}  // namespace GRADFUSE_ISA
}  // namespace gradfuse
