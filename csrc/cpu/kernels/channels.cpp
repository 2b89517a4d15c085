// PReLU and the max-norm constraint.
#include "formulas/channels.h"

#include "cpu/kernels.h"
#include "cpu/reduce_map.h"

namespace gradfuse {
inline namespace GRADFUSE_ISA {

void prelu_forward(const ChannelShape& shape, const Array& x, const Array& weight, const Array& y) {
    ReduceMapArrays r;
    r.in[0] = &x, r.out = &y;
    r.group_in[0] = {&weight};
    with_compute_type(x.dtype, [&](auto t) { reduce_map(PRelu<decltype(t)>(), channels_of(shape), r); });
}

void prelu_backward(const ChannelShape& shape, const Array& dy, const Array& x, const Array& weight, const Array& dx,
                    const Array& dweight) {
    ReduceMapArrays r;
    r.in[0] = &dy, r.in[1] = &x, r.out = &dx;
    r.group_in[0] = {&weight};
    r.group_out[0] = &dweight;
    with_compute_type(x.dtype, [&](auto t) { reduce_map(PReluBackward<decltype(t)>(), channels_of(shape), r); });
}

void max_norm(const ChannelShape& shape, double limit, const Array& w) {
    ReduceMapArrays r;
    r.in[0] = &w, r.out = &w;
    with_compute_type(w.dtype, [&](auto t) { reduce_map(MaxNorm<decltype(t)>(limit), channels_of(shape), r); });
}

}  // namespace GRADFUSE_ISA
}  // namespace gradfuse
