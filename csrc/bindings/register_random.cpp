// Dropout, alpha dropout and RReLU: the functions that draw from a random stream.
#include "bindings/bindings.h"
#include "formulas/dropout.h"

namespace gradfuse {

namespace arg {
constexpr Word<Number> p{"p", {unit_interval}}, lower{"lower", {finite}}, upper{"upper", {finite}};
constexpr Word<Flag> training{"training"};
}  // namespace arg

namespace {

struct DropoutContext : Context {
    Dropout backward;
    Array form;  // shape, dtype and device of the forward's array
    Drawn drawn;
};

template <Dropout (*Forward)(double), Dropout (*Backward)(double)>
py::object dropout_forward(const Args& args) {
    const View x = args(arg::x);
    const Rng rng = args(arg::rng);
    const double p = args(arg::p);
    Dropout forward = Forward(p), backward_op = Backward(p);
    const Result y(x);
    Drawn drawn;
    if (p > 0) drawn = rng.next(x);
    forward.random = backward_op.random = drawn.random;
    compute(x, [&](const Backend& backend) { backend.dropout(forward, x, y.array()); });
    return py::make_tuple(y.finish(), DropoutContext{args, backward_op, x, drawn});
}

py::object dropout_backward(const Args& args) {
    const View dy = args(arg::grad_out);
    const auto& ctx = context_of<DropoutContext>(args);
    require_alike(dy, args.where(arg::grad_out), ctx.form, "x");
    const Result dx(dy);
    compute(dy, [&](const Backend& backend) { backend.dropout(ctx.backward, dy, dx.array()); });
    return dx.finish();
}

struct RReluContext : Context {
    template <class F>
    void traverse(const F& f) const {
        f(x.object());
    }

    Saved x;
    Drawn drawn;
    double lower, upper;
};

py::object rrelu_forward(const Args& args) {
    const View x = args(arg::x);
    double lower = args(arg::lower), upper = args(arg::upper);
    if (lower > upper) {
        fail<py::value_error>(args.where(arg::lower), " must be at most upper, got ", lower, " > ", upper);
    }
    const Rng rng = args(arg::rng);
    const bool training = args(arg::training);
    const Result y(x);
    const Drawn drawn = training ? rng.next(x) : Drawn{};
    if (!training) lower = upper = (lower + upper) / 2;
    compute(x, [&](const Backend& backend) { backend.rrelu(drawn.random, lower, upper, x, x, y.array()); });
    return py::make_tuple(y.finish(), RReluContext{args, x, drawn, lower, upper});
}

py::object rrelu_backward(const Args& args) {
    const auto& ctx = context_of<RReluContext>(args);
    const View x = *ctx.x.view(args, "x"), dy = args(arg::grad_out, x);
    const Result dx(dy);
    compute(dy,
            [&](const Backend& backend) { backend.rrelu(ctx.drawn.random, ctx.lower, ctx.upper, x, dy, dx.array()); });
    return dx.finish();
}

}  // namespace

void register_random(py::module_& m) {
    py::class_<DropoutContext>(m, "DropoutContext", "What dropout's backward needs. It holds no array.");
    py::class_<RReluContext>(m, "RReluContext", garbage_collected<RReluContext>(),
                             "What rrelu_backward needs. It holds x.");

    const Signature forward = {arg::x, arg::p = 0.5, keyword_only, arg::rng = none},
                    backward = {arg::grad_out, arg::ctx};
    const std::string mask =
        "\nThe mask depends only on (seed, stream, element). It is never stored: the backward computes it again. p "
        "is rounded to a multiple of 1/65536.";
    define(m, "dropout_forward", forward, "tuple[Array, Any]",
           {"(y, ctx), y = x / (1 - p) where kept, 0 where dropped (with probability p).",
            "y has the shape and dtype of x. A dropped infinity or NaN becomes 0." + mask,
            "Srivastava et al. 2014; torch.nn.functional.dropout"},
           dropout_forward<plain_dropout, plain_dropout>);
    define(m, "dropout_backward", backward, "Array",
           {"dx = grad_out / (1 - p) where kept, else 0; shape and dtype as x."}, dropout_backward);
    define(m, "alpha_dropout_forward", forward, "tuple[Array, Any]",
           {"(y, ctx), y = a x + b where kept, a alpha' + b where dropped: mean 0 and variance 1 do not change.",
            "alpha' = -1.7580993408473766, a = ((1 - p)(1 + p alpha'^2))^(-1/2), b = -a p alpha'; p = 1 gives 0. y has "
            "the shape and dtype of x." +
                mask,
            "Klambauer et al. 2017; torch.nn.functional.alpha_dropout"},
           dropout_forward<alpha_dropout, alpha_dropout_gradient>);
    define(m, "alpha_dropout_backward", backward, "Array",
           {"dx = a grad_out where kept, else 0; shape and dtype as x."}, dropout_backward);
    define(
        m, "rrelu_forward",
        {arg::x, arg::lower = 1.0 / 8, arg::upper = 1.0 / 3, keyword_only, arg::training = true, arg::rng = none},
        "tuple[Array, Any]",
        {"(y, ctx), y = x if x > 0 else slope * x. In training each element has a slope drawn uniformly from [lower, "
         "upper]; otherwise the slope is (lower + upper) / 2.",
         "y has the shape and dtype of x; lower is at most upper.", "Xu et al. 2015; torch.nn.functional.rrelu"},
        rrelu_forward);
    define(m, "rrelu_backward", backward, "Array",
           {"dx = grad_out if x > 0 else slope * grad_out; shape and dtype as x."}, rrelu_backward);
}

}  // namespace gradfuse
