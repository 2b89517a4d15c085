// Softmax, the losses and maxout.
#include <cmath>

#include "bindings/bindings.h"

namespace gradfuse {

namespace {

enum SoftmaxTag { plain = 0, log = 1 };

py::object softmax(const Args& args) {
    const View x = view(args, 0);
    const ChannelShape shape = channel_shape(x, axis_of(args, 1, x));
    const Output y(args, 2, x, "x");
    y.require_no_overlap_with(x, "x");
    compute(x, [&](const Backend& backend) { backend.softmax(shape, args.tag() == log, x, y.array()); });
    return y.finish();
}

py::object softmax_backward(const Args& args) {
    const View dy = view(args, 0), y = view(args, 1);
    require_alike(y, args.where(1), dy, "grad_out");
    const ChannelShape shape = channel_shape(dy, axis_of(args, 2, dy));
    const Output dx(args, 3, dy, "grad_out");
    dx.require_no_overlap_with(dy, "grad_out");
    dx.require_no_overlap_with(y, "y");
    compute(dy, [&](const Backend& backend) { backend.softmax_backward(shape, args.tag() == log, dy, y, dx.array()); });
    return dx.finish();
}

Reduction reduction_of(const Args& args, int i) {
    const std::string text = args.text(i);
    if (text == "none") return Reduction::none;
    if (text == "mean") return Reduction::mean;
    if (text == "sum") return Reduction::sum;
    fail<py::value_error>(args.where(i), " must be 'none', 'mean' or 'sum', got '", text, "'");
}

// Losses are summed in double, in order, and given in float32, or float64 for float64.
DType loss_dtype(const View& x) { return x.dtype == DType::f64 ? DType::f64 : DType::f32; }

py::object cross_entropy(const Args& args) {
    enum { logits_, target_, label_smoothing_, reduction_ };
    const View logits = view(args, logits_);
    if (logits.ndim != 2 || logits.shape[1] == 0) {
        fail<py::value_error>(args.where(logits_), " must have shape (N, C) with C > 0, got ", shape_text(logits));
    }
    const std::int64_t rows = logits.shape[0], classes = logits.shape[1];
    const double smoothing = number_in(args, label_smoothing_, unit_interval);
    const Reduction reduction = reduction_of(args, reduction_);
    std::optional<View> target = integer_view(args[target_], args.where(target_));
    if (target) {
        require_device(*target, args.where(target_), logits, "logits");
        if (target->ndim != 1 || target->size != rows) {
            fail<py::value_error>(args.where(target_), " must be class indices of shape (", rows, ",), got shape ",
                                  shape_text(*target));
        }
        // On a device the host does not look at them: the kernel gives a row of a class that does not exist NaN.
        const auto* index = static_cast<const std::int64_t*>(target->data);
        for (std::int64_t r = 0; r < rows && !target->on_cuda(); ++r) {
            if (index[r] < 0 || index[r] >= classes) {
                fail<py::value_error>(args.where(target_), " must hold classes in [0, ", classes, "), got ", index[r]);
            }
        }
    } else {  // probabilities
        target = view(args, target_);
        require_alike(*target, args.where(target_), logits, "logits");
    }
    const bool each = reduction == Reduction::none;
    const Result dlogits(logits), loss(logits, each ? 1 : 0, &rows, loss_dtype(logits));
    compute(logits, [&](const Backend& backend) {
        backend.cross_entropy(logits, *target, smoothing, reduction, loss.array(), dlogits.array());
    });
    return py::make_tuple(loss.finish(), dlogits.finish());
}

py::object mse_loss(const Args& args) {
    enum { pred_, target_, reduction_ };
    const View pred = view(args, pred_), target = view(args, target_);
    require_alike(target, args.where(target_), pred, "pred");
    const Reduction reduction = reduction_of(args, reduction_);
    const bool each = reduction == Reduction::none;
    const Result dpred(pred), loss(pred, each ? pred.ndim : 0, pred.shape, loss_dtype(pred));
    compute(pred,
            [&](const Backend& backend) { backend.mse_loss(pred, target, reduction, loss.array(), dpred.array()); });
    return py::make_tuple(loss.finish(), dpred.finish());
}

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

void register_rows(py::module_& m) {
    const std::string same =
        "All arrays share shape and dtype (float16, bfloat16, float32 or float64). out may be an "
        "input itself.\nRaises TypeError for a wrong kind or dtype, ValueError for a wrong shape, "
        "axis or an `out` that cannot be written.\n";
    define(m, "softmax(x, *, axis=-1, out=None)",
           "y = exp(x - max) / sum(exp(x - max)) along axis.\n\n" + same +
               "A row of nothing but -inf gives NaN.\nSource: Bridle 1990; torch.softmax.",
           softmax, plain);
    define(m, "softmax_backward(grad_out, y, *, axis=-1, out=None)",
           "dx = y * (grad_out - sum(grad_out * y)) along axis, y the forward's result.\n\n" + same, softmax_backward,
           plain);
    define(m, "log_softmax(x, *, axis=-1, out=None)",
           "y = x - max - log(sum(exp(x - max))) along axis.\n\n" + same + "Source: torch.log_softmax.", softmax, log);
    define(m, "log_softmax_backward(grad_out, y, *, axis=-1, out=None)",
           "dx = grad_out - exp(y) * sum(grad_out) along axis, y the forward's result.\n\n" + same, softmax_backward,
           log);
    define(
        m, "cross_entropy(logits, target, *, label_smoothing=0.0, reduction='mean')",
        "(loss, dlogits), loss = -sum(q * log softmax(logits)) per row, q = (1 - label_smoothing) * target + "
        "label_smoothing / C.\n\nlogits has shape (N, C); target is N class indices of an integer dtype, or "
        "probabilities of the shape and dtype of logits. reduction 'mean' or 'sum' gives a 0-d loss, 'none' gives (N,) "
        "and each row's own gradient. The loss is float32, float64 for float64; dlogits has the dtype of logits. On a "
        "GPU "
        "a class that does not exist gives its row NaN.\n"
        "Raises TypeError for a wrong kind or dtype, ValueError for a wrong shape, class or value.\n"
        "Source: torch.nn.functional.cross_entropy.",
        cross_entropy);
    define(
        m, "mse_loss(pred, target, *, reduction='mean')",
        "(loss, dpred), loss = (pred - target)^2 reduced, dpred its gradient.\n\npred and target share shape and "
        "dtype, "
        "as does dpred. reduction 'mean' or 'sum' gives a 0-d loss, 'none' one per element; the loss is float32, "
        "float64 for float64.\nRaises TypeError for a wrong kind or dtype, ValueError for a wrong shape or reduction.\n"
        "Source: torch.nn.functional.mse_loss.",
        mse_loss);
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
