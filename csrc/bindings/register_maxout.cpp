#include "bindings/bindings.h"

namespace gradfuse {

namespace arg {
constexpr Word<Divisor> num_pieces{"num_pieces"};
}  // namespace arg

namespace {

struct MaxoutContext : Context {
    template <class F>
    void traverse(const F& f) const {
        f(x.object());
    }

    Saved x;
    ChannelShape shape;
    int pieces;
    Array form;  // shape of the forward's result
};

py::object maxout_forward(const Args& args) {
    const View x = args(arg::x);
    const int axis = args(arg::axis, x), pieces = args(arg::num_pieces, x.shape[axis]);
    const ChannelShape shape = channel_shape(x, axis);
    Array form = x;
    form.shape[axis] /= pieces;
    const Result y(x, form, x.dtype);
    compute(x, [&](const Backend& backend) { backend.maxout_forward(shape, pieces, x, y.array()); });
    return py::make_tuple(y.finish(), MaxoutContext{args, x, shape, pieces, form});
}

py::object maxout_backward(const Args& args) {
    const View dy = args(arg::grad_out);
    const auto& ctx = context_of<MaxoutContext>(args);
    const View x = *ctx.x.view(args, "x");
    require_alike(dy, args.where(arg::grad_out), ctx.form, "the forward's result");
    const Result dx(x);
    compute(x, [&](const Backend& backend) { backend.maxout_backward(ctx.shape, ctx.pieces, dy, x, dx.array()); });
    return dx.finish();
}

}  // namespace

void register_maxout(py::module_& m) {
    py::class_<MaxoutContext>(m, "MaxoutContext", garbage_collected<MaxoutContext>(),
                              "What maxout_backward needs. It holds x.");
    define(
        m, "maxout_forward", {arg::x, arg::num_pieces, keyword_only, arg::axis = 1}, "tuple[Array, Any]",
        {"(y, ctx), y = the maximum over num_pieces groups of the channels on axis.",
         "The C channels are num_pieces groups of U = C / num_pieces channels, one after the other: y[u] = max over k "
         "of x[k * U + u], and y has U channels. A NaN counts as the maximum; of equal values the first gets the "
         "gradient.",
         "Goodfellow et al. 2013"},
        maxout_forward);
    define(m, "maxout_backward", {arg::grad_out, arg::ctx}, "Array",
           {"dx: grad_out where x was the (first) maximum of its unit, 0 elsewhere; shape and dtype as x."},
           maxout_backward);
}

}  // namespace gradfuse
