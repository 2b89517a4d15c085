// Batch normalization in either order, its phases, and bias and activation of a dense layer.
#include "formulas/batch_norm.h"

#include "core/backend.h"
#include "cpu/kernels.h"
#include "cpu/reduce_map.h"
#include "formulas/norms/batch_norm.h"

namespace gradfuse {
inline namespace GRADFUSE_ISA {

namespace {

template <class T>
struct Stage {  // an activation of the list, or none
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
void add(const Array& what, std::int64_t start, std::int64_t n, T* to) {
    Buffer<T> scratch;
    const T* const more = Reader<T>(what)(start, n, scratch.data);
    for_lanes(n, [&](std::int64_t i) GRADFUSE_INLINE { to[i] += more[i]; });
}

// Before the reduction: v = before(x). After the map: y = dropout(after(z + residual)).
template <class T>
struct Forward {
    static constexpr bool possible = true, keeps_first = false;

    Forward(const ChannelOp& op, const ChannelArrays& a)
        : before(op.before), after(op.after), dropout(op.dropout), residual(a.residual) {}

    bool active() const { return before || after || dropout.threshold || residual; }

    template <class Z>
    const T* input(const Reader<T>& read, int, std::int64_t start, std::int64_t n, T* tile, bool loads,
                   const Z&) const {
        if (!before) return loads || read.direct() ? read(start, n, tile) : tile;
        if (loads) before.forward(read(start, n, tile), tile, n);
        return tile;
    }
    void after_map(std::int64_t start, std::int64_t n, T* y) const {
        if (residual) add(*residual, start, n, y);
        if (after) after.forward(y, y, n);
        if (dropout.threshold) dropout_tile(dropout, start, y, y, n);
    }

    const Stage<T> before, after;
    const Dropout& dropout;
    const Array* const residual;
};

// The backward: dz (which is also dresidual) from dy and z, where z is computed again from x. Then dx through the
// gradient of `before`.
template <class T>
struct Backward {
    static constexpr bool possible = true, keeps_first = true;
    using Forward = Normalize<T>;

    Backward(const ChannelOp& op, const ChannelArrays& a)
        : forward(&none), before(op.before), after(op.after), dropout(op.dropout), a(a), x(*a.x) {}

    bool active() const { return before || after || dropout.threshold || a.dresidual; }

    template <class Z>
    const T* input(const Reader<T>& read, int i, std::int64_t start, std::int64_t n, T* tile, bool loads,
                   const Z& map_again) const {
        if (i == 1) return normalized(read, start, n, tile, loads);
        if (!after && !dropout.threshold) {
            const T* const dz = loads || read.direct() ? read(start, n, tile) : tile;
            if (loads) keep_dresidual(start, n, dz);
            return dz;
        }
        if (!loads) return tile;
        const T* dy = read(start, n, tile);
        if (dropout.threshold) {
            dropout_tile(dropout, start, dy, tile, n);
            dy = tile;
        }
        if (after) {
            Buffer<T> z;
            map_again(z.data);
            if (a.residual) add(*a.residual, start, n, z.data);
            if (after.saves_y()) after.forward(z.data, z.data, n);
            after.backward(dy, z.data, tile, n);
        }
        keep_dresidual(start, n, tile);
        return tile;
    }
    void after_map(std::int64_t start, std::int64_t n, T* dx) const {
        if (!before) return;
        Buffer<T> scratch;
        const T* saved = x(start, n, scratch.data);
        if (before.saves_y()) saved = normalized(x, start, n, scratch.data, true);
        before.backward(dx, saved, dx, n);
    }
    template <class Group>
    static GRADFUSE_HD auto constants(const Forward& f, const Group& g) {
        const double statistics[] = {g.mean, g.invstd};
        return f.saved(statistics, {g.weight, g.bias});
    }

    const Forward forward;

private:
    const T* normalized(const Reader<T>& read, std::int64_t start, std::int64_t n, T* tile, bool loads) const {
        if (!before) return loads || read.direct() ? read(start, n, tile) : tile;
        if (loads) before.forward(read(start, n, tile), tile, n);
        return tile;
    }
    void keep_dresidual(std::int64_t start, std::int64_t n, const T* dz) const {
        if (a.dresidual) Writer<T>(*a.dresidual).store(start, n, dz);
    }

    static constexpr double none = 0;
    const Stage<T> before, after;
    const Dropout& dropout;
    const ChannelArrays& a;
    const Reader<T> x;
};

GroupNumbers numbers(const Array* a, double otherwise) { return {a, otherwise, 0}; }

void move_running(const RunningStatistics& running, std::int64_t channels, const ChannelMoments* moments) {
    if (!running.mean) return;
    const Heap<double> mean(channels), var(channels);
    Reader<double>(*running.mean).load(0, channels, mean.data());
    Reader<double>(*running.var).load(0, channels, var.data());
    for (std::int64_t c = 0; c < channels; ++c) {
        moments[c].move(running.momentum, running.unbiased, mean[c], var[c]);
    }
    Writer<double>(*running.mean).store(0, channels, mean.data());
    Writer<double>(*running.var).store(0, channels, var.data());
}

// A single zero as an array of any shape.
Array zeros_like(const Array& like) {
    static double zero = 0;
    Array a = like;
    a.data = &zero;
    a.dense = false;
    for (int d = 0; d < a.ndim; ++d) a.strides[d] = 0;
    return a;
}

ReduceMapArrays backward_arrays(const ChannelArrays& a, const GroupDoubles& mean, const GroupDoubles& invstd) {
    ReduceMapArrays r;
    r.in[0] = a.dy, r.in[1] = a.x, r.out = a.dx;
    r.group_in[0] = numbers(mean, 0), r.group_in[1] = numbers(invstd, 1);
    r.group_in[2] = numbers(a.weight, 1), r.group_in[3] = numbers(a.bias, 0);
    return r;
}

}  // namespace

void batch_norm(const ChannelOp& op, const ChannelArrays& a, double eps, const RunningStatistics& running, double* mean,
                double* invstd) {
    const std::int64_t channels = op.shape.channels;
    const Heap<double> variance(channels);
    const GroupDoubles out_mean(mean, channels), out_invstd(invstd, channels), out_variance(variance.data(), channels);
    ReduceMapArrays r;
    r.in[0] = a.x, r.out = a.y;
    r.group_in[0] = numbers(a.weight, 1), r.group_in[1] = numbers(a.bias, 0);
    r.group_out[0] = out_mean, r.group_out[1] = out_invstd, r.group_out[2] = out_variance;
    with_compute_type(a.x->dtype, [&](auto t) {
        using T = decltype(t);
        reduce_map(BatchNorm<T>(&eps), channels_of(op.shape), r, Forward<T>(op, a));
    });
    if (op.shape.size() == 0) {
        for (std::int64_t c = 0; c < channels; ++c) mean[c] = 0, invstd[c] = inverse_deviation(0, eps);
        return;
    }
    const double n = double(op.shape.outer * op.shape.inner);
    const Heap<ChannelMoments> moments(channels);
    for (std::int64_t c = 0; c < channels; ++c) moments[c] = {n, mean[c], variance[c] * n};
    move_running(running, channels, moments.data());
}

void given_statistics(const Array& given_mean, const Array& given_var, double eps, double* mean, double* invstd) {
    Reader<double>(given_mean).load(0, given_mean.size, mean);
    Reader<double>(given_var).load(0, given_var.size, invstd);
    for (std::int64_t c = 0; c < given_var.size; ++c) invstd[c] = inverse_deviation(invstd[c], eps);
}

void channel_forward(const ChannelOp& op, const ChannelArrays& a) {
    const std::int64_t channels = op.shape.channels;
    const GroupDoubles mean(op.normalize ? a.mean : nullptr, channels),
        invstd(op.normalize ? a.invstd : nullptr, channels);
    const Array zeros = zeros_like(*a.y);
    ReduceMapArrays r;
    r.in[0] = a.x ? a.x : &zeros, r.out = a.y;
    r.group_in[0] = numbers(mean, 0), r.group_in[1] = numbers(invstd, 1);
    r.group_in[2] = numbers(a.weight, 1), r.group_in[3] = numbers(a.bias, 0);
    with_compute_type(a.y->dtype, [&](auto t) {
        using T = decltype(t);
        reduce_map(ChannelAffine<T>(), channels_of(op.shape), r, Forward<T>(op, a));
    });
}

void channel_backward(const ChannelOp& op, const ChannelArrays& a) {
    const std::int64_t channels = op.shape.channels;
    const GroupDoubles mean(op.normalize ? a.mean : nullptr, channels),
        invstd(op.normalize ? a.invstd : nullptr, channels);
    ReduceMapArrays r = backward_arrays(a, mean, invstd);
    r.group_out[0] = a.dweight, r.group_out[1] = a.dbias;
    with_compute_type(a.dy->dtype, [&](auto t) {
        using T = decltype(t);
        const Backward<T> stages(op, a);
        if (op.through_statistics()) {
            reduce_map(NormalizeBackward<T>(nullptr), channels_of(op.shape), r, stages);
        } else {
            reduce_map(ChannelAffineBackward<T>(nullptr), channels_of(op.shape), r, stages);
        }
    });
}

void batch_moments(const ChannelShape& shape, const Array& x, double* moments) {
    const std::int64_t channels = shape.channels;
    const GroupDoubles count(moments, channels), mean(moments + channels, channels),
        squares(moments + 2 * channels, channels);
    ReduceMapArrays r;
    r.in[0] = &x;
    r.group_out[0] = count, r.group_out[1] = mean, r.group_out[2] = squares;
    with_compute_type(x.dtype, [&](auto t) { reduce_map(BatchMoments<decltype(t)>(), channels_of(shape), r); });
}

void merge_moments(double* a, const Array& b_, bool first) {
    const std::int64_t channels = b_.shape[1];
    const Heap<double> b(b_.size);
    Reader<double>(b_).load(0, b_.size, b.data());
    for (std::int64_t c = 0; c < channels; ++c) {
        ChannelMoments m{};
        if (!first) m = {a[c], a[channels + c], a[2 * channels + c]};
        m.merge({b[c], b[channels + c], b[2 * channels + c]});
        a[c] = m.count, a[channels + c] = m.mean, a[2 * channels + c] = m.squares;
    }
}

void use_moments(const Array& moments_, double eps, const RunningStatistics& running, double* mean, double* invstd) {
    const std::int64_t channels = moments_.shape[1];
    const Heap<double> from(moments_.size);
    Reader<double>(moments_).load(0, moments_.size, from.data());
    const Heap<ChannelMoments> moments(channels);
    for (std::int64_t c = 0; c < channels; ++c) {
        moments[c] = {from[c], from[channels + c], from[2 * channels + c]};
        mean[c] = moments[c].mean;
        invstd[c] = inverse_deviation(moments[c].variance(), eps);
    }
    move_running(running, channels, moments.data());
}

void batch_norm_sums(const ChannelOp& op, const ChannelArrays& a, double* sums) {
    const std::int64_t channels = op.shape.channels;
    const GroupDoubles mean(a.mean, channels), invstd(a.invstd, channels), dz(sums, channels),
        xhat(sums + channels, channels);
    ReduceMapArrays r = backward_arrays(a, mean, invstd);
    r.group_out[0] = xhat, r.group_out[1] = dz;
    with_compute_type(a.dy->dtype, [&](auto t) {
        using T = decltype(t);
        reduce_map(BatchNormSums<T>(nullptr), channels_of(op.shape), r, Backward<T>(op, a));
    });
}

void batch_norm_finish(const ChannelOp& op, const ChannelArrays& a, const Array& local, const Array& sums,
                       const Array& moments) {
    const std::int64_t channels = op.shape.channels;
    const Heap<double> own(2 * channels), all(2 * channels), count(channels);
    Reader<double>(local).load(0, 2 * channels, own.data());
    Reader<double>(sums).load(0, 2 * channels, all.data());
    Reader<double>(moments).load(0, channels, count.data());
    if (a.dbias) Writer<double>(*a.dbias).store(0, channels, own.data());
    if (a.dweight) Writer<double>(*a.dweight).store(0, channels, own.data() + channels);
    for (std::int64_t i = 0; i < 2 * channels; ++i) all[i] /= count[i % channels];
    const GroupDoubles mean(a.mean, channels), invstd(a.invstd, channels), dz(all.data(), channels),
        xhat(all.data() + channels, channels);
    ReduceMapArrays r = backward_arrays(a, mean, invstd);
    r.group_in[4] = numbers(xhat, 0), r.group_in[5] = numbers(dz, 0);
    with_compute_type(a.dy->dtype, [&](auto t) {
        using T = decltype(t);
        reduce_map(BatchNormFinish<T>(), channels_of(op.shape), r, Backward<T>(op, a));
    });
}

}  // namespace GRADFUSE_ISA
}  // namespace gradfuse
