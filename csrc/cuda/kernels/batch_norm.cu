// Batch normalization in either order, and the end of a dense layer: the reductions meet one thread per channel, which
// makes the constants for the elements.
#include "cuda/kernels.h"
#include "cuda/pipeline.cuh"

namespace gradfuse::cuda {
inline namespace GRADFUSE_ISA {

namespace {

// The numbers of a channel from wherever they are.
struct ChannelNumbers {
    ChannelNumbers() = default;
    ChannelNumbers(const ChannelOp& op, const ChannelArrays& a)
        : mean(op.normalize ? a.mean : nullptr),
          invstd(op.normalize ? a.invstd : nullptr),
          weight(a.weight),
          bias(a.bias) {}

    GRADFUSE_DEVICE Channel operator[](std::int64_t c) const {
        return {mean ? mean[c] : 0, invstd ? invstd[c] : 1, weight.get(c, 1), bias.get(c, 0)};
    }

    const double *mean, *invstd;
    DoubleView weight, bias;
};

template <class T>
struct MakeForwardTable {
    ChannelNumbers numbers;
    T* table;
    std::int64_t channels;

    GRADFUSE_DEVICE void operator()(std::int64_t c, const Nothing&) const {
        T value[3];
        numbers[c].forward_constants(value);
#pragma unroll
        for (int k = 0; k < 3; ++k) table[k * channels + c] = value[k];
    }
};

template <class T>
T* forward_table(const ChannelOp& op, const ChannelArrays& a) {
    T* const table = allocate_array<T>(3 * op.shape.channels);
    per_channel(MakeForwardTable<T>{ChannelNumbers(op, a), table, op.shape.channels}, op.shape.channels);
    return table;
}

// The arrays with all that is read dense; results are new arrays, which are.
class DenseArrays {
public:
    explicit DenseArrays(const ChannelArrays& a)
        : arrays_(a),
          x_(dense_or_none<Dense>(a.x)),
          weight_(dense_or_none<Dense>(a.weight)),
          bias_(dense_or_none<Dense>(a.bias)),
          residual_(dense_or_none<Dense>(a.residual)),
          dy_(dense_or_none<Dense>(a.dy)) {
        arrays_.x = pointer_to(x_);
        arrays_.weight = pointer_to(weight_);
        arrays_.bias = pointer_to(bias_);
        arrays_.residual = pointer_to(residual_);
        arrays_.dy = pointer_to(dy_);
    }
    const ChannelArrays& operator*() const { return arrays_; }

private:
    ChannelArrays arrays_;
    const std::optional<Dense> x_, weight_, bias_, residual_, dy_;
};

struct FinishStatistics {
    double eps, momentum;
    bool unbiased;
    DoubleView running_mean, running_var;
    double *mean, *invstd;

    GRADFUSE_DEVICE void operator()(std::int64_t c, const ChannelMoments& batch) const {
        mean[c] = batch.mean;
        invstd[c] = inverse_deviation(batch.variance(), eps);
        double m = running_mean.get(c), v = running_var.get(c);
        batch.move(momentum, unbiased, m, v);
        running_mean.set(c, m);
        running_var.set(c, v);
    }
};

struct UseStatistics {
    DoubleView given_mean, given_var;
    double eps;
    double *mean, *invstd;

    GRADFUSE_DEVICE void operator()(std::int64_t c, const Nothing&) const {
        mean[c] = given_mean.get(c);
        invstd[c] = inverse_deviation(given_var.get(c), eps);
    }
};

// [3][channels] of a channel: count, mean, sum of squared deviations.
struct PackedMoments {
    const double* data;
    std::int64_t channels;

    GRADFUSE_DEVICE ChannelMoments operator[](std::int64_t c) const {
        return {data[c], data[channels + c], data[2 * channels + c]};
    }
};
struct StoreMoments {
    double* to;
    std::int64_t channels;

    GRADFUSE_DEVICE void operator()(std::int64_t c, const ChannelMoments& m) const {
        to[c] = m.count;
        to[channels + c] = m.mean;
        to[2 * channels + c] = m.squares;
    }
};
struct MergeMoments {
    StoreMoments store;
    PackedMoments b;
    bool first;

    GRADFUSE_DEVICE void operator()(std::int64_t c, const Nothing&) const {
        ChannelMoments m{};
        if (!first) m = PackedMoments{store.to, store.channels}[c];
        m.merge(b[c]);
        store(c, m);
    }
};
struct UseMoments {
    PackedMoments moments;
    FinishStatistics finish;

    GRADFUSE_DEVICE void operator()(std::int64_t c, const Nothing&) const { finish(c, moments[c]); }
};

template <class T>
struct StoreSums {
    ChannelNumbers numbers;
    double* to;
    std::int64_t channels;

    GRADFUSE_DEVICE void operator()(std::int64_t c, const Sums& dz) const {
        to[c] = dz.a;
        to[channels + c] = numbers[c].template dweight<T>(dz);
    }
};

// The gradients of weight and bias from the local sums, the constants of dx from those of the whole batch.
template <class T>
struct FinishFromSums {
    ChannelNumbers numbers;
    DoubleView dweight, dbias;
    const double *local, *sums, *count;
    T* table;
    std::int64_t channels;

    GRADFUSE_DEVICE void operator()(std::int64_t c, const Nothing&) const {
        dbias.set(c, local[c]);
        dweight.set(c, local[channels + c]);
        const Channel channel = numbers[c];
        const double dz = sums[c], rest = channel.mean - double(T(channel.mean));
        T value[5];
        channel.backward_constants(Sums{dz, sums[channels + c] / channel.invstd + rest * dz}, count[c], value);
#pragma unroll
        for (int k = 0; k < 5; ++k) table[k * channels + c] = value[k];
    }
};

// The gradients of weight and bias, and the constants of dx where it goes through the statistics.
template <class T>
struct FinishBackward {
    ChannelNumbers numbers;
    DoubleView dweight, dbias;
    double n;
    T* table;  // null where dx is done
    std::int64_t channels;

    GRADFUSE_DEVICE void operator()(std::int64_t c, const Sums& dz) const {
        const Channel channel = numbers[c];
        dweight.set(c, channel.template dweight<T>(dz));
        dbias.set(c, dz.a);
        if (!table) return;
        T value[5];
        channel.backward_constants(dz, n, value);
#pragma unroll
        for (int k = 0; k < 5; ++k) table[k * channels + c] = value[k];
    }
};

template <class S>
void backward(const ChannelOp& op, const ChannelArrays& a) {
    using T = Compute<S>;
    const ChannelShape& s = op.shape;
    const BackwardPass<S> pass(op, a);
    const T* const table = forward_table<T>(op, a);
    const bool through_statistics = op.through_statistics();
    if (!through_statistics && !a.dweight && !a.dbias) return channel_map<T, 3>(pass, s, table);

    FinishBackward<T> finish{ChannelNumbers(op, a),
                             DoubleView(a.dweight),
                             DoubleView(a.dbias),
                             double(s.outer * s.inner),
                             nullptr,
                             s.channels};
    if (!through_statistics) return channel_reduce(BackwardSums<S, true>{pass, table, s.channels}, s, finish);
    finish.table = allocate_array<T>(5 * s.channels);
    channel_reduce(BackwardSums<S, false>{pass, table, s.channels}, s, finish);
    channel_map<T, 5>(pass, s, finish.table);
}

}  // namespace

}  // namespace GRADFUSE_ISA

void batch_norm(const ChannelOp& op, const ChannelArrays& arrays, double eps, const RunningStatistics& running,
                double* mean, double* invstd) {
    const Dense x(*arrays.x);
    const auto running_mean = dense_or_none<DenseInOut>(running.mean),
               running_var = dense_or_none<DenseInOut>(running.var);
    ChannelArrays a;
    a.x = &*x;
    const FinishStatistics finish{eps,
                                  running.momentum,
                                  running.unbiased,
                                  DoubleView(pointer_to(running_mean)),
                                  DoubleView(pointer_to(running_var)),
                                  mean,
                                  invstd};
    with_storage(x->dtype, [&](auto s) {
        using S = decltype(s);
        channel_reduce(Sample<S>{Pipeline<S>(op, a)}, op.shape, finish);
    });
    if (running_mean) running_mean->commit();
    if (running_var) running_var->commit();
    channel_forward(op, arrays);
}

void given_statistics(const Array& given_mean, const Array& given_var, double eps, double* mean, double* invstd) {
    const Dense m(given_mean), v(given_var);
    per_channel(UseStatistics{DoubleView(&*m), DoubleView(&*v), eps, mean, invstd}, m->size);
}

void channel_forward(const ChannelOp& op, const ChannelArrays& given) {
    const DenseArrays arrays(given);
    const DenseOutput y(*given.y);
    ChannelArrays a = *arrays;
    a.y = &*y;
    with_storage(a.y->dtype, [&](auto s) {
        using S = decltype(s);
        using T = Compute<S>;
        channel_map<T, 3>(ForwardPass<S>(op, a), op.shape, forward_table<T>(op, a));
    });
    y.commit();
}

void channel_backward(const ChannelOp& op, const ChannelArrays& given) {
    const DenseArrays arrays(given);
    with_storage(given.dy->dtype, [&](auto s) { backward<decltype(s)>(op, *arrays); });
}

void batch_moments(const ChannelShape& shape, const Array& x_, double* moments) {
    const Dense x(x_);
    ChannelOp op;
    op.shape = shape;
    ChannelArrays a;
    a.x = &*x;
    with_storage(x->dtype, [&](auto s) {
        using S = decltype(s);
        channel_reduce(Sample<S>{Pipeline<S>(op, a)}, shape, StoreMoments{moments, shape.channels});
    });
}

void merge_moments(double* a, const Array& b_, bool first) {
    const Dense b(b_);
    const std::int64_t channels = b->shape[1];
    per_channel(MergeMoments{{a, channels}, {static_cast<const double*>(b->data), channels}, first}, channels);
}

void use_moments(const Array& moments_, double eps, const RunningStatistics& running, double* mean, double* invstd) {
    const Dense moments(moments_);
    const auto running_mean = dense_or_none<DenseInOut>(running.mean),
               running_var = dense_or_none<DenseInOut>(running.var);
    const FinishStatistics finish{eps,
                                  running.momentum,
                                  running.unbiased,
                                  DoubleView(pointer_to(running_mean)),
                                  DoubleView(pointer_to(running_var)),
                                  mean,
                                  invstd};
    const std::int64_t channels = moments->shape[1];
    per_channel(UseMoments{{static_cast<const double*>(moments->data), channels}, finish}, channels);
    if (running_mean) running_mean->commit();
    if (running_var) running_var->commit();
}

void batch_norm_sums(const ChannelOp& op, const ChannelArrays& given, double* sums) {
    ChannelArrays read = given;
    read.dx = given.dy;  // a pass that only sums does not write it
    const DenseArrays arrays(read);
    with_storage(given.dy->dtype, [&](auto storage) {
        using S = decltype(storage);
        using T = Compute<S>;
        const BackwardPass<S> pass(op, *arrays);
        const BackwardSums<S, false> terms{pass, forward_table<T>(op, *arrays), op.shape.channels};
        channel_reduce(terms, op.shape, StoreSums<T>{ChannelNumbers(op, *arrays), sums, op.shape.channels});
    });
}

void batch_norm_finish(const ChannelOp& op, const ChannelArrays& given, const Array& local_, const Array& sums_,
                       const Array& moments_) {
    const DenseArrays arrays(given);
    const Dense local(local_), sums(sums_), moments(moments_);
    const auto doubles = [](const Dense& a) { return static_cast<const double*>(a->data); };
    with_storage(given.dy->dtype, [&](auto storage) {
        using S = decltype(storage);
        using T = Compute<S>;
        const ChannelArrays& a = *arrays;
        T* const table = allocate_array<T>(5 * op.shape.channels);
        per_channel(FinishFromSums<T>{ChannelNumbers(op, a), DoubleView(a.dweight), DoubleView(a.dbias), doubles(local),
                                      doubles(sums), doubles(moments), table, op.shape.channels},
                    op.shape.channels);
        channel_map<T, 5>(BackwardPass<S>(op, a), op.shape, table);
    });
}

}  // namespace gradfuse::cuda
