#include "bindings/bindings.h"

namespace gradfuse {

namespace {

struct PReluContext : Context {
    Saved x, weight;
    ChannelShape shape;
};

py::object prelu_forward(const Args& args) {
    enum { x_, weight_, axis_ };
    const View x = view(args, x_), weight = view(args, weight_);
    require_device(weight, args.where(weight_), x, "x");
    require_dtype(weight, args.where(weight_), x.dtype, "x");
    ChannelShape shape;
    if (weight.ndim == 1 && weight.shape[0] == 1) {
        shape.inner = x.size;
    } else {
        const int axis = axis_of(args, axis_, x);
        if (weight.ndim != 1 || weight.shape[0] != x.shape[axis]) {
            fail<py::value_error>(args.where(weight_), " must have shape (1,) or (", x.shape[axis],
                                  ",), the channels of x, got ", shape_text(weight));
        }
        shape = channel_shape(x, axis);
    }
    const Result y(x);
    compute(x, [&](const Backend& backend) { backend.prelu_forward(shape, x, weight, y.array()); });
    return py::make_tuple(y.finish(), PReluContext{{args.tag()}, Saved(x), Saved(weight), shape});
}

py::object prelu_backward(const Args& args) {
    const View dy = view(args, 0);
    const auto& ctx = context_of<PReluContext>(args, 1);
    const View x = *ctx.x.view(args, "x"), weight = *ctx.weight.view(args, "weight");
    require_alike(dy, args.where(0), x, "x");
    const Result dx(dy), dweight(weight);
    compute(dy, [&](const Backend& backend) {
        backend.prelu_backward(ctx.shape, dy, x, weight, dx.array(), dweight.array());
    });
    return py::make_tuple(dx.finish(), dweight.finish());
}

}  // namespace

void register_prelu(py::module_& m) {
    py::class_<PReluContext>(m, "PReluContext", "What prelu_backward needs. It holds x and weight.");
    define(
        m, "prelu_forward(x, weight, *, axis=1)",
        "(y, ctx), y = x if x > 0 else weight * x.\n\nweight has shape (1,), or (C,) for the C channels on `axis`; its "
        "dtype is that of x, as is y's.\nRaises TypeError for a wrong kind or dtype, ValueError for a wrong shape or "
        "axis.\nSource: He et al. 2015; torch.nn.functional.prelu.",
        prelu_forward);
    define(m, "prelu_backward(grad_out, ctx)",
           "(dx, dweight), dx = grad_out if x > 0 else weight * grad_out, dweight = sum of grad_out * min(x, 0).\n\n"
           "dx has the shape of x, dweight that of weight.\n"
           "Raises TypeError or ValueError for a grad_out unlike the forward's result.",
           prelu_backward);
}

}  // namespace gradfuse
