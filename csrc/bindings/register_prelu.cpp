#include "bindings/bindings.h"

namespace gradfuse {

namespace arg {
constexpr Word<AnArray> slope{"weight"};
}  // namespace arg

namespace {

struct PReluContext : Context {
    template <class F>
    void traverse(const F& f) const {
        f(x.object());
        f(weight.object());
    }

    Saved x, weight;
    ChannelShape shape;
};

py::object prelu_forward(const Args& args) {
    const View x = args(arg::x), weight = args(arg::slope);
    require_device(weight, args.where(arg::slope), x, "x");
    require_dtype(weight, args.where(arg::slope), x.dtype, "x");
    ChannelShape shape;
    if (weight.ndim == 1 && weight.shape[0] == 1) {
        shape.inner = x.size;
    } else {
        const int axis = args(arg::axis, x);
        if (weight.ndim != 1 || weight.shape[0] != x.shape[axis]) {
            fail<py::value_error>(args.where(arg::slope), " must have shape (1,) or (", x.shape[axis],
                                  ",), the channels of x, got ", shape_text(weight));
        }
        shape = channel_shape(x, axis);
    }
    const Result y(x);
    compute(x, [&](const Backend& backend) { backend.prelu_forward(shape, x, weight, y.array()); });
    return py::make_tuple(y.finish(), PReluContext{args, x, weight, shape});
}

py::object prelu_backward(const Args& args) {
    const auto& ctx = context_of<PReluContext>(args);
    const View x = *ctx.x.view(args, "x"), weight = *ctx.weight.view(args, "weight"), dy = args(arg::grad_out, x);
    const Result dx(dy), dweight(weight);
    compute(dy, [&](const Backend& backend) {
        backend.prelu_backward(ctx.shape, dy, x, weight, dx.array(), dweight.array());
    });
    return py::make_tuple(dx.finish(), dweight.finish());
}

}  // namespace

void register_prelu(py::module_& m) {
    py::class_<PReluContext>(m, "PReluContext", garbage_collected<PReluContext>(),
                             "What prelu_backward needs. It holds x and weight.");
    define(m, "prelu_forward", {arg::x, arg::slope, keyword_only, arg::axis = 1}, "tuple[Array, Any]",
           {"(y, ctx), y = x if x > 0 else weight * x.",
            "weight has shape (1,), or (C,) for the C channels on `axis`. y has the shape of x; weight and y have its "
            "dtype.",
            "He et al. 2015; torch.nn.functional.prelu"},
           prelu_forward);
    define(m, "prelu_backward", {arg::grad_out, arg::ctx}, "tuple[Array, Array]",
           {"(dx, dweight), dx = grad_out if x > 0 else weight * grad_out, dweight = sum of grad_out * min(x, 0).",
            "dx has the shape of x, dweight that of weight."},
           prelu_backward);
}

}  // namespace gradfuse
