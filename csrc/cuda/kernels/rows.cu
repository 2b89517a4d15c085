// Softmax and its losses.
#include "core/math.h"
#include "cuda/kernels.h"
#include "cuda/rows.cuh"
#include "cuda/strides.cuh"

namespace gradfuse::cuda {
inline namespace GRADFUSE_ISA {

namespace {

// Sum of f(j) over a vector in the compute type; in double beyond it.
template <class T, class F>
GRADFUSE_DEVICE double vector_sum(int count, const F& f) {
    T total = 0;
#pragma unroll
    for (int j = 0; j < Row<T>::V; ++j) {
        if (j < count) total += f(j);
    }
    return double(total);
}

// The row's maximum; its elements are kept.
template <class S, class T>
GRADFUSE_DEVICE T row_maximum(const Row<T>& row, const View<S>& x) {
    T top = -math::inf<T>;
    row.for_vectors([&](std::int64_t k, std::int64_t i, int count) {
        T v[Row<T>::V];
        row.read(x, i, count, v);
        row.keep(0, k, count, v);
#pragma unroll
        for (int j = 0; j < Row<T>::V; ++j) {
            if (j < count) top = math::max_or_nan(top, v[j]);
        }
    });
    return row.largest(top);
}

template <class S, bool Log>
struct Softmax {
    using T = Compute<S>;
    static constexpr int V = Row<T>::V, arrays = 1;

    View<S> x, y;

    GRADFUSE_DEVICE void operator()(const Row<T>& row, std::int64_t) const {
        const T top = row_maximum(row, x);
        double sum = 0;
        row.for_vectors([&](std::int64_t k, std::int64_t i, int count) {
            T v[V];
            row.read_again(x, 0, k, i, count, v);
            T e[V];
#pragma unroll
            for (int j = 0; j < V; ++j) e[j] = math::exp(v[j] - top);
            if (!Log) row.keep(0, k, count, e);
            sum += vector_sum<T>(count, [&](int j) { return e[j]; });
        });
        const double total = row.sum(sum);
        const T factor = T(1 / total), log_total = T(math::log(total));
        row.for_vectors([&](std::int64_t k, std::int64_t i, int count) {
            T v[V];
            row.read_again(x, 0, k, i, count, v);
#pragma unroll
            for (int j = 0; j < V; ++j) {
                const T e = row.stage || Log ? v[j] : math::exp(v[j] - top);
                v[j] = Log ? (v[j] - top) - log_total : e * factor;
            }
            row.write(y, i, count, v);
        });
    }
};

template <class S, bool Log>
struct SoftmaxBackward {
    using T = Compute<S>;
    static constexpr int V = Row<T>::V, arrays = 2;

    View<S> dy, y, dx;

    GRADFUSE_DEVICE void operator()(const Row<T>& row, std::int64_t) const {
        double sum = 0;
        row.for_vectors([&](std::int64_t k, std::int64_t i, int count) {
            T g[V], v[V];
            row.read(dy, i, count, g);
            row.read(y, i, count, v);
            row.keep(0, k, count, g);
            row.keep(1, k, count, v);
            sum += vector_sum<T>(count, [&](int j) { return Log ? g[j] : g[j] * v[j]; });
        });
        const T total = T(row.sum(sum));
        row.for_vectors([&](std::int64_t k, std::int64_t i, int count) {
            T g[V], v[V];
            row.read_again(dy, 0, k, i, count, g);
            row.read_again(y, 1, k, i, count, v);
#pragma unroll
            for (int j = 0; j < V; ++j) g[j] = Log ? g[j] - math::exp(v[j]) * total : (g[j] - total) * v[j];
            row.write(dx, i, count, g);
        });
    }
};

// Class indices of either integer type, or none.
struct Labels {
    const void* data = nullptr;
    DType dtype = DType::i64;

    GRADFUSE_DEVICE std::int64_t operator[](std::int64_t row) const {
        return dtype == DType::i32 ? static_cast<const std::int32_t*>(data)[row]
                                   : static_cast<const std::int64_t*>(data)[row];
    }
};

// -sum of q * log softmax(x), q = (1 - smoothing) * target + smoothing / n, and scale times its gradient.
template <class S>
struct CrossEntropy {
    using T = Compute<S>;
    static constexpr int V = Row<T>::V, arrays = 1;

    View<S> x, target, dx;
    Labels labels;
    double smoothing, scale;
    double* losses;

    GRADFUSE_DEVICE void operator()(const Row<T>& row, std::int64_t index) const {
        const bool indices = labels.data != nullptr;
        const std::int64_t label = indices && row.n > 0 ? labels[index] : 0;
        const T keep = T(1 - smoothing), spread = T(smoothing / double(row.n)), rate = T(scale);
        const T top = row_maximum(row, x);
        double exponentials = 0, expected = 0, mass = 0;
        row.for_vectors([&](std::int64_t k, std::int64_t i, int count) {
            T v[V], q[V] = {};
            row.read_again(x, 0, k, i, count, v);
            if (!indices) row.read(target, i, count, q);
            exponentials += vector_sum<T>(count, [&](int j) { return math::exp(v[j] - top); });
#pragma unroll
            for (int j = 0; j < V; ++j) {
                if (j >= count) break;
                const T shifted = v[j] - top;
                if (indices) {
                    if (k + j == label && keep > 0) expected += double(keep) * double(shifted);
                    if (smoothing > 0) expected += smoothing / double(row.n) * double(shifted);
                } else {
                    mass += double(q[j]);
                    expected += double(math::fma(keep, q[j], spread) * shifted);
                }
            }
        });
        const double total = row.sum(exponentials);
        expected = row.sum(expected);
        mass = indices ? 1 : (1 - smoothing) * row.sum(mass) + smoothing;
        if (label < 0 || label >= row.n) mass = math::nan<double>;  // no such class: nothing of the row is a number
        const T factor = T(scale * mass / total), share = mass == mass ? rate * spread : math::nan<T>;
        row.for_vectors([&](std::int64_t k, std::int64_t i, int count) {
            T v[V], q[V] = {};
            row.read_again(x, 0, k, i, count, v);
            if (!indices) row.read(target, i, count, q);
#pragma unroll
            for (int j = 0; j < V; ++j) {
                const T e = math::exp(v[j] - top) * factor;
                v[j] = indices ? e - share - (k + j == label ? rate * keep : T(0))
                               : e - rate * math::fma(keep, q[j], spread);
            }
            row.write(dx, i, count, v);
        });
        if (row.n > 0 && row.lane == 0) losses[index] = mass * math::log(total) - expected;
    }
};

// to[0] = scale * the sum of some numbers, added in an order of their own.
struct Total : Kernel {
    const double* values;
    std::int64_t count;
    double scale;
    DoubleView to;

    GRADFUSE_DEVICE void operator()() const {
        double sum = 0;
        for (std::int64_t i = threadIdx.x; i < count; i += threads) sum += values[i];
        sum = block_reduce(sum, shared_memory<double>(), Add{}, threads);
        if (threadIdx.x == 0) to.set(0, scale * sum);
    }
};

struct StoreEach : Kernel {
    const double* values;
    std::int64_t count;
    DoubleView to;

    GRADFUSE_DEVICE void operator()() const {
        for (std::int64_t i = std::int64_t(blockIdx.x) * threads + threadIdx.x; i < count;
             i += std::int64_t(gridDim.x) * threads) {
            to.set(i, values[i]);
        }
    }
};

void store_total(const double* values, std::int64_t count, double scale, const Array& to) {
    const Total kernel{{}, values, count, scale, DoubleView(&to)};
    launch(kernel, 1, kernel.threads / warp_size * std::int64_t(sizeof(double)));
}

// d = 2 scale (p - q); the squares are summed per block, or each stored.
template <class S>
struct SquaredError : Kernel {
    using T = Compute<S>;
    static constexpr int V = 8;

    View<S> p, q, d;
    DoubleView loss;
    bool each;
    T factor;
    double* totals;
    std::int64_t size;

    GRADFUSE_DEVICE void operator()() const {
        double sum = 0;
        for (std::int64_t i = (std::int64_t(blockIdx.x) * threads + threadIdx.x) * V; i < size;
             i += std::int64_t(gridDim.x) * threads * V) {
            const int n = size - i < V ? int(size - i) : V;
            T a[V], b[V];
            p.read(i, n, true, a);
            q.read(i, n, true, b);
#pragma unroll
            for (int j = 0; j < V; ++j) {
                const T error = a[j] - b[j];
                if (j < n && each) loss.set(i + j, double(error * error));
                if (j < n) sum += double(error) * double(error);
                a[j] = factor * error;
            }
            d.write(i, n, true, a);
        }
        if (each) return;
        sum = block_reduce(sum, shared_memory<double>(), Add{}, threads);
        if (threadIdx.x == 0) totals[blockIdx.x] = sum;
    }
};

// The pieces of a maxout unit lie a group apart: [outer][pieces][group].
template <class S, bool Backward>
struct Maxout : Kernel {
    using T = Compute<S>;
    static constexpr int V = 8;

    View<S> x, y;  // y: the result, or the gradient that comes back
    View<S> dx;
    std::int64_t size;  // of y
    int pieces;
    Divider group;

    GRADFUSE_DEVICE void operator()() const {
        const bool wide = group.divisor % V == 0;
        const int step = wide ? V : 1;
        for (std::int64_t i = (std::int64_t(blockIdx.x) * threads + threadIdx.x) * step; i < size;
             i += std::int64_t(gridDim.x) * threads * step) {
            const std::int64_t o = group.divide(i), first = i + o * (pieces - 1) * group.divisor;
            T best[V];
            int winner[V] = {};
            x.read(first, step, wide, best);
            for (int k = 1; k < pieces; ++k) {
                T v[V];
                x.read(first + k * group.divisor, step, wide, v);
#pragma unroll
                for (int j = 0; j < V; ++j) {
                    const T top = math::max_or_nan(best[j], v[j]);
                    const bool same = (top == best[j]) | (best[j] != best[j]);
                    winner[j] = same ? winner[j] : k;
                    best[j] = top;
                }
            }
            if constexpr (!Backward) {
                y.write(i, step, wide, best);
            } else {
                T g[V];
                y.read(i, step, wide, g);
                for (int k = 0; k < pieces; ++k) {
                    T v[V];
#pragma unroll
                    for (int j = 0; j < V; ++j) v[j] = winner[j] == k ? g[j] : T(0);
                    dx.write(first + k * group.divisor, step, wide, v);
                }
            }
        }
    }
};

template <bool Backward>
void maxout(const ChannelShape& s, int pieces, const Array& x_, const Array& y, const Array* dx) {
    const Dense x(x_);
    with_storage(x->dtype, [&](auto storage) {
        using S = decltype(storage);
        if (y.size == 0) return;
        const Divider group(s.channels / pieces * s.inner, x->size);
        const Maxout<S, Backward> kernel{{},     View<S>(x), View<S>(y), dx ? View<S>(*dx) : View<S>(),
                                         y.size, pieces,     group};
        const bool wide = kernel.group.divisor % kernel.V == 0;
        launch(kernel, blocks_for(y.size, kernel.threads * (wide ? kernel.V : 1)));
    });
}

}  // namespace

}  // namespace GRADFUSE_ISA

void softmax(const ChannelShape& s, bool log, const Array& x_, const Array& y_) {
    const Dense x(x_);
    const DenseOutput y(y_);
    with_storage(x->dtype, [&](auto storage) {
        using S = decltype(storage);
        const std::int64_t rows = s.outer * s.inner;
        if (log) {
            for_rows<Compute<S>>(Softmax<S, true>{View<S>(x), View<S>(y)}, rows, s.channels, s.inner);
        } else {
            for_rows<Compute<S>>(Softmax<S, false>{View<S>(x), View<S>(y)}, rows, s.channels, s.inner);
        }
    });
    y.commit();
}

void softmax_backward(const ChannelShape& s, bool log, const Array& dy_, const Array& y_, const Array& dx_) {
    const Dense dy(dy_), y(y_);
    const DenseOutput dx(dx_);
    with_storage(dy->dtype, [&](auto storage) {
        using S = decltype(storage);
        const std::int64_t rows = s.outer * s.inner;
        const View<S> g(dy), v(y), to(dx);
        if (log) {
            for_rows<Compute<S>>(SoftmaxBackward<S, true>{g, v, to}, rows, s.channels, s.inner);
        } else {
            for_rows<Compute<S>>(SoftmaxBackward<S, false>{g, v, to}, rows, s.channels, s.inner);
        }
    });
    dx.commit();
}

void cross_entropy(const Array& logits_, const Array& target_, double label_smoothing, Reduction reduction,
                   const Array& loss, const Array& dlogits) {
    const Dense logits(logits_), target(target_);
    const std::int64_t rows = logits->shape[0], n = logits->shape[1];
    const double scale = reduction == Reduction::mean ? 1 / double(rows) : 1;
    const bool indices = target->dtype == DType::i32 || target->dtype == DType::i64;
    double* const losses = allocate_array<double>(rows);
    with_storage(logits->dtype, [&](auto storage) {
        using S = decltype(storage);
        CrossEntropy<S> f{View<S>(logits), View<S>(), View<S>(dlogits), {}, label_smoothing, scale, losses};
        if (indices) {
            f.labels = {target->data, target->dtype};
        } else {
            f.target = View<S>(target);
        }
        for_rows<Compute<S>>(f, rows, n, 1);
    });
    if (reduction != Reduction::none) return store_total(losses, rows, scale, loss);
    const StoreEach kernel{{}, losses, rows, DoubleView(&loss)};
    launch(kernel, blocks_for(rows, kernel.threads));
}

void mse_loss(const Array& pred_, const Array& target_, Reduction reduction, const Array& loss, const Array& dpred) {
    const Dense pred(pred_), target(target_);
    const double scale = reduction == Reduction::mean ? 1 / double(pred->size) : 1;
    const bool each = reduction == Reduction::none;
    const std::int64_t blocks = blocks_for(pred->size, Kernel::threads * 8, 1024);
    double* const totals = allocate_array<double>(blocks);
    with_storage(pred->dtype, [&](auto storage) {
        using S = decltype(storage);
        const SquaredError<S> kernel{{},   View<S>(pred),         View<S>(target), View<S>(dpred), DoubleView(&loss),
                                     each, Compute<S>(2 * scale), totals,          pred->size};
        launch(kernel, blocks, kernel.threads / warp_size * std::int64_t(sizeof(double)));
    });
    if (!each) store_total(totals, blocks, scale, loss);
}

void maxout_forward(const ChannelShape& s, int pieces, const Array& x, const Array& y) {
    maxout<false>(s, pieces, x, y, nullptr);
}

void maxout_backward(const ChannelShape& s, int pieces, const Array& dy, const Array& x, const Array& dx) {
    maxout<true>(s, pieces, x, Dense(dy), &dx);
}

}  // namespace gradfuse::cuda
