// Batch normalization in either order, its phases, and bias and activation of a dense layer.
#include "cuda/epilogue.cuh"
#include "cuda/kernels.h"
#include "cuda/slots.cuh"
#include "formulas/norms/batch_norm.h"

namespace gradfuse::cuda {
inline namespace GRADFUSE_ISA {

namespace {

template <class S, int V, class At>
GRADFUSE_DEVICE void add(const At& at, const S* what, Compute<S> (&to)[V]) {
    if (!what) return;
    Compute<S> more[V];
    at.read(what, more);
#pragma unroll
    for (int j = 0; j < V; ++j) to[j] += more[j];
}

// v = before(x); y = dropout(after(z + residual)).
template <class S>
struct ForwardStages : NoStages {
    using T = Compute<S>;
    static constexpr bool calls = true;

    Stage<T> first;
    Epilogue<T> epilogue;
    const S* residual;

    ForwardStages(const ChannelOp& op, const ChannelArrays& a, const ReduceMapArrays&)
        : first(op.before), epilogue(op.after, op.dropout), residual(pointer<S>(a.residual)) {}
    bool wide() const { return is_wide(residual); }

    GRADFUSE_DEVICE const ForwardStages& of_group(std::int64_t, std::int64_t) const { return *this; }
    template <int V, class At>
    GRADFUSE_DEVICE void before(const At&, T (&x)[1][V], const Raw<S, V>&, bool) const {
        first.forward(x[0]);
    }
    template <int V, class At>
    GRADFUSE_DEVICE void after(const At& at, T (&y)[V]) const {
        add(at, residual, y);
        epilogue.forward(at, y);
    }
};

// dz (which is also dresidual) from dy and z, where z is computed again from x. Then dx through the gradient of
// `before`.
template <class S>
struct BackwardStages : NoStages {
    using T = Compute<S>;
    using Affine = ChannelAffine<T>;
    static constexpr bool calls = true;

    Stage<T> first;
    Epilogue<T> epilogue;
    const S *x, *residual;
    S* dresidual;
    Numbers numbers[4];

    BackwardStages(const ChannelOp& op, const ChannelArrays& a, const ReduceMapArrays& r)
        : first(op.before),
          epilogue(op.after, op.dropout),
          x(pointer<S>(a.x)),
          residual(pointer<S>(a.residual)),
          dresidual(pointer<S>(a.dresidual)) {
        for (int m = 0; m < 4; ++m) numbers[m] = Numbers(r.group_in[m]);
    }
    bool wide() const { return is_wide(residual) && is_wide(dresidual); }

    struct OfGroup : NoStages {
        const BackwardStages& s;
        typename Affine::Constants constants;

        GRADFUSE_DEVICE OfGroup(const BackwardStages& s, std::int64_t group) : s(s) {
            const auto numbers = make<typename Affine::Group, double>([&](int m) { return s.numbers[m].get(group); });
            constants = Affine().constants({}, {}, numbers, 0);
        }
        template <int V, class At>
        GRADFUSE_DEVICE void before(const At& at, T (&x)[2][V], const Raw<S, V>&, bool last) const {
            s.first.forward(x[1]);
            s.epilogue.backward(at, x[0], [&](T(&z)[V]) {
#pragma unroll
                for (int j = 0; j < V; ++j) z[j] = Affine().map(constants, 0, x[1][j]).v[0];
                add(at, s.residual, z);
            });
            if (s.dresidual && last) at.write(s.dresidual, x[0]);
        }
        template <int V, class At>
        GRADFUSE_DEVICE void after(const At& at, T (&dx)[V]) const {
            if (!s.first) return;
            T raw[V];
            at.read(s.x, raw);
            s.first.backward(dx, raw);
        }
    };
    GRADFUSE_DEVICE OfGroup of_group(std::int64_t group, std::int64_t) const { return {*this, group}; }
};

// Calls f(c) for every channel.
template <class F>
struct PerChannel : Kernel {
    F f;
    std::int64_t channels;

    GRADFUSE_DEVICE void operator()() const {
        const std::int64_t c = std::int64_t(blockIdx.x) * threads + threadIdx.x;
        if (c < channels) f(c);
    }
};
template <class F>
void per_channel(const F& f, std::int64_t channels) {
    const PerChannel<F> kernel{{}, f, channels};
    launch(kernel, blocks_for(channels, kernel.threads));
}

struct UseStatistics {
    Numbers given_mean, given_var;
    double eps;
    double *mean, *invstd;

    GRADFUSE_DEVICE void operator()(std::int64_t c) const {
        mean[c] = given_mean.get(c);
        invstd[c] = inverse_deviation(given_var.get(c), eps);
    }
};

// Moments as [3][channels].
struct PackedMoments {
    double* data;
    std::int64_t channels;

    GRADFUSE_DEVICE ChannelMoments get(std::int64_t c) const {
        return {data[c], data[channels + c], data[2 * channels + c]};
    }
    GRADFUSE_DEVICE void set(std::int64_t c, const ChannelMoments& m) const {
        data[c] = m.count, data[channels + c] = m.mean, data[2 * channels + c] = m.squares;
    }
};
struct MergeMoments {
    PackedMoments a, b;
    bool first;

    GRADFUSE_DEVICE void operator()(std::int64_t c) const {
        ChannelMoments m{};
        if (!first) m = a.get(c);
        m.merge(b.get(c));
        a.set(c, m);
    }
};
struct UseMoments {
    BatchNormTraining<double> f;
    PackedMoments moments;
    Numbers mean_before, var_before;
    DoubleView running_mean, running_var;
    double *mean, *invstd;

    GRADFUSE_DEVICE void operator()(std::int64_t c) const {
        const ChannelMoments m = moments.get(c);
        double out[4];
        f.finish({m.count, m.mean, m.squares}, {1, 0, mean_before.get(c), var_before.get(c)}, out);
        mean[c] = out[0], invstd[c] = out[1];
        running_mean.set(c, out[2]);
        running_var.set(c, out[3]);
    }
};

// The gradients of weight and bias from the local sums, and the record for dx from the sums of the whole batch.
template <class T>
struct UseSums {
    using Backward = BatchNormBackward<T>;

    Backward f;
    DoubleView dweight, dbias;
    const double *local, *sums, *count, *mean, *invstd;
    typename Backward::Record* records;
    std::int64_t channels;

    GRADFUSE_DEVICE void operator()(std::int64_t c) const {
        dbias.set(c, local[c]);
        dweight.set(c, local[channels + c]);
        records[c] = f.of_sums(sums[c], sums[channels + c], count[c], {mean[c], invstd[c], 1, 0});
    }
};

// The arrays of a call, prepared for the loop. All inputs are dense, and reduced inputs are also on boundaries of 16
// bytes. Results are new arrays, so they are both.
class Prepared {
public:
    Prepared(const ChannelOp& op, const ChannelArrays& given)
        : arrays(given),
          x_(dense_or_none<WideDense>(given.x)),
          dy_(dense_or_none<WideDense>(given.dy)),
          residual_(dense_or_none<WideDense>(given.residual)),
          weight_(dense_or_none<Dense>(given.weight)),
          bias_(dense_or_none<Dense>(given.bias)),
          mean_(op.normalize ? given.mean : nullptr, op.shape.channels),
          invstd_(op.normalize ? given.invstd : nullptr, op.shape.channels) {
        arrays.x = pointer_to(x_), arrays.dy = pointer_to(dy_), arrays.residual = pointer_to(residual_);
        arrays.weight = pointer_to(weight_), arrays.bias = pointer_to(bias_);
    }
    // The input numbers are {mean, invstd, weight, bias}.
    ReduceMapArrays forward() const {
        ReduceMapArrays r;
        r.in[0] = arrays.x, r.out = arrays.y;
        r.group_in[0] = {mean_, 0}, r.group_in[1] = {invstd_, 1};
        r.group_in[2] = {arrays.weight, 1}, r.group_in[3] = {arrays.bias, 0};
        return r;
    }
    ReduceMapArrays backward() const {
        ReduceMapArrays r = forward();
        r.in[0] = arrays.dy, r.in[1] = arrays.x, r.out = arrays.dx;
        return r;
    }

    ChannelArrays arrays;

private:
    const std::optional<WideDense> x_, dy_, residual_;
    const std::optional<Dense> weight_, bias_;
    const GroupDoubles mean_, invstd_;
};

struct DenseRunning {
    explicit DenseRunning(const RunningStatistics& running)
        : mean(dense_or_none<DenseInOut>(running.mean)), var(dense_or_none<DenseInOut>(running.var)) {}
    void commit() const {
        if (mean) mean->commit();
        if (var) var->commit();
    }
    const std::optional<DenseInOut> mean, var;
};

template <class S, template <class> class Stages>
ChannelLoop<S, Stages<S>> fused(const ChannelOp& op, const ChannelArrays& a, const ReduceMapArrays& r) {
    return {op.shape, r, Stages<S>(op, a, r)};
}

}  // namespace

}  // namespace GRADFUSE_ISA

void batch_norm(const ChannelOp& op, const ChannelArrays& given, double eps, const RunningStatistics& running,
                double* mean, double* invstd) {
    if (op.shape.size() == 0) return;
    const Prepared prepared(op, given);
    const DenseRunning moved(running);
    const ChannelArrays& a = prepared.arrays;
    const GroupDoubles out_mean(mean, op.shape.channels), out_invstd(invstd, op.shape.channels);
    ReduceMapArrays r;
    r.in[0] = a.x, r.out = a.y;
    r.group_in[0] = {a.weight, 1}, r.group_in[1] = {a.bias, 0};
    r.group_in[2] = {pointer_to(moved.mean), 0}, r.group_in[3] = {pointer_to(moved.var), 0};
    r.group_out[0] = out_mean, r.group_out[1] = out_invstd;
    r.group_out[2] = pointer_to(moved.mean), r.group_out[3] = pointer_to(moved.var);
    with_storage(a.x->dtype, [&](auto storage) {
        using S = decltype(storage);
        using T = Compute<S>;
        const BatchNormTraining<T> f(eps, running.momentum, running.unbiased);
        const auto loop = fused<S, ForwardStages>(op, a, r);
        if (!loop.on_chip(f)) loop.map(f, loop.reduce(BatchMoments<T>()));
    });
    moved.commit();
}

void given_statistics(const Array& given_mean, const Array& given_var, double eps, double* mean, double* invstd) {
    const Dense m(given_mean), v(given_var);
    per_channel(UseStatistics{Numbers({&*m}), Numbers({&*v}), eps, mean, invstd}, m->size);
}

void channel_forward(const ChannelOp& op, const ChannelArrays& given) {
    ChannelArrays read = given;
    Array zeros;
    if (!read.x) {
        zeros = dense_like(*given.y);
        clear(read.x = &zeros);
    }
    const Prepared prepared(op, read);
    const DenseOutput y(*given.y);
    ReduceMapArrays r = prepared.forward();
    r.out = &*y;
    with_storage(given.y->dtype, [&](auto storage) {
        using S = decltype(storage);
        fused<S, ForwardStages>(op, prepared.arrays, r).map(ChannelAffine<Compute<S>>());
    });
    y.commit();
}

void channel_backward(const ChannelOp& op, const ChannelArrays& given) {
    const Prepared prepared(op, given);
    ReduceMapArrays r = prepared.backward();
    r.group_out[0] = given.dweight, r.group_out[1] = given.dbias;
    with_storage(given.dy->dtype, [&](auto storage) {
        using S = decltype(storage);
        using T = Compute<S>;
        const auto loop = fused<S, BackwardStages>(op, prepared.arrays, r);
        if (!op.through_statistics()) {
            const ChannelAffineBackward<T> f(nullptr);
            const auto slots = loop.reduce(f);
            if (given.dweight || given.dbias) loop.finish(f, slots);
            return;
        }
        const BatchNormBackward<T> f(nullptr);
        if (!loop.on_chip(f)) loop.map(f, loop.reduce(BatchNormSums<T>(nullptr)));
    });
}

void batch_moments(const ChannelShape& shape, const Array& x_, double* moments) {
    const WideDense x(x_);
    const std::int64_t channels = shape.channels;
    const GroupDoubles count(moments, channels), mean(moments + channels, channels),
        squares(moments + 2 * channels, channels);
    ReduceMapArrays r;
    r.in[0] = &*x;
    r.group_out[0] = count, r.group_out[1] = mean, r.group_out[2] = squares;
    with_storage(x_.dtype, [&](auto storage) {
        using S = decltype(storage);
        ChannelOp op;
        op.shape = shape;
        const auto loop = fused<S, ForwardStages>(op, {}, r);
        const BatchMoments<Compute<S>> f;
        loop.finish(f, loop.reduce(f));
    });
}

void merge_moments(double* a, const Array& b_, bool first) {
    const Dense b(b_);
    const std::int64_t channels = b->shape[1];
    per_channel(MergeMoments{{a, channels}, {static_cast<double*>(b->data), channels}, first}, channels);
}

void use_moments(const Array& moments_, double eps, const RunningStatistics& running, double* mean, double* invstd) {
    const Dense moments(moments_);
    const DenseRunning moved(running);
    const std::int64_t channels = moments->shape[1];
    const Array *const running_mean = pointer_to(moved.mean), *const running_var = pointer_to(moved.var);
    per_channel(UseMoments{{eps, running.momentum, running.unbiased},
                           {static_cast<double*>(moments->data), channels},
                           Numbers({running_mean}),
                           Numbers({running_var}),
                           DoubleView(running_mean),
                           DoubleView(running_var),
                           mean,
                           invstd},
                channels);
    moved.commit();
}

void batch_norm_sums(const ChannelOp& op, const ChannelArrays& given, double* sums) {
    const Prepared prepared(op, given);
    const std::int64_t channels = op.shape.channels;
    const GroupDoubles dz(sums, channels), xhat(sums + channels, channels);
    ReduceMapArrays r = prepared.backward();
    r.group_out[0] = xhat, r.group_out[1] = dz;
    with_storage(given.dy->dtype, [&](auto storage) {
        using S = decltype(storage);
        const BatchNormSums<Compute<S>> f(nullptr);
        const auto loop = fused<S, BackwardStages>(op, prepared.arrays, r);
        loop.finish(f, loop.reduce(f));
    });
}

void batch_norm_finish(const ChannelOp& op, const ChannelArrays& given, const Array& local_, const Array& sums_,
                       const Array& moments_) {
    const Prepared prepared(op, given);
    const Dense local(local_), sums(sums_), moments(moments_);
    const auto doubles = [](const Dense& a) { return static_cast<const double*>(a->data); };
    const std::int64_t channels = op.shape.channels;
    const ReduceMapArrays r = prepared.backward();
    with_storage(given.dy->dtype, [&](auto storage) {
        using S = decltype(storage);
        using F = BatchNormBackward<Compute<S>>;
        const F f(nullptr);
        const Slots<typename F::Record> whole{allocate_array<typename F::Record>(channels), 1};
        per_channel(
            UseSums<Compute<S>>{f, DoubleView(given.dweight), DoubleView(given.dbias), doubles(local), doubles(sums),
                                doubles(moments), given.mean, given.invstd, whole.records, channels},
            channels);
        fused<S, BackwardStages>(op, prepared.arrays, r).map(f, whole);
    });
}

}  // namespace gradfuse::cuda
