// The passes over a ChannelOp, a vector of elements at a time. See core/backend.h for what they compute.
#pragma once

#include "cuda/channels.cuh"
#include "cuda/random.cuh"
#include "cuda/stage.cuh"
#include "formulas/batch_norm.h"

namespace gradfuse::cuda {
inline namespace GRADFUSE_ISA {

// What the passes share: how a vector is read, brought through `before`, and made affine.
template <class S>
struct Pipeline {
    using T = Compute<S>;
    static constexpr int V = channel_vector;

    Pipeline() = default;
    Pipeline(const ChannelOp& op, const ChannelArrays& a)
        : before(op.before),
          after(op.after),
          dropout(op.dropout),
          x(a.x ? View<S>(*a.x) : View<S>()),
          residual(a.residual ? View<S>(*a.residual) : View<S>()),
          has_x(a.x != nullptr),
          has_residual(a.residual != nullptr) {}

    GRADFUSE_DEVICE void input(std::int64_t i, int n, bool wide, T (&v)[V]) const {
        if (has_x) {
            x.read(i, n, wide, v);
        } else {
#pragma unroll
            for (int j = 0; j < V; ++j) v[j] = 0;
        }
        if (before) before.forward(v);
    }

    // z = affine(v) + residual
    template <int K>
    GRADFUSE_DEVICE void affine(std::int64_t i, int n, bool wide, const T (&c)[K][V], const T (&v)[V],
                                T (&z)[V]) const {
#pragma unroll
        for (int j = 0; j < V; ++j) z[j] = (v[j] - c[centre][j]) * c[scale_][j] + c[shift][j];
        if (!has_residual) return;
        T r[V];
        residual.read(i, n, wide, r);
#pragma unroll
        for (int j = 0; j < V; ++j) z[j] += r[j];
    }

    Stage<T> before, after;
    Dropout dropout;
    View<S> x, residual;
    bool has_x, has_residual;
};

template <class S>
struct ForwardPass : Pipeline<S> {
    using T = Compute<S>;
    static constexpr int V = channel_vector;

    ForwardPass() = default;
    ForwardPass(const ChannelOp& op, const ChannelArrays& a) : Pipeline<S>(op, a), y(*a.y) {}

    GRADFUSE_DEVICE void apply(std::int64_t i, int n, const T (&c)[3][V]) const {
        T v[V], z[V];
        this->input(i, n, true, v);
        this->affine(i, n, true, c, v, z);
        if (this->after) this->after.forward(z);
        if (this->dropout.threshold) drop(this->dropout, i, n, z);
        y.write(i, n, true, z);
    }

    View<S> y;
};

template <class S>
struct BackwardPass : Pipeline<S> {
    using T = Compute<S>;
    static constexpr int V = channel_vector;

    BackwardPass() = default;
    BackwardPass(const ChannelOp& op, const ChannelArrays& a)
        : Pipeline<S>(op, a),
          dy(*a.dy),
          dx(*a.dx),
          dresidual(a.dresidual ? View<S>(*a.dresidual) : View<S>()),
          wants_dresidual(a.dresidual != nullptr) {}

    // The gradient at the affine's output, recomputed from x and the dropout's random stream.
    template <int K>
    GRADFUSE_DEVICE void dz(std::int64_t i, int n, bool wide, const T (&c)[K][V], const T (&v)[V], T (&g)[V]) const {
        dy.read(i, n, wide, g);
        if (this->dropout.threshold) drop(this->dropout, i, n, g);
        if (!this->after) return;
        T z[V];
        this->affine(i, n, wide, c, v, z);
        this->after.backward(g, z);
    }

    // dx from dz: through the statistics, where the constants have their part, then through `before`.
    template <int K>
    GRADFUSE_DEVICE void finish(std::int64_t i, int n, bool wide, const T (&c)[K][V], const T (&v)[V],
                                T (&g)[V]) const {
        if (wants_dresidual) dresidual.write(i, n, wide, g);
#pragma unroll
        for (int j = 0; j < V; ++j) {
            if constexpr (K > offset) {
                g[j] = c[scale_][j] * g[j] + (c[slope][j] * (v[j] - c[centre][j]) + c[offset][j]);
            } else {
                g[j] = c[scale_][j] * g[j];
            }
        }
        if (this->before) {
            T saved[V];
            this->x.read(i, n, wide, saved);
            this->before.backward(g, saved);
        }
        dx.write(i, n, wide, g);
    }

    template <int K>
    GRADFUSE_DEVICE void apply(std::int64_t i, int n, const T (&c)[K][V]) const {
        T v[V], g[V];
        this->input(i, n, true, v);
        dz(i, n, true, c, v, g);
        finish(i, n, true, c, v, g);
    }

    View<S> dy, dx, dresidual;
    bool wants_dresidual;
};

// The sample of a channel: the sum of v, and that of (v - pivot)^2, pivot one of the values, so that nothing cancels.
template <class S>
struct Sample {
    using T = Compute<S>;
    using Wide = std::conditional_t<sizeof(S) == 2, float, double>;  // of some elements; float32 itself would lose bits
    using Total = ChannelMoments;
    static constexpr int V = channel_vector;

    Pipeline<S> pipeline;

    struct Terms {
        const Pipeline<S>& pipeline;
        T pivot;
        double count = 0, sum = 0, squares = 0;

        GRADFUSE_DEVICE void add(std::int64_t i, int n, bool wide) {
            T v[V];
            Wide first = 0, second = 0;
            pipeline.input(i, n, wide, v);
#pragma unroll
            for (int j = 0; j < V; ++j) {
                if (j >= n) break;
                const Wide d = Wide(v[j]) - Wide(pivot);
                first += Wide(v[j]);
                second += d * d;
            }
            count += n;
            sum += double(first);
            squares += double(second);
        }
        GRADFUSE_DEVICE ChannelMoments result() const {
            if (count == 0) return {};
            const double mean = sum / count, offset = mean - double(pivot);
            const double about_mean = squares - count * offset * offset;
            return {count, mean, about_mean < 0 ? 0 : about_mean};  // rounding may leave it below 0
        }
    };
    GRADFUSE_DEVICE Terms start(std::int64_t, std::int64_t i) const {
        T v[V];
        pipeline.input(i, 1, false, v);
        return {pipeline, v[0]};
    }
};

// The two sums of a backward pass. Where dx does not depend on them it is written on the way.
template <class S, bool Finish>
struct BackwardSums {
    using T = Compute<S>;
    using Total = Sums;
    static constexpr int V = channel_vector;

    BackwardPass<S> pass;
    const T* table;  // [3][channels]
    std::int64_t channels;

    struct Terms {
        const BackwardPass<S>& pass;
        T c[3][V];
        Sums total{};

        GRADFUSE_DEVICE void add(std::int64_t i, int n, bool wide) {
            T v[V], g[V];
            pass.input(i, n, wide, v);
            pass.dz(i, n, wide, c, v, g);
            T a = 0, av = 0;
#pragma unroll
            for (int j = 0; j < V; ++j) {
                if (j >= n) break;
                a += g[j];
                av += g[j] * (v[j] - c[centre][j]);
            }
            total.merge({double(a), double(av)});
            if constexpr (Finish) pass.finish(i, n, wide, c, v, g);
        }
        GRADFUSE_DEVICE Sums result() const { return total; }
    };
    GRADFUSE_DEVICE Terms start(std::int64_t channel, std::int64_t) const {
        Terms terms{pass, {}, {}};
#pragma unroll
        for (int k = 0; k < 3; ++k) {
#pragma unroll
            for (int j = 0; j < V; ++j) terms.c[k][j] = table[k * channels + channel];
        }
        return terms;
    }
};

}  // namespace GRADFUSE_ISA
}  // namespace gradfuse::cuda
