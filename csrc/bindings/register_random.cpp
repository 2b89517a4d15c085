// Dropout, alpha dropout and RReLU: what draws from a random stream.
#include "bindings/bindings.h"
#include "formulas/dropout.h"

namespace gradfuse {

namespace {

enum DropoutTag { plain_tag, alpha_tag };

struct DropoutContext : Context {
    Dropout backward;
    Array form;  // shape, dtype and device of the forward's array
    Drawn drawn;
};

template <Dropout (*Forward)(double), Dropout (*Backward)(double)>
py::object dropout_forward(const Args& args) {
    const View x = view(args, 0);
    Rng rng(args, 2);
    const double p = number_in(args, 1, unit_interval);
    Dropout forward = Forward(p), backward_op = Backward(p);
    const Result y(x);
    Drawn drawn;
    if (p > 0) drawn = rng.next(x);
    forward.random = backward_op.random = drawn.random;
    compute(x, [&](const Backend& backend) { backend.dropout(forward, x, y.array()); });
    return py::make_tuple(y.finish(), DropoutContext{{args.tag()}, backward_op, x, drawn});
}

py::object dropout_backward(const Args& args) {
    const View dy = view(args, 0);
    const auto& ctx = context_of<DropoutContext>(args, 1);
    require_alike(dy, args.where(0), ctx.form, "x");
    const Result dx(dy);
    compute(dy, [&](const Backend& backend) { backend.dropout(ctx.backward, dy, dx.array()); });
    return dx.finish();
}

struct RReluContext : Context {
    Saved x;
    Drawn drawn;
    double lower, upper;
};

py::object rrelu_forward(const Args& args) {
    enum { x_, lower_, upper_, training_, rng_ };
    const View x = view(args, x_);
    double lower = number_in(args, lower_, finite), upper = number_in(args, upper_, finite);
    if (lower > upper) fail<py::value_error>(args.where(lower_), " must be at most upper, got ", lower, " > ", upper);
    Rng rng(args, rng_);
    const bool training = args.flag(training_);
    const Result y(x);
    const Drawn drawn = training ? rng.next(x) : Drawn{};
    if (!training) lower = upper = (lower + upper) / 2;
    compute(x, [&](const Backend& backend) { backend.rrelu(drawn.random, lower, upper, x, x, y.array()); });
    return py::make_tuple(y.finish(), RReluContext{{args.tag()}, Saved(x), drawn, lower, upper});
}

py::object rrelu_backward(const Args& args) {
    const View dy = view(args, 0);
    const auto& ctx = context_of<RReluContext>(args, 1);
    const View x = *ctx.x.view(args, "x");
    require_alike(dy, args.where(0), x, "x");
    const Result dx(dy);
    compute(dy,
            [&](const Backend& backend) { backend.rrelu(ctx.drawn.random, ctx.lower, ctx.upper, x, dy, dx.array()); });
    return dx.finish();
}

}  // namespace

void register_random(py::module_& m) {
    py::class_<DropoutContext>(m, "DropoutContext", "What dropout's backward needs. It holds no array.");
    py::class_<RReluContext>(m, "RReluContext", "What rrelu_backward needs. It holds x.");

    const std::string mask =
        "\n\nThe mask is a function of (seed, stream, element) alone and is recomputed by the backward, never stored. "
        "p is rounded to 1/65536.\nrng is a Generator, an integer seed (stream 0), or None for the process's own "
        "generator, seeded by the system.\nRaises ValueError for p outside [0, 1], TypeError for a wrong kind or "
        "dtype.\n";
    define(m, "dropout_forward(x, p=0.5, *, rng=None)",
           "(y, ctx), y = x / (1 - p) where kept, 0 where dropped (with probability p).\n\n"
           "y has the shape and dtype of x. A dropped infinity or NaN is 0." +
               mask + "Source: Srivastava et al. 2014; torch.nn.functional.dropout.",
           dropout_forward<plain_dropout, plain_dropout>, plain_tag);
    define(m, "dropout_backward(grad_out, ctx)",
           "dx = grad_out / (1 - p) where kept, else 0; shape and dtype as x.\n\n"
           "Raises TypeError or ValueError for a grad_out unlike the forward's result.",
           dropout_backward, plain_tag);
    define(m, "alpha_dropout_forward(x, p=0.5, *, rng=None)",
           "(y, ctx), y = a x + b where kept, a alpha' + b where dropped: mean 0 and variance 1 stay so.\n\n"
           "alpha' = -1.7580993408473766, a = ((1 - p)(1 + p alpha'^2))^(-1/2), b = -a p alpha'; p = 1 gives 0. "
           "y has the shape and dtype of x." +
               mask + "Source: Klambauer et al. 2017; torch.nn.functional.alpha_dropout.",
           dropout_forward<alpha_dropout, alpha_dropout_gradient>, alpha_tag);
    define(m, "alpha_dropout_backward(grad_out, ctx)",
           "dx = a grad_out where kept, else 0; shape and dtype as x.\n\n"
           "Raises TypeError or ValueError for a grad_out unlike the forward's result.",
           dropout_backward, alpha_tag);
    define(m, "rrelu_forward(x, lower=0.125, upper=0.3333333333333333, *, training=True, rng=None)",
           "(y, ctx), y = x if x > 0 else slope * x, the slope uniform in [lower, upper] per element in training, else "
           "their mean.\n\ny has the shape and dtype of x; lower and upper are finite, lower <= upper. rng as in "
           "dropout_forward.\nRaises TypeError for a wrong kind or dtype, ValueError for wrong bounds.\n"
           "Source: Xu et al. 2015; torch.nn.functional.rrelu.",
           rrelu_forward);
    define(m, "rrelu_backward(grad_out, ctx)",
           "dx = grad_out if x > 0 else slope * grad_out; shape and dtype as x.\n\n"
           "Raises TypeError or ValueError for a grad_out unlike the forward's result.",
           rrelu_backward);
}

}  // namespace gradfuse
