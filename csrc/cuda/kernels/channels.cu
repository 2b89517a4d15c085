// PReLU and the max-norm constraint.
#include "cuda/kernels.h"
#include "cuda/slots.cuh"
#include "formulas/channels.h"

namespace gradfuse::cuda {

void prelu_forward(const ChannelShape& shape, const Array& x_, const Array& weight_, const Array& y) {
    const WideDense x(x_);
    const Dense weight(weight_);
    ReduceMapArrays r;
    r.in[0] = &*x, r.out = &y;
    r.group_in[0] = {&*weight};
    with_storage(x_.dtype, [&](auto s) {
        using S = decltype(s);
        ChannelLoop<S>(shape, r).map(PRelu<Compute<S>>());
    });
}

void prelu_backward(const ChannelShape& shape, const Array& dy_, const Array& x_, const Array& weight_, const Array& dx,
                    const Array& dweight) {
    const WideDense dy(dy_), x(x_);
    const Dense weight(weight_);
    ReduceMapArrays r;
    r.in[0] = &*dy, r.in[1] = &*x, r.out = &dx;
    r.group_in[0] = {&*weight};
    r.group_out[0] = &dweight;
    with_storage(x_.dtype, [&](auto s) {
        using S = decltype(s);
        const ChannelLoop<S> loop(shape, r);
        const PReluBackward<Compute<S>> f;
        loop.finish(f, loop.reduce(f));
    });
}

void max_norm(const ChannelShape& shape, double limit, const Array& w_) {
    const DenseInOut w(w_);
    ReduceMapArrays r;
    r.in[0] = &*w, r.out = &*w;
    with_storage(w_.dtype, [&](auto s) {
        using S = decltype(s);
        const ChannelLoop<S, NoStages, false> loop(shape, r);
        const MaxNorm<Compute<S>> f(limit);
        loop.map(f, loop.reduce(f));
    });
    w.commit();
}

}  // namespace gradfuse::cuda
