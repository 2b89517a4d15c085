// "Reduce, then map" for groups whose elements are not neighbors in memory, but neighboring groups are. Each lane has
// one group, and a part is 64 positions of all groups. Short rows are transposed to this form, one tile at a time.
#pragma once

#include "cpu/groups.h"
#include "cpu/transpose.h"

namespace gradfuse {
inline namespace GRADFUSE_ISA {

template <class F, Columns C, class Stages>
class Across : Loop<F, C, Stages> {
    using Base = Loop<F, C, Stages>;
    using Base::f_, Base::g_, Base::a_, Base::stages_, Base::in_, Base::out_, Base::wanted_, Base::width_;
    using Base::inputs, Base::columns, Base::column_sums, Base::group_outputs, Base::records, Base::sums, Base::locals,
        Base::constants, Base::group_inputs, Base::has_first, Base::sums_columns, Base::most, Base::is_large;
    using typename Base::Call, typename Base::Constants, typename Base::Group, typename Base::Local,
        typename Base::Real, typename Base::Record, typename Base::Sums, typename Base::T;
    static constexpr std::int64_t part_size = 64, strip = 512;  // positions, groups
    static constexpr int together = 4;
    static constexpr std::int64_t page = 4096;

    // The structs of many groups: one array of lanes for each member.
    template <int Members, class V>
    using Lanes = V[Members > 0 ? Members : 1][strip];

public:
    Across(const F& f, const Grouping& g, const ReduceMapArrays& a, const Stages& stages)
        : Base(f, g, a, stages),
          turned_(!g.across()),
          parts_((g.length() + part_size - 1) / part_size),
          lanes_(turned_ ? rows_of_tile(g.length()) : strip / g.members * g.members),
          strips_((g.groups + lanes_ - 1) / lanes_),
          stride_(turned_ ? lanes_ : strip),
          area_(stride_ * (turned_ ? whole_vectors(g.length()) : part_size)),
          direct_(!turned_ && !stages.active() && in_[0].direct() && in_[inputs - 1].direct()),
          stores_(F::keeps && (turned_ || out_.direct())),
          one_by_one_(!turned_ && (stride_bytes(g) % page == 0 || (stride_bytes(g) < page && is_large(g)))),
          held_(Stages::keeps_first && stages.active() && !turned_ && out_.direct() && F::maps && F::reduces) {}

    void run() const {
        // A task is some neighboring strips. Each task has its own column sums.
        const std::int64_t all = g_.blocks * strips_, size = g_.length() * (g_.groups < lanes_ ? g_.groups : lanes_);
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
            const Scratch scratch(*this, parts_);
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
    // base: the first element; group: the first group; width: the number of groups; lanes: the width, or the width
    // rounded up to whole vectors.
    struct Strip {
        std::int64_t base, group, width, lanes;
    };
    struct Scratch {
        explicit Scratch(const Across& loop, std::int64_t parts)
            : in(loop.direct_ ? 0 : inputs * loop.area_),
              out(loop.turned_ || !loop.out_.direct() ? loop.area_ : 0),
              rows(loop.turned_ ? tile_size : 0),
              local(parts) {}
        const Heap<T> in, out, rows;
        const Heap<Lanes<locals, T>> local;
    };
    struct Numbers {
        alignas(64) double in[most][strip], out[group_outputs + 1][strip];
    };
    using Records = Lanes<records, double>;

    Strip strip_at(std::int64_t s) const {
        const std::int64_t b = s / strips_, first = s % strips_ * lanes_, left = g_.groups - first;
        const std::int64_t width = left < lanes_ ? left : lanes_, lanes = turned_ ? whole_vectors(width) : width;
        return {b * g_.block_stride + first * g_.group_stride, b * g_.groups + first, width, lanes};
    }
    // Positions are mapped one by one if they are whole pages apart: a load waits for a store to the same offset in
    // another page. Also if several are in a page and the arrays are in DRAM: the hardware prefetches one stream a
    // page.
    static std::int64_t stride_bytes(const Grouping& g) { return g.run_stride * std::int64_t(sizeof(T)); }
    static std::int64_t whole_vectors(std::int64_t n) {
        constexpr int V = vector_lanes<T>;
        return (n + V - 1) / V * V;
    }
    static std::int64_t rows_of_tile(std::int64_t length) {
        const std::int64_t rows = tile_size / length / 16 * 16;
        return rows < strip ? rows : strip;
    }
    void read(const Strip& at, Numbers& n) const {
        this->read_numbers(at.group, at.width, n.in);
        for (int m = 0; m < group_inputs; ++m) {
            for (std::int64_t l = at.width; l < at.lanes; ++l) n.in[m][l] = 0;
        }
        if constexpr (F::picks) {
            for (std::int64_t l = 0; l < at.width; ++l) {
                this->pick(at.base + l * g_.group_stride, at.group + l, l, n.in);
            }
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

    // Pointers to the inputs of each position of a part.
    struct Inputs {
        const T* at[inputs][part_size];
    };
    void inputs_of(const Strip& at, std::int64_t p, const Numbers& n, const Scratch& scratch, bool loads, bool again,
                   Inputs& in) const {
        const auto find = [&](const auto& map_again) {
            if (turned_) return turn(at, scratch, loads, in, map_again);
            fill(at, p * part_size, count_of(p), scratch.in.data(), loads, again, in, map_again);
        };
        if constexpr (Stages::keeps_first) {
            alignas(64) Lanes<forward_constants<Stages>, T> c;
            if (stages_.active()) forward_constants_of(at, n, c);
            find([&](std::int64_t k, const T* x, T* z) { map_again(at, k, c, x, z); });
        } else {
            find([](std::int64_t, const T*, T*) {});
        }
    }
    template <class MapAgain>
    void fill(const Strip& at, std::int64_t first, std::int64_t count, T* scratch, bool loads, bool again, Inputs& in,
              const MapAgain& map_again) const {
        for (int i = inputs - 1; i >= 0; --i) {
            const bool held = held_ && i == 0, makes = loads && !(held && again);
            for (std::int64_t j = 0; j < count; ++j) {
                const std::int64_t start = at.base + (first + j) * g_.run_stride;
                T* const tile = scratch + i * area_ + j * stride_;
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
    // Short rows: the inputs are made row by row and then transposed.
    template <class MapAgain>
    void turn(const Strip& at, const Scratch& scratch, bool loads, Inputs& in, const MapAgain& map_again) const {
        const std::int64_t length = g_.length(), n = at.width * length;
        for (int i = inputs - 1; i >= 0; --i) {
            T* const tile = scratch.in.data() + i * area_;
            for (std::int64_t j = 0; j < length; ++j) in.at[i][j] = tile + j * stride_;
            if (!loads) continue;
            const T* x;
            if constexpr (Stages::possible) {
                x = stages_.input(in_[i], i, at.base, n, scratch.rows.data(), true, [&](T* z) {
                    for (std::int64_t j = 0; j < length; ++j) map_again(j, in.at[inputs - 1][j], tile + j * stride_);
                    to_rows(tile, stride_, at.width, length, z);
                });
            } else {
                x = in_[i](at.base, n, scratch.rows.data());
            }
            to_columns(x, at.width, length, tile, stride_);
        }
    }
    // The output of position j of a part that begins at position k.
    T* output_of(const Strip& at, std::int64_t k, std::int64_t j, const Scratch& scratch) const {
        T* const tile = scratch.out.data() + j * stride_;
        return turned_ ? tile : out_(at.base + (k + j) * g_.run_stride, tile);
    }
    void commit(std::int64_t start, std::int64_t n, T* out) const {
        if constexpr (Stages::possible) stages_.after_map(start, n, out);
        out_.commit(start, n, out);
    }
    // For a backward: z as its forward computed it, from the statistics.
    template <class S>
    static constexpr int forward_constants = members<typename S::Forward::Constants, T>;
    template <class To>
    void forward_constants_of(const Strip& at, const Numbers& n, To& c) const {
        for_lanes(at.lanes, [&](std::int64_t l) GRADFUSE_INLINE {
            set_lane<T>(Stages::constants(stages_.forward, lane_of<Group, double>(n.in, l)), c, l);
        });
    }
    template <class From>
    void map_again(const Strip& at, std::int64_t k, const From& c, const T* x, T* z) const {
        using Forward = typename Stages::Forward;
        const T w[] = {C == Columns::none ? T(0) : column_of(at, 0)[k],
                       C == Columns::none ? T(0) : column_of(at, 1)[k]};
        for_lanes(at.lanes, [&](std::int64_t l) GRADFUSE_INLINE {
            const auto constants = lane_of<typename Forward::Constants, T>(c, l);
            z[l] = Element<Forward, C>::map(
                       stages_.forward, constants, T(0), [&](int) GRADFUSE_INLINE { return x[l]; },
                       [&](int m) GRADFUSE_INLINE { return w[m]; })
                       .v[0];
        });
    }
    const T* column_of(const Strip& at, int c) const { return this->column(c) + this->first_column(at.group); }
    void columns_of(const Strip& at, std::int64_t k, const T** w) const {
        for (int c = 0; c < columns; ++c) w[c] = C == Columns::none ? nullptr : column_of(at, c) + k;
    }

    void reduce(const Strip& at, std::int64_t p, const Numbers& n, const Scratch& scratch, Lanes<locals, T>& local,
                Records& record) const {
        const std::int64_t k = p * part_size, count = count_of(p);
        const T* w[columns + 1];
        Inputs in;
        inputs_of(at, p, n, scratch, true, false, in);
        columns_of(at, k, w);
        alignas(64) T center[strip];
        alignas(64) Lanes<sums, double> a;
        if constexpr (has_first) {
            for_lanes(at.lanes, [&](std::int64_t l) GRADFUSE_INLINE { center[l] = F::First::start; });
            for (std::int64_t j = 0; j < count; ++j) {
                const T* const from[] = {in.at[0][j], in.at[inputs - 1][j]};
                for_lanes(at.lanes, [&](std::int64_t l) GRADFUSE_INLINE {
                    center[l] =
                        F::First::join(center[l], Call::first(f_, [&](int i) GRADFUSE_INLINE { return from[i][l]; }));
                });
            }
        } else {
            for_lanes(at.lanes, [&](std::int64_t l) GRADFUSE_INLINE { center[l] = 0; });
        }
        for_lanes(at.lanes, [&](std::int64_t l) GRADFUSE_INLINE {
            set_lane<T>(f_.local(center[l], double(count), lane_of<Group, double>(n.in, l), k), local, l);
            for (int m = 0; m < sums; ++m) a[m][l] = 0;
        });
        for_positions(count, false, [&](std::int64_t j, auto positions) {
            T* kept[positions] = {};
            if (stores_) {
                for (int i = 0; i < positions; ++i) kept[i] = output_of(at, k, j + i, scratch);
                second<F::keeps>(at, j, in, w, local, kept, a);
            } else {
                second<false>(at, j, in, w, local, kept, a);
            }
        });
        for_lanes(at.lanes, [&](std::int64_t l) GRADFUSE_INLINE {
            set_lane<double>(f_.record(lane_of<Local, T>(local, l), sums_of(a, l), double(count)), record, l);
        });
    }
    // f(j, positions) for [0, count). Several neighboring positions are computed together, so a lane's values are read
    // once for all of them. Sums always take them together: their bits must not depend on how the groups lie.
    template <class Each>
    static void for_positions(std::int64_t count, bool one_by_one, const Each& f) {
        std::int64_t j = 0;
        for (; j + together <= count && !one_by_one; j += together) f(j, std::integral_constant<int, together>{});
        for (; j < count; ++j) f(j, std::integral_constant<int, 1>{});
    }
    // The elements of P positions: x(p, l) of the inputs in lane l, w(p) of the columns.
    template <int P>
    struct Positions {
        Positions(const Inputs& in, const T* const* w, std::int64_t j) : first(T(int(j))) {
            for (int p = 0; p < P; ++p) {
                for (int i = 0; i < inputs; ++i) from[i][p] = in.at[i][j + p];
                for (int c = 0; c < columns; ++c) column[c][p] = C == Columns::none ? T(0) : w[c][j + p];
            }
        }
        GRADFUSE_HD auto x(int p, std::int64_t l) const {
            return [this, p, l](int i) GRADFUSE_INLINE { return from[i][p][l]; };
        }
        GRADFUSE_HD auto w(int p) const {
            return [this, p](int c) GRADFUSE_INLINE { return column[c][p]; };
        }
        GRADFUSE_HD T position(int p) const { return first + T(p); }

        const T first;
        const T* from[inputs][P];
        T column[columns + 1][P];
    };
    static GRADFUSE_HD Sums sums_of(const Lanes<sums, double>& a, std::int64_t l) {
        return make<Sums, Real>([&](int m) GRADFUSE_INLINE { return Real(a[m][l]); });
    }
    // A few positions are summed in Real, and these sums are added in double: a long sum in float would lose bits.
    template <bool Store, int P>
    void second(const Strip& at, std::int64_t j, const Inputs& in, const T* const* w, const Lanes<locals, T>& local,
                T* const (&kept)[P], Lanes<sums, double>& a) const {
        const Positions<P> of(in, w, j);
        for_lanes(at.lanes, [&](std::int64_t l) GRADFUSE_INLINE {
            Sums s = make<Sums, Real>([&](int) GRADFUSE_INLINE { return Real(0); });
            const Local local_of_lane = lane_of<Local, T>(local, l);
            repeat<P>([&](auto p) GRADFUSE_INLINE {
                const T e = Call::add(f_, s, local_of_lane, of.position(p), of.x(p, l), of.w(p));
                if constexpr (Store) kept[p][l] = e;
            });
            take<Real>(s, [&](int m, Real v) GRADFUSE_INLINE { a[m][l] += double(v); });
        });
    }
    static void clear(const Strip& at, Records& whole) {
        for (auto& lanes : whole) std::memset(lanes, 0, sizeof(double) * std::size_t(at.lanes));
    }
    // The members of a group all get the record of the group.
    void merge_members(const Strip& at, Records& whole) const {
        for (std::int64_t l = 0; l < at.width && g_.members > 1; l += g_.members) {
            Record r = lane_of<Record, double>(whole, l);
            for (std::int64_t k = 1; k < g_.members; ++k) f_.merge(r, lane_of<Record, double>(whole, l + k));
            for (std::int64_t k = 0; k < g_.members; ++k) set_lane<double>(r, whole, l + k);
        }
    }
    void merge(const Strip& at, Records& whole, const Records& record) const {
        for_lanes(at.lanes, [&](std::int64_t l) GRADFUSE_INLINE {
            Record r = lane_of<Record, double>(whole, l);
            f_.merge(r, lane_of<Record, double>(record, l));
            set_lane<double>(r, whole, l);
        });
    }

    void map(const Strip& at, std::int64_t p, const Numbers& n, const Lanes<locals, T>& local, const Records& whole,
             const Scratch& scratch, bool loads, double* column_totals) const {
        if constexpr (F::maps) {
            const std::int64_t k = p * part_size, count = count_of(p);
            alignas(64) Lanes<constants, T> c;
            for_lanes(at.lanes, [&](std::int64_t l) GRADFUSE_INLINE {
                set_lane<T>(f_.constants(lane_of<Record, double>(whole, l), lane_of<Local, T>(local, l),
                                         lane_of<Group, double>(n.in, l), k),
                            c, l);
            });
            const T* w[columns + 1];
            columns_of(at, k, w);
            Inputs in;
            if (!stores_) inputs_of(at, p, n, scratch, loads, F::reduces, in);
            for_positions(count, one_by_one_, [&](std::int64_t j, auto positions) {
                T* out[positions];
                for (int i = 0; i < positions; ++i) out[i] = output_of(at, k, j + i, scratch);
                if constexpr (F::keeps) {
                    if (!stores_) {
                        alignas(64) Lanes<sums, double> unused;
                        for_lanes(at.lanes, [&](std::int64_t l) GRADFUSE_INLINE {
                            for (int m = 0; m < sums; ++m) unused[m][l] = 0;
                        });
                        second<true>(at, j, in, w, local, out, unused);
                    }
                    for (int i = 0; i < positions; ++i) in.at[0][j + i] = out[i];
                }
                if (wanted_) {
                    for (int i = 0; i < positions; ++i) {
                        add_columns(at, Positions<1>(in, w, j + i), c, column_totals + k + j + i);
                    }
                }
                map_positions(at, Positions<positions>(in, w, j), c, out);
                for (int i = 0; i < positions && !turned_; ++i) {
                    commit(at.base + (k + j + i) * g_.run_stride, at.width, out[i]);
                }
            });
            if (turned_) {
                T* const rows = out_(at.base, scratch.rows.data());
                to_rows(scratch.out.data(), stride_, at.width, count, rows);
                commit(at.base, at.width * count, rows);
            }
        }
    }
    template <int P>
    void map_positions(const Strip& at, const Positions<P>& of, const Lanes<constants, T>& c,
                       T* const (&out)[P]) const {
        for_lanes(at.lanes, [&](std::int64_t l) GRADFUSE_INLINE {
            const Constants of_lane = lane_of<Constants, T>(c, l);
            repeat<P>([&](auto p) GRADFUSE_INLINE {
                out[p][l] = Call::map(f_, of_lane, of.position(p), of.x(p, l), of.w(p)).v[0];
            });
        });
    }
    void add_columns(const Strip& at, const Positions<1>& of, const Lanes<constants, T>& c, double* totals) const {
        if constexpr (sums_columns) {
            constexpr int K = column_sums, L = lanes_of<double, K>;
            alignas(64) double a[K][L] = {};
            in_lanes<T, L>(at.width, [&](int lane, std::int64_t l, T, bool there, auto) GRADFUSE_INLINE {
                const auto y = Call::map(
                    f_, make<Constants, T>([&](int m) GRADFUSE_INLINE { return there ? c[m][l] : T(0); }), of.first,
                    [&](int i) GRADFUSE_INLINE { return there ? of.from[i][0][l] : T(0); }, of.w(0));
                for (int m = 0; m < K; ++m) a[m][lane] += there ? double(y.v[1 + m]) : 0.0;
            });
            const auto plus = [](const auto& u, const auto& v) GRADFUSE_INLINE { return u + v; };
            for (int m = 0; m < K; ++m) totals[m * width_] += join_lanes(a[m], plus);
        }
    }

    void one_strip(std::int64_t s, const Scratch& scratch, double* column_totals) const {
        const Strip at = strip_at(s);
        Numbers n;
        read(at, n);
        alignas(64) Records whole, record;
        if (!F::reduces) clear(at, whole);
        const auto map_part = [&](std::int64_t p, const Records& records, bool loads) {
            map(at, p, n, scratch.local[p], records, scratch, loads, column_totals);
        };
        for (std::int64_t p = 0; p < parts_ && F::reduces; ++p) {
            reduce(at, p, n, scratch, scratch.local[p], p == 0 ? whole : record);
            if (F::maps && !F::waits) map_part(p, p == 0 ? whole : record, false);
            if (p > 0) merge(at, whole, record);
        }
        merge_members(at, whole);
        if (F::reduces) finish(at, whole, n);
        if (F::maps && (F::waits || !F::reduces)) {
            for (std::int64_t p = parts_ - 1; p >= 0; --p) map_part(p, whole, parts_ > 1 || !F::reduces);
        }
    }

    // First all parts are reduced, then all are mapped, in parallel.
    void apart(std::int64_t s) const {
        const Strip at = strip_at(s);
        Numbers n;
        read(at, n);
        const Heap<Records> record(parts_);
        const Heap<Lanes<locals, T>> local(parts_);
        parallel(F::reduces ? parts_ : 0, [&](std::int64_t p) {
            const Scratch scratch(*this, 0);
            reduce(at, p, n, scratch, local[p], record[p]);
            if (F::maps && !F::waits) map(at, p, n, local[p], record[p], scratch, false, nullptr);
        });
        for (std::int64_t p = 1; p < parts_ && F::reduces; ++p) merge(at, record[0], record[p]);
        merge_members(at, record[0]);
        if (F::reduces) finish(at, record[0], n);
        if (!F::maps || (F::reduces && !F::waits)) return;
        parallel(parts_, [&](std::int64_t p) {
            const Scratch scratch(*this, 0);
            map(at, p, n, local[p], record[0], scratch, true, nullptr);
        });
    }

    const bool turned_;                          // short rows, transposed
    const std::int64_t parts_, lanes_, strips_;  // lanes_: of a strip, a multiple of a group's members
    const std::int64_t stride_, area_;           // of a tile: the distance of two positions, and the size of all
    const bool direct_, stores_;
    const bool one_by_one_;  // positions are mapped one by one, not several together
    const bool held_;
};

}  // namespace GRADFUSE_ISA
}  // namespace gradfuse
