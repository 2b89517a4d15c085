// PReLU and the max-norm constraint.
#include "cuda/channels.cuh"
#include "cuda/kernels.h"
#include "formulas/batch_norm.h"

namespace gradfuse::cuda {
inline namespace GRADFUSE_ISA {

namespace {

constexpr int V = channel_vector;

template <class T>
struct MakeWeightTable {
    DoubleView weight;
    T* table;

    GRADFUSE_DEVICE void operator()(std::int64_t c, const Nothing&) const { table[c] = T(weight.get(c)); }
};

template <class T>
T* weight_table(const Array& weight, std::int64_t channels) {
    T* const table = allocate_array<T>(channels);
    const Dense dense(weight);
    per_channel(MakeWeightTable<T>{DoubleView(&*dense), table}, channels);
    return table;
}

template <class S>
struct PRelu {
    using T = Compute<S>;
    View<S> x, y;

    GRADFUSE_DEVICE void apply(std::int64_t i, int n, const T (&a)[1][V]) const {
        T v[V];
        x.read(i, n, true, v);
#pragma unroll
        for (int j = 0; j < V; ++j) v[j] = v[j] > 0 ? v[j] : a[0][j] * v[j];
        y.write(i, n, true, v);
    }
};

// dx is written on the way to the sums.
template <class S>
struct PReluBackward {
    using T = Compute<S>;
    using Total = Sums;

    View<S> dy, x, dx;
    const T* table;

    struct Terms {
        const PReluBackward& f;
        T slope;
        Sums total{};

        GRADFUSE_DEVICE void add(std::int64_t i, int n, bool wide) {
            T g[V], v[V], sum = 0;
            f.dy.read(i, n, wide, g);
            f.x.read(i, n, wide, v);
#pragma unroll
            for (int j = 0; j < V; ++j) {
                if (j < n && !(v[j] >= 0)) sum += v[j] * g[j];
                g[j] = v[j] > 0 ? g[j] : slope * g[j];
            }
            total.a += double(sum);
            f.dx.write(i, n, wide, g);
        }
        GRADFUSE_DEVICE Sums result() const { return total; }
    };
    GRADFUSE_DEVICE Terms start(std::int64_t channel, std::int64_t) const { return {*this, table[channel], {}}; }
};

struct StoreSum {
    DoubleView to;

    GRADFUSE_DEVICE void operator()(std::int64_t c, const Sums& total) const { to.set(c, total.a); }
};

template <class S>
struct Squares {
    using Total = Sums;
    View<S> w;

    struct Terms {
        const View<S>& w;
        Sums total{};

        GRADFUSE_DEVICE void add(std::int64_t i, int n, bool wide) {
            S raw[V];
            w.load(i, n, wide, raw);
#pragma unroll
            for (int j = 0; j < V; ++j) {
                if (j >= n) break;
                const double v = Storage<S>::template load<double>(raw[j]);
                total.a += v * v;
            }
        }
        GRADFUSE_DEVICE Sums result() const { return total; }
    };
    GRADFUSE_DEVICE Terms start(std::int64_t, std::int64_t) const { return {w, {}}; }
};

template <class T>
struct MakeFactors {
    double limit;
    T* table;

    GRADFUSE_DEVICE void operator()(std::int64_t c, const Sums& squares) const {
        const double norm = std::sqrt(squares.a);
        table[c] = norm > limit ? T(limit / norm) : T(1);
    }
};

template <class S>
struct Scale {
    using T = Compute<S>;
    View<S> w;

    GRADFUSE_DEVICE void apply(std::int64_t i, int n, const T (&factor)[1][V]) const {
        T v[V];
        w.read(i, n, true, v);
#pragma unroll
        for (int j = 0; j < V; ++j) v[j] *= factor[0][j];
        w.write(i, n, true, v);
    }
};

}  // namespace

}  // namespace GRADFUSE_ISA

void prelu_forward(const ChannelShape& shape, const Array& x_, const Array& weight, const Array& y) {
    const Dense x(x_);
    with_storage(x->dtype, [&](auto s) {
        using S = decltype(s);
        using T = Compute<S>;
        channel_map<T, 1>(PRelu<S>{View<S>(x), View<S>(y)}, shape, weight_table<T>(weight, shape.channels));
    });
}

void prelu_backward(const ChannelShape& shape, const Array& dy_, const Array& x_, const Array& weight, const Array& dx,
                    const Array& dweight) {
    const Dense dy(dy_), x(x_);
    with_storage(x->dtype, [&](auto s) {
        using S = decltype(s);
        const auto* const table = weight_table<Compute<S>>(weight, shape.channels);
        channel_reduce(PReluBackward<S>{View<S>(dy), View<S>(x), View<S>(dx), table}, shape,
                       StoreSum{DoubleView(&dweight)});
    });
}

void max_norm(const ChannelShape& shape, double limit, const Array& w_) {
    const DenseInOut w(w_);
    with_storage(w_.dtype, [&](auto s) {
        using S = decltype(s);
        using T = Compute<S>;
        T* const factors = allocate_array<T>(shape.channels);
        channel_reduce(Squares<S>{View<S>(w)}, shape, MakeFactors<T>{limit, factors});
        channel_map<T, 1>(Scale<S>{View<S>(w)}, shape, factors);
    });
    w.commit();
}

}  // namespace gradfuse::cuda
