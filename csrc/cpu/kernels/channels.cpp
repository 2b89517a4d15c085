#include "cpu/channels.h"

#include <cmath>

#include "core/backend.h"
#include "cpu/kernels.h"
#include "cpu/sum.h"
#include "formulas/batch_norm.h"

namespace gradfuse {
inline namespace GRADFUSE_ISA {

namespace {

template <class T>
Moments moments(const T* v, std::int64_t n) {
    const double mean = sum(n, [&](std::int64_t i) { return v[i]; }) / double(n);
    const T centre = T(mean);
    const double squares = sum_of_squares(n, [&](std::int64_t i) { return v[i] - centre; });
    const double offset = mean - double(centre);
    return {double(n), mean, squares - double(n) * offset * offset};
}

// A channel vector as doubles; `otherwise` in every channel where it is absent.
class ChannelVector {
public:
    ChannelVector(const Array* a, std::int64_t channels, double otherwise) : data_(channels) {
        if (a) {
            Reader<double>(*a).load(0, channels, data_.data());
        } else {
            fill(channels, otherwise);
        }
    }
    ChannelVector(const double* a, std::int64_t channels, double otherwise) : data_(channels) {
        if (a) {
            std::memcpy(data_.data(), a, sizeof(double) * std::size_t(channels));
        } else {
            fill(channels, otherwise);
        }
    }
    double operator[](std::int64_t c) const { return data_[c]; }

private:
    void fill(std::int64_t channels, double value) {
        for (std::int64_t c = 0; c < channels; ++c) data_[c] = value;
    }
    const Heap<double> data_;
};

struct Affine {
    Affine(const ChannelOp& op, const ChannelArrays& a)
        : weight(a.weight, op.shape.channels, 1),
          bias(a.bias, op.shape.channels, 0),
          mean(op.normalize ? a.mean : nullptr, op.shape.channels, 0),
          invstd(op.normalize ? a.invstd : nullptr, op.shape.channels, 1) {}

    Channel operator[](std::int64_t c) const { return {mean[c], invstd[c], weight[c], bias[c]}; }

    const ChannelVector weight, bias, mean, invstd;
};

template <class T>
struct Stage {  // an activation of the list, or nothing
    explicit Stage(const Activation& a)
        : parameters(a.parameters), loops(a.row < 0 ? nullptr : &activation_loops<T>(a.row)) {}
    explicit operator bool() const { return loops != nullptr; }
    void forward(const T* x, T* y, std::int64_t n) const { loops->forward(parameters, x, y, n); }
    void backward(const T* dy, const T* saved, T* dx, std::int64_t n) const {
        loops->backward(parameters, dy, saved, dx, n);
    }
    bool saves_y() const { return loops->saves == Saves::y; }

    const double* parameters;
    const ActivationLoops<T>* loops;
};

template <class T>
struct Tiles {
    Buffer<T> v, z, g, extra;
};

// What the passes over a ChannelOp share: how a tile is read, brought through `before`, and made affine.
template <class T>
class Pipeline {
public:
    Pipeline(const ChannelOp& op, const ChannelArrays& a)
        : op_(op),
          before_(op.before),
          after_(op.after),
          x_(x_array(a)),
          residual_(a.residual ? *a.residual : x_array(a)),
          has_x_(a.x != nullptr),
          has_residual_(a.residual != nullptr) {}

    const T* input(std::int64_t start, std::int64_t n, Tiles<T>& t) const {
        const T* v = t.v.data;
        if (has_x_) {
            v = x_(start, n, t.v.data);
        } else {
            std::memset(t.v.data, 0, sizeof(T) * std::size_t(n));
        }
        if (!before_) return v;
        before_.forward(v, t.v.data, n);
        return t.v.data;
    }

    // z = affine(v) + residual
    template <int K>
    void affine(const ChannelTable<T, K>& table, std::int64_t start, std::int64_t n, const T* v, T* z,
                Tiles<T>& t) const {
        table.for_runs(start, n, [&](std::int64_t at, std::int64_t count, const auto& c) {
            const T* const from = v + at;
            T* const to = z + at;
#pragma omp simd
            for (std::int64_t i = 0; i < count; ++i) to[i] = (from[i] - c(centre, i)) * c(scale_, i) + c(shift, i);
        });
        if (!has_residual_) return;
        const T* const r = residual_(start, n, t.extra.data);
#pragma omp simd
        for (std::int64_t i = 0; i < n; ++i) z[i] += r[i];
    }

protected:
    static const Array& x_array(const ChannelArrays& a) { return a.x ? *a.x : *a.y; }

    const ChannelOp& op_;
    const Stage<T> before_, after_;
    const Reader<T> x_, residual_;
    const bool has_x_, has_residual_;
};

template <class T>
class Forward : Pipeline<T> {
public:
    Forward(const ChannelOp& op, const ChannelArrays& a) : Pipeline<T>(op, a), y_(*a.y) {}

    void tile(const ChannelTable<T, 3>& table, std::int64_t start, std::int64_t n, Tiles<T>& t) const {
        T* const y = y_(start, t.z.data);
        this->affine(table, start, n, this->input(start, n, t), y, t);
        if (this->after_) this->after_.forward(y, y, n);
        if (this->op_.dropout.threshold) dropout_tile(this->op_.dropout, start, y, y, n);
        y_.commit(start, n, y);
    }

private:
    const Writer<T> y_;
};

template <class T>
class Backward : Pipeline<T> {
public:
    Backward(const ChannelOp& op, const ChannelArrays& a)
        : Pipeline<T>(op, a),
          dy_(*a.dy),
          dx_(*a.dx),
          dresidual_(a.dresidual ? *a.dresidual : *a.dx),
          wants_dresidual_(a.dresidual != nullptr),
          keeps_dz_(op.through_statistics() && dx_.direct() && (this->after_ || op.dropout.threshold)) {}

    // dz, the gradient at the affine's output, recomputed from x and the dropout's random stream.
    template <int K>
    const T* dz(const ChannelTable<T, K>& table, std::int64_t start, std::int64_t n, const T* v, Tiles<T>& t) const {
        T* const to = keeps_dz_ ? dx_(start, nullptr) : t.g.data;
        const T* g = dy_(start, n, t.g.data);
        if (this->op_.dropout.threshold) {
            dropout_tile(this->op_.dropout, start, g, to, n);
            g = to;
        }
        if (this->after_) {
            this->affine(table, start, n, v, t.z.data, t);
            if (this->after_.saves_y()) this->after_.forward(t.z.data, t.z.data, n);
            this->after_.backward(g, t.z.data, to, n);
            g = to;
        }
        return g;
    }

    // The same on a second sweep: from dx, where the first one left it, unless dx would have rounded it.
    template <int K>
    const T* dz_again(const ChannelTable<T, K>& table, std::int64_t start, std::int64_t n, const T* v,
                      Tiles<T>& t) const {
        return keeps_dz_ ? dx_(start, nullptr) : dz(table, start, n, v, t);
    }

    using Pipeline<T>::input;

    // dx from dz: through the statistics, where the table has their part, then through `before`.
    template <int K>
    void finish(const ChannelTable<T, K>& table, std::int64_t start, std::int64_t n, const T* v, const T* dz,
                Tiles<T>& t) const {
        if (wants_dresidual_) {
            T* const dr = dresidual_(start, t.extra.data);
            if (dr != dz) std::memcpy(dr, dz, sizeof(T) * std::size_t(n));
            dresidual_.commit(start, n, dr);
        }
        T* const dx = dx_(start, t.z.data);
        table.for_runs(start, n, [&](std::int64_t at, std::int64_t count, const auto& c) {
            const T *const g = dz + at, *const from = v + at;
            T* const to = dx + at;
#pragma omp simd
            for (std::int64_t i = 0; i < count; ++i) {
                if constexpr (K > offset) {
                    to[i] = c(scale_, i) * g[i] + (c(slope, i) * (from[i] - c(centre, i)) + c(offset, i));
                } else {
                    to[i] = c(scale_, i) * g[i];
                }
            }
        });
        if (this->before_) {
            const T* const saved = this->before_.saves_y() ? v : this->x_(start, n, t.extra.data);
            this->before_.backward(dx, saved, dx, n);
        }
        dx_.commit(start, n, dx);
    }

private:
    const Reader<T> dy_;
    const Writer<T> dx_, dresidual_;
    const bool wants_dresidual_, keeps_dz_;
};

template <class T>
struct Terms {
    const T* a;
    const T* v;  // null where only the sum of a is wanted
};

// total[c] = the sums over channel c of terms(start, n, tiles).
template <class T, int K, class F>
void channel_sums(const ChannelLayout& layout, const ChannelTable<T, K>& table, Sums* total, const F& terms) {
    const ChannelShape& s = layout.shape;
    for (std::int64_t c = 0; c < s.channels; ++c) total[c] = Sums{};
    if (s.size() == 0) return;
    if (layout.runs) {
        reduce_runs<Sums>(
            layout,
            [&](std::int64_t start, std::int64_t n, std::int64_t c) {
                Tiles<T> tiles;
                const Terms<T> t = terms(start, n, tiles);
                Sums r;
                r.a = sum(n, [&](std::int64_t i) { return t.a[i]; });
                if (t.v) {
                    const T mid = table.of_channel(c)(centre, 0);
                    r.av = dot(n, [&](std::int64_t i) { return t.a[i]; }, [&](std::int64_t i) { return t.v[i] - mid; });
                }
                return r;
            },
            [&](std::int64_t c, const Sums& r) { total[c].merge(r); });
        return;
    }
    const Strips strips(layout);
    Heap<double> columns(2 * strips.groups * layout.length);
    strips.for_tasks([&](std::int64_t group, std::int64_t column, std::int64_t width) {
        double* const a = columns.data() + 2 * group * layout.length + column;
        double* const av = a + layout.length;
        for (std::int64_t i = 0; i < width; ++i) a[i] = av[i] = 0;
        const PerElement<T, K> c = table.at(column);
        Tiles<T> tiles;
        strips.for_rows(group, column, width, [&](std::int64_t start, std::int64_t n) {
            const Terms<T> t = terms(start, n, tiles);
#pragma omp simd
            for (std::int64_t i = 0; i < n; ++i) a[i] += double(t.a[i]);
            if (!t.v) return;
#pragma omp simd
            for (std::int64_t i = 0; i < n; ++i) av[i] += double(t.a[i]) * double(t.v[i] - c(centre, i));
        });
    });
    for (std::int64_t g = 0; g < strips.groups; ++g) {
        const double* const a = columns.data() + 2 * g * layout.length;
        layout.for_columns([&](std::int64_t i, std::int64_t c) { total[c].merge({a[i], a[layout.length + i]}); });
    }
}

// One number per channel into an array that may be absent.
template <class F>
void store_channels(const Array* to, const F& value) {
    if (!to) return;
    const Heap<double> values(to->size);
    for (std::int64_t c = 0; c < to->size; ++c) values[c] = value(c);
    Writer<double>(*to).store(0, to->size, values.data());
}

// Calls f(start, n, tiles) for all tiles of the array, in parallel.
template <class T, class F>
void for_all_tiles(std::int64_t size, const F& f) {
    for_blocks(size, [&](std::int64_t begin, std::int64_t n) {
        Tiles<T> tiles;
        for_tiles(begin, n, false, [&](std::int64_t start, std::int64_t count) { f(start, count, tiles); });
    });
}

template <class T>
void forward(const ChannelOp& op, const ChannelArrays& a) {
    const ChannelLayout layout(op.shape);
    const Affine affine(op, a);
    const ChannelTable<T, 3> table(layout, [&](std::int64_t c, T* value) { affine[c].forward_constants(value); });
    const Forward<T> pass(op, a);
    for_all_tiles<T>(op.shape.size(),
                     [&](std::int64_t start, std::int64_t n, Tiles<T>& t) { pass.tile(table, start, n, t); });
}

template <class T>
void backward(const ChannelOp& op, const ChannelArrays& a) {
    const ChannelLayout layout(op.shape);
    const Affine affine(op, a);
    const ChannelTable<T, 3> table(layout, [&](std::int64_t c, T* value) { affine[c].forward_constants(value); });
    const Backward<T> pass(op, a);
    const bool through_statistics = op.through_statistics();
    const bool wants_sums = through_statistics || a.dweight || a.dbias;

    Heap<Sums> total(op.shape.channels);
    if (wants_sums) {
        channel_sums<T>(layout, table, total.data(), [&](std::int64_t start, std::int64_t n, Tiles<T>& t) {
            const T* const v = pass.input(start, n, t);
            const T* const dz = pass.dz(table, start, n, v, t);
            if (!through_statistics) pass.finish(table, start, n, v, dz, t);  // one sweep is enough
            return Terms<T>{dz, op.normalize ? v : nullptr};
        });
    } else {
        for_all_tiles<T>(op.shape.size(), [&](std::int64_t start, std::int64_t n, Tiles<T>& t) {
            const T* const v = pass.input(start, n, t);
            pass.finish(table, start, n, v, pass.dz(table, start, n, v, t), t);
        });
    }

    store_channels(a.dweight, [&](std::int64_t c) { return affine[c].template dweight<T>(total[c]); });
    store_channels(a.dbias, [&](std::int64_t c) { return total[c].a; });
    if (!through_statistics) return;

    const double n = double(op.shape.outer * op.shape.inner);
    const ChannelTable<T, 5> gathered(
        layout, [&](std::int64_t c, T* value) { affine[c].backward_constants(total[c], n, value); });
    for_all_tiles<T>(op.shape.size(), [&](std::int64_t start, std::int64_t count, Tiles<T>& t) {
        const T* const v = pass.input(start, count, t);
        pass.finish(gathered, start, count, v, pass.dz_again(gathered, start, count, v, t), t);
    });
}

template <class T>
void statistics(const ChannelOp& op, const Array& x, Moments* total) {
    const ChannelLayout layout(op.shape);
    ChannelArrays arrays;
    arrays.x = &x;
    const Pipeline<T> pipeline(op, arrays);
    for (std::int64_t c = 0; c < op.shape.channels; ++c) total[c] = Moments{};
    if (op.shape.size() == 0) return;
    if (layout.runs) {
        reduce_runs<Moments>(
            layout,
            [&](std::int64_t start, std::int64_t n, std::int64_t) {
                Tiles<T> tiles;
                return moments(pipeline.input(start, n, tiles), n);
            },
            [&](std::int64_t c, const Moments& m) { total[c].merge(m); });
        return;
    }
    const Strips strips(layout);
    Heap<Moments> columns(strips.groups * layout.length);
    strips.for_tasks([&](std::int64_t group, std::int64_t column, std::int64_t width) {
        Tiles<T> tiles;
        double mean[Strips::width] = {}, squares[Strips::width] = {};
        std::int32_t rows[Strips::width] = {};
        strips.for_rows(group, column, width, [&](std::int64_t start, std::int64_t n) {
            const T* const v = pipeline.input(start, n, tiles);
#pragma omp simd
            for (std::int64_t i = 0; i < n; ++i) {
                mean[i] += double(v[i]);
                ++rows[i];
            }
        });
        for (std::int64_t i = 0; i < width; ++i) mean[i] = rows[i] ? mean[i] / rows[i] : 0;
        strips.for_rows(group, column, width, [&](std::int64_t start, std::int64_t n) {
            const T* const v = pipeline.input(start, n, tiles);
#pragma omp simd
            for (std::int64_t i = 0; i < n; ++i) {
                const double d = double(v[i]) - mean[i];
                squares[i] += d * d;
            }
        });
        Moments* const out = columns.data() + group * layout.length + column;
        for (std::int64_t i = 0; i < width; ++i) out[i] = {double(rows[i]), mean[i], squares[i]};
    });
    for (std::int64_t g = 0; g < strips.groups; ++g) {
        const Moments* const group = columns.data() + g * layout.length;
        layout.for_columns([&](std::int64_t i, std::int64_t c) { total[c].merge(group[i]); });
    }
}

}  // namespace

void batch_statistics(const ChannelOp& op, const Array& x, double eps, const RunningStatistics& running, double* mean,
                      double* invstd) {
    const std::int64_t channels = op.shape.channels;
    Heap<Moments> total(channels);
    with_compute_type(x.dtype, [&](auto t) { statistics<decltype(t)>(op, x, total.data()); });
    for (std::int64_t c = 0; c < channels; ++c) {
        mean[c] = total[c].mean;
        invstd[c] = inverse_deviation(total[c].variance(), eps);
    }
    if (!running.mean) return;
    const Heap<double> running_mean(channels), running_var(channels);
    Reader<double>(*running.mean).load(0, channels, running_mean.data());
    Reader<double>(*running.var).load(0, channels, running_var.data());
    for (std::int64_t c = 0; c < channels; ++c) {
        total[c].move(running.momentum, running.unbiased, running_mean[c], running_var[c]);
    }
    Writer<double>(*running.mean).store(0, channels, running_mean.data());
    Writer<double>(*running.var).store(0, channels, running_var.data());
}

void given_statistics(const Array& given_mean, const Array& given_var, double eps, double* mean, double* invstd) {
    Reader<double>(given_mean).load(0, given_mean.size, mean);
    Reader<double>(given_var).load(0, given_var.size, invstd);
    for (std::int64_t c = 0; c < given_var.size; ++c) invstd[c] = inverse_deviation(invstd[c], eps);
}

void channel_forward(const ChannelOp& op, const ChannelArrays& a) {
    with_compute_type(a.y->dtype, [&](auto t) { forward<decltype(t)>(op, a); });
}

void channel_backward(const ChannelOp& op, const ChannelArrays& a) {
    with_compute_type(a.dy->dtype, [&](auto t) { backward<decltype(t)>(op, a); });
}

void prelu_forward(const ChannelShape& shape, const Array& x, const Array& weight, const Array& y) {
    with_compute_type(x.dtype, [&](auto t) {
        using T = decltype(t);
        const ChannelLayout layout(shape);
        const ChannelVector w(&weight, shape.channels, 0);
        const ChannelTable<T, 1> table(layout, [&](std::int64_t c, T* value) { *value = T(w[c]); });
        const Reader<T> read(x);
        const Writer<T> write(y);
        for_all_tiles<T>(x.size, [&](std::int64_t start, std::int64_t n, Tiles<T>& tiles) {
            const T* const v = read(start, n, tiles.v.data);
            T* const out = write(start, tiles.v.data);
            table.for_runs(start, n, [&](std::int64_t at, std::int64_t count, const auto& a) {
#pragma omp simd
                for (std::int64_t i = 0; i < count; ++i) out[at + i] = v[at + i] > 0 ? v[at + i] : a(0, i) * v[at + i];
            });
            write.commit(start, n, out);
        });
    });
}

void prelu_backward(const ChannelShape& shape, const Array& dy, const Array& x, const Array& weight, const Array& dx,
                    const Array& dweight) {
    with_compute_type(x.dtype, [&](auto t) {
        using T = decltype(t);
        const ChannelLayout layout(shape);
        const ChannelVector w(&weight, shape.channels, 0);
        const ChannelTable<T, 1> table(layout, [&](std::int64_t c, T* value) { *value = T(w[c]); });
        const Reader<T> read_x(x), read_dy(dy);
        const Writer<T> write(dx);
        Heap<Sums> total(shape.channels);
        channel_sums<T>(layout, table, total.data(), [&](std::int64_t start, std::int64_t n, Tiles<T>& tiles) {
            const T* const v = read_x(start, n, tiles.v.data);
            const T* const g = read_dy(start, n, tiles.g.data);
            T* const out = write(start, tiles.extra.data);
            T* const term = tiles.z.data;
            table.for_runs(start, n, [&](std::int64_t at, std::int64_t count, const auto& a) {
#pragma omp simd
                for (std::int64_t i = at; i < at + count; ++i) {
                    const T product = v[i] * g[i], scaled = a(0, i - at) * g[i];
                    term[i] = v[i] >= 0 ? T(0) : product;
                    out[i] = v[i] > 0 ? g[i] : scaled;
                }
            });
            write.commit(start, n, out);
            return Terms<T>{term, nullptr};
        });
        store_channels(&dweight, [&](std::int64_t c) { return total[c].a; });
    });
}

void max_norm(const ChannelShape& shape, double limit, const Array& w) {
    with_compute_type(w.dtype, [&](auto t) {
        using T = decltype(t);
        const ChannelLayout layout(shape);
        const ChannelTable<T, 1> none(layout, [](std::int64_t, T* value) { *value = 0; });
        const Reader<T> read(w);
        const Writer<T> write(w);
        Heap<Sums> total(shape.channels);
        channel_sums<T>(layout, none, total.data(), [&](std::int64_t start, std::int64_t n, Tiles<T>& tiles) {
            const T* const v = read(start, n, tiles.v.data);
            return Terms<T>{v, v};
        });
        const ChannelTable<T, 1> factors(layout, [&](std::int64_t c, T* value) {
            const double norm = std::sqrt(total[c].av);
            *value = norm > limit ? T(limit / norm) : T(1);
        });
        for_all_tiles<T>(w.size, [&](std::int64_t start, std::int64_t n, Tiles<T>& tiles) {
            const T* const v = read(start, n, tiles.v.data);
            T* const out = write(start, tiles.v.data);
            factors.for_runs(start, n, [&](std::int64_t at, std::int64_t count, const auto& f) {
#pragma omp simd
                for (std::int64_t i = 0; i < count; ++i) out[at + i] = v[at + i] * f(0, i);
            });
            write.commit(start, n, out);
        });
    });
}

}  // namespace GRADFUSE_ISA
}  // namespace gradfuse
