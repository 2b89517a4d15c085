#include "bindings/bindings.h"

namespace gradfuse {

namespace {

struct MaxoutContext : Context {
    Saved x;
    ChannelShape shape;
    int pieces;
    Array form;  // shape of the forward's result
};

py::object maxout_forward(const Args& args) {
    const View x = view(args, 0);
    const std::int64_t pieces = args.integer(1);
    const int axis = axis_of(args, 2, x);
    if (pieces < 1 || pieces > 1 << 30 || x.shape[axis] % pieces != 0) {
        fail<py::value_error>(args.where(1), " must be a positive divisor of the ", x.shape[axis],
                              " channels of x, got ", pieces);
    }
    const ChannelShape shape = channel_shape(x, axis);
    Array form = x;
    form.shape[axis] /= pieces;
    const Result y(x, x.ndim, form.shape, x.dtype);
    compute(x, [&](const Backend& backend) { backend.maxout_forward(shape, int(pieces), x, y.array()); });
    return py::make_tuple(y.finish(), MaxoutContext{{args.tag()}, Saved(x), shape, int(pieces), form});
}

py::object maxout_backward(const Args& args) {
    const View dy = view(args, 0);
    const auto& ctx = context_of<MaxoutContext>(args, 1);
    const View x = *ctx.x.view(args, "x");
    require_alike(dy, args.where(0), ctx.form, "the forward's result");
    const Result dx(x);
    compute(x, [&](const Backend& backend) { backend.maxout_backward(ctx.shape, ctx.pieces, dy, x, dx.array()); });
    return dx.finish();
}

}  // namespace

void register_maxout(py::module_& m) {
    py::class_<MaxoutContext>(m, "MaxoutContext", "What maxout_backward needs. It holds x.");
    define(
        m, "maxout_forward(x, num_pieces, *, axis=1)",
        "(y, ctx), y = the maximum over num_pieces groups of the channels on axis.\n\nThe C channels are num_pieces "
        "groups of U = C / num_pieces, one after another: y[u] = max over k of x[k * U + u], and y has U channels. NaN "
        "wins; of equal values the first has the gradient.\nRaises TypeError for a wrong kind or dtype, ValueError for "
        "an axis that does not exist or num_pieces that does not divide C.\nSource: Goodfellow et al. 2013.",
        maxout_forward);
    define(m, "maxout_backward(grad_out, ctx)",
           "dx: grad_out where x was the (first) maximum of its unit, 0 elsewhere; shape and dtype as x.\n\n"
           "Raises TypeError or ValueError for a grad_out unlike the forward's result.",
           maxout_backward);
}

}  // namespace gradfuse
