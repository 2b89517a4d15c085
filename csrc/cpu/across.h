// "Reduce, then map" where the elements of a group lie apart, those of neighboring groups side by side. Lanes are
// groups, parts are 64 positions of all of them.
#pragma once

#include "cpu/groups.h"

namespace gradfuse {
inline namespace GRADFUSE_ISA {

template <class F, Columns C, class Stages>
class Across : Loop<F, C, Stages> {
    using Base = Loop<F, C, Stages>;
    using Base::f_, Base::g_, Base::a_, Base::stages_, Base::in_, Base::out_, Base::wanted_, Base::width_;
    using Base::inputs, Base::columns, Base::column_sums, Base::group_outputs, Base::records, Base::sums, Base::locals,
        Base::constants, Base::has_first, Base::sums_columns, Base::most;
    using typename Base::Call, typename Base::Constants, typename Base::Group, typename Base::Local,
        typename Base::Real, typename Base::Record, typename Base::Sums, typename Base::T;
    static constexpr std::int64_t part_size = 64, strip = 512;  // positions, groups

    // A member of many groups' structs: one array of lanes each.
    template <int Members, class V>
    using Lanes = V[Members > 0 ? Members : 1][strip];
    template <class S, class V, class From>
    static GRADFUSE_HD S lane_of(const From& from, std::int64_t l) {
        return make<S, V>([&](int m) GRADFUSE_INLINE { return from[m][l]; });
    }
    template <class V, class S, class To>
    static GRADFUSE_HD void set_lane(const S& s, To& to, std::int64_t l) {
        take<V>(s, [&](int m, V value) GRADFUSE_INLINE { to[m][l] = value; });
    }

public:
    Across(const F& f, const Grouping& g, const ReduceMapArrays& a, const Stages& stages)
        : Base(f, g, a, stages),
          parts_((g.length() + part_size - 1) / part_size),
          lanes_(strip / g.members * g.members),
          strips_((g.groups + lanes_ - 1) / lanes_),
          direct_(!stages.active() && in_[0].direct() && in_[inputs - 1].direct()),
          stores_(F::keeps && out_.direct()),
          held_(Stages::keeps_first && stages.active() && out_.direct() && F::maps && F::reduces) {}

    void run() const {
        // As many neighboring strips as make a task, each with sums of the columns.
        const std::int64_t all = g_.blocks * strips_, size = g_.length() * (g_.groups < strip ? g_.groups : strip);
        const std::int64_t per_task = wanted_ ? (all + 63) / 64 : 1 + block_size / (size + 1),
                           tasks = (all + per_task - 1) / per_task;
        const Heap<double> slot_sums(wanted_ ? column_sums * width_ * tasks : 0);
        if (wanted_) {
            for (std::int64_t i = 0; i < column_sums * width_ * tasks; ++i) slot_sums[i] = 0;
        }
        if (parts_ > 1 && all * size > 2 * block_size && all < 2 * get_num_threads() && !wanted_) {
            for (std::int64_t s = 0; s < all; ++s) apart(s);
            return;
        }
        const auto task = [&](std::int64_t t) {
            const Scratch scratch(*this);
            for (std::int64_t s = t * per_task; s < (t + 1) * per_task && s < all; ++s) {
                one_strip(s, scratch, wanted_ ? slot_sums.data() + t * column_sums * width_ : nullptr);
            }
        };
        if (all * size <= 2 * block_size) {
            for (std::int64_t t = 0; t < tasks; ++t) task(t);
        } else {
            parallel(tasks, task);
        }
        if (wanted_) this->write_column_sums(slot_sums, tasks);
    }

private:
    struct Strip {
        std::int64_t base, group, width;  // its first element and group, how many groups
    };
    struct Scratch {
        explicit Scratch(const Across& loop)
            : in(loop.direct_ ? 0 : inputs * part_size * strip), out(part_size * strip), local(loop.parts_) {}
        const Heap<T> in, out;
        const Heap<Lanes<locals, T>> local;
    };
    struct Numbers {
        alignas(64) double in[most][strip], out[group_outputs + 1][strip];
    };
    using Records = Lanes<records, double>;

    Strip strip_at(std::int64_t s) const {
        const std::int64_t b = s / strips_, first = s % strips_ * lanes_, left = g_.groups - first;
        return {b * g_.block_stride + first, b * g_.groups + first, left < lanes_ ? left : lanes_};
    }
    void read(const Strip& at, Numbers& n) const {
        this->read_numbers(at.group, at.width, n.in);
        if constexpr (F::picks) {
            for (std::int64_t l = 0; l < at.width; ++l) this->pick(at.base + l, at.group + l, l, n.in);
        }
    }
    void finish(const Strip& at, const Records& whole, Numbers& n) const {
        if constexpr (group_outputs > 0) {
            for_lanes(at.width, [&](std::int64_t l) GRADFUSE_INLINE {
                double result[group_outputs];
                f_.finish(lane_of<Record, double>(whole, l), lane_of<Group, double>(n.in, l), result);
                for (int m = 0; m < group_outputs; ++m) n.out[m][l] = result[m];
            });
            this->write_numbers(at.group, at.width, n.out);
        }
    }
    std::int64_t count_of(std::int64_t p) const {
        const std::int64_t left = g_.length() - p * part_size;
        return left < part_size ? left : part_size;
    }

    // Where the inputs of a part's positions are.
    struct Inputs {
        const T* at[inputs][part_size];
    };
    void inputs_of(const Strip& at, std::int64_t p, const Numbers& n, T* scratch, bool loads, bool again,
                   Inputs& in) const {
        const std::int64_t first = p * part_size, count = count_of(p);
        if constexpr (Stages::keeps_first) {
            alignas(64) Lanes<forward_constants<Stages>, T> c;
            if (!direct_) forward_constants_of(at, n, c);
            fill(at, first, count, scratch, loads, again, in,
                 [&](std::int64_t k, const T* x, T* z) { map_again(at, k, c, x, z); });
        } else {
            fill(at, first, count, scratch, loads, again, in, [](std::int64_t, const T*, T*) {});
        }
    }
    template <class MapAgain>
    void fill(const Strip& at, std::int64_t first, std::int64_t count, T* scratch, bool loads, bool again, Inputs& in,
              const MapAgain& map_again) const {
        for (int i = inputs - 1; i >= 0; --i) {
            const bool held = held_ && i == 0, makes = loads && !(held && again);
            for (std::int64_t j = 0; j < count; ++j) {
                const std::int64_t start = at.base + (first + j) * g_.run_stride;
                T* const tile = scratch + (i * part_size + j) * strip;
                T* const own = held ? out_(start, nullptr) : tile;
                if (direct_) {
                    in.at[i][j] = in_[i](start, at.width, nullptr);
                } else if constexpr (Stages::possible) {
                    in.at[i][j] = stages_.input(in_[i], i, start, at.width, own, makes,
                                                [&](T* z) { map_again(first + j, in.at[inputs - 1][j], z); });
                } else {
                    in.at[i][j] = makes || in_[i].direct() ? in_[i](start, at.width, own) : own;
                }
            }
        }
    }
    // z as the forward of a backward mapped it, from its statistics.
    template <class S>
    static constexpr int forward_constants = members<typename S::Forward::Constants, T>;
    template <class To>
    void forward_constants_of(const Strip& at, const Numbers& n, To& c) const {
        for_lanes(at.width, [&](std::int64_t l) GRADFUSE_INLINE {
            set_lane<T>(Stages::constants(stages_.forward, lane_of<Group, double>(n.in, l)), c, l);
        });
    }
    template <class From>
    void map_again(const Strip& at, std::int64_t k, const From& c, const T* x, T* z) const {
        using Forward = typename Stages::Forward;
        const T w[] = {C == Columns::none ? T(0) : this->column(0, at.group)[k],
                       C == Columns::none ? T(0) : this->column(1, at.group)[k]};
        for_lanes(at.width, [&](std::int64_t l) GRADFUSE_INLINE {
            const auto constants = lane_of<typename Forward::Constants, T>(c, l);
            z[l] = Element<Forward, C>::map(
                       stages_.forward, constants, T(0), [&](int) GRADFUSE_INLINE { return x[l]; },
                       [&](int m) GRADFUSE_INLINE { return w[m]; })
                       .v[0];
        });
    }
    void columns_of(const Strip& at, std::int64_t k, const T** w) const {
        for (int c = 0; c < columns; ++c) w[c] = C == Columns::none ? nullptr : this->column(c, at.group) + k;
    }

    void reduce(const Strip& at, std::int64_t p, const Numbers& n, T* scratch, Lanes<locals, T>& local,
                Records& record) const {
        const std::int64_t k = p * part_size, count = count_of(p);
        const T* w[columns + 1];
        Inputs in;
        inputs_of(at, p, n, scratch, true, false, in);
        columns_of(at, k, w);
        alignas(64) T center[strip];
        alignas(64) Lanes<sums, Real> a;
        if constexpr (has_first) {
            for_lanes(at.width, [&](std::int64_t l) GRADFUSE_INLINE { center[l] = F::First::start; });
            for (std::int64_t j = 0; j < count; ++j) {
                const T* const from[] = {in.at[0][j], in.at[inputs - 1][j]};
                for_lanes(at.width, [&](std::int64_t l) GRADFUSE_INLINE {
                    center[l] =
                        F::First::join(center[l], Call::first(f_, [&](int i) GRADFUSE_INLINE { return from[i][l]; }));
                });
            }
        } else {
            for_lanes(at.width, [&](std::int64_t l) GRADFUSE_INLINE { center[l] = 0; });
        }
        for_lanes(at.width, [&](std::int64_t l) GRADFUSE_INLINE {
            set_lane<T>(f_.local(center[l], double(count), lane_of<Group, double>(n.in, l), k), local, l);
            for (int m = 0; m < sums; ++m) a[m][l] = 0;
        });
        for (std::int64_t j = 0; j < count; ++j) {
            T* const kept = stores_ ? out_(at.base + (k + j) * g_.run_stride, nullptr) : nullptr;
            if (stores_) {
                second<F::keeps>(at.width, j, in, w, local, kept, a);
            } else {
                second<false>(at.width, j, in, w, local, kept, a);
            }
        }
        for_lanes(at.width, [&](std::int64_t l) GRADFUSE_INLINE {
            set_lane<double>(f_.record(lane_of<Local, T>(local, l), lane_of<Sums, Real>(a, l), double(count)), record,
                             l);
        });
    }
    template <bool Store>
    void second(std::int64_t width, std::int64_t j, const Inputs& in, const T* const* w, const Lanes<locals, T>& local,
                T* kept, Lanes<sums, Real>& a) const {
        const T* const from[] = {in.at[0][j], in.at[inputs - 1][j]};
        const T column[] = {C == Columns::none ? T(0) : w[0][j],
                            C == Columns::none || columns < 2 ? T(0) : w[columns > 1 ? 1 : 0][j]};
        const T position = T(int(j));
        for_lanes(width, [&](std::int64_t l) GRADFUSE_INLINE {
            Sums s = lane_of<Sums, Real>(a, l);
            const T e = Call::add(
                f_, s, lane_of<Local, T>(local, l), position, [&](int i) GRADFUSE_INLINE { return from[i][l]; },
                [&](int c) GRADFUSE_INLINE { return column[c]; });
            if constexpr (Store) kept[l] = e;
            set_lane<Real>(s, a, l);
        });
    }
    static void clear(const Strip& at, Records& whole) {
        for (auto& lanes : whole) std::memset(lanes, 0, sizeof(double) * std::size_t(at.width));
    }
    // Each group's members have the record of them all.
    void merge_members(const Strip& at, Records& whole) const {
        for (std::int64_t l = 0; l < at.width && g_.members > 1; l += g_.members) {
            Record r = lane_of<Record, double>(whole, l);
            for (std::int64_t k = 1; k < g_.members; ++k) f_.merge(r, lane_of<Record, double>(whole, l + k));
            for (std::int64_t k = 0; k < g_.members; ++k) set_lane<double>(r, whole, l + k);
        }
    }
    void merge(const Strip& at, Records& whole, const Records& record) const {
        for_lanes(at.width, [&](std::int64_t l) GRADFUSE_INLINE {
            Record r = lane_of<Record, double>(whole, l);
            f_.merge(r, lane_of<Record, double>(record, l));
            set_lane<double>(r, whole, l);
        });
    }

    void map(const Strip& at, std::int64_t p, const Numbers& n, const Lanes<locals, T>& local, const Records& whole,
             T* in_scratch, T* out_scratch, bool loads, double* column_totals) const {
        if constexpr (F::maps) {
            const std::int64_t k = p * part_size, count = count_of(p);
            alignas(64) Lanes<constants, T> c;
            for_lanes(at.width, [&](std::int64_t l) GRADFUSE_INLINE {
                set_lane<T>(f_.constants(lane_of<Record, double>(whole, l), lane_of<Local, T>(local, l),
                                         lane_of<Group, double>(n.in, l), k),
                            c, l);
            });
            const T* w[columns + 1];
            columns_of(at, k, w);
            Inputs in;
            if (!stores_) inputs_of(at, p, n, in_scratch, loads, F::reduces, in);
            for (std::int64_t j = 0; j < count; ++j) {
                const std::int64_t start = at.base + (k + j) * g_.run_stride;
                T* const out = out_(start, out_scratch);
                if constexpr (F::keeps) {
                    if (!stores_) {
                        alignas(64) Lanes<sums, Real> unused;
                        for_lanes(at.width, [&](std::int64_t l) GRADFUSE_INLINE {
                            for (int m = 0; m < sums; ++m) unused[m][l] = 0;
                        });
                        second<true>(at.width, j, in, w, local, out, unused);
                    }
                    const T* const kept[] = {out, out};
                    map_position(at.width, j, kept, w, c, out, nullptr);
                } else {
                    const T* const from[] = {in.at[0][j], in.at[inputs - 1][j]};
                    map_position(at.width, j, from, w, c, out, wanted_ ? column_totals + k + j : nullptr);
                }
                if constexpr (Stages::possible) stages_.after_map(start, at.width, out);
                out_.commit(start, at.width, out);
            }
        }
    }
    void map_position(std::int64_t width, std::int64_t j, const T* const (&from)[2], const T* const* w,
                      const Lanes<constants, T>& c, T* out, double* totals) const {
        const T column[] = {C == Columns::none ? T(0) : w[0][j],
                            C == Columns::none || columns < 2 ? T(0) : w[columns > 1 ? 1 : 0][j]};
        const T position = T(int(j));
        const auto mapped = [&](std::int64_t l) GRADFUSE_INLINE {
            return Call::map(
                f_, lane_of<Constants, T>(c, l), position, [&](int i) GRADFUSE_INLINE { return from[i][l]; },
                [&](int m) GRADFUSE_INLINE { return column[m]; });
        };
        if constexpr (sums_columns) {
            if (totals) {
                constexpr int K = column_sums, L = lanes_of<double, K>;
                alignas(64) double a[K][L] = {};
                in_lanes<T, L>(width, [&](int lane, std::int64_t l, T, bool there) GRADFUSE_INLINE {
                    const auto y = Call::map(
                        f_, make<Constants, T>([&](int m) GRADFUSE_INLINE { return there ? c[m][l] : T(0); }), position,
                        [&](int i) GRADFUSE_INLINE { return there ? from[i][l] : T(0); },
                        [&](int m) GRADFUSE_INLINE { return column[m]; });
                    if (there) out[l] = y.v[0];
                    for (int m = 0; m < K; ++m) a[m][lane] += there ? double(y.v[1 + m]) : 0.0;
                });
                const auto plus = [](const auto& u, const auto& v) GRADFUSE_INLINE { return u + v; };
                for (int m = 0; m < K; ++m) totals[m * width_] += join_lanes(a[m], plus);
                return;
            }
        }
        for_lanes(width, [&](std::int64_t l) GRADFUSE_INLINE { out[l] = mapped(l).v[0]; });
    }

    void one_strip(std::int64_t s, const Scratch& scratch, double* column_totals) const {
        const Strip at = strip_at(s);
        Numbers n;
        read(at, n);
        alignas(64) Records whole, record;
        if (!F::reduces) clear(at, whole);
        const auto map_part = [&](std::int64_t p, const Records& records, bool loads) {
            map(at, p, n, scratch.local[p], records, scratch.in.data(), scratch.out.data(), loads, column_totals);
        };
        for (std::int64_t p = 0; p < parts_ && F::reduces; ++p) {
            reduce(at, p, n, scratch.in.data(), scratch.local[p], p == 0 ? whole : record);
            if (F::maps && !F::waits) map_part(p, p == 0 ? whole : record, false);
            if (p > 0) merge(at, whole, record);
        }
        merge_members(at, whole);
        if (F::reduces) finish(at, whole, n);
        if (F::maps && (F::waits || !F::reduces)) {
            for (std::int64_t p = parts_ - 1; p >= 0; --p) map_part(p, whole, parts_ > 1 || !F::reduces);
        }
    }

    // All parts are reduced, then all are mapped, each by a thread.
    void apart(std::int64_t s) const {
        const Strip at = strip_at(s);
        Numbers n;
        read(at, n);
        const Heap<Records> record(parts_);
        const Heap<Lanes<locals, T>> local(parts_);
        parallel(F::reduces ? parts_ : 0, [&](std::int64_t p) {
            const Heap<T> scratch(direct_ ? 0 : inputs * part_size * strip), out(part_size * strip);
            reduce(at, p, n, scratch.data(), local[p], record[p]);
            if (F::maps && !F::waits) map(at, p, n, local[p], record[p], scratch.data(), out.data(), false, nullptr);
        });
        for (std::int64_t p = 1; p < parts_ && F::reduces; ++p) merge(at, record[0], record[p]);
        merge_members(at, record[0]);
        if (F::reduces) finish(at, record[0], n);
        if (!F::maps || (F::reduces && !F::waits)) return;
        parallel(parts_, [&](std::int64_t p) {
            const Heap<T> scratch(direct_ ? 0 : inputs * part_size * strip), out(part_size * strip);
            map(at, p, n, local[p], record[0], scratch.data(), out.data(), true, nullptr);
        });
    }

    const std::int64_t parts_, lanes_, strips_;  // lanes_: of a strip, of whole groups
    const bool direct_, stores_, held_;
};

}  // namespace GRADFUSE_ISA
}  // namespace gradfuse
