// Batch normalization and the end of a dense layer: both are a ChannelOp.
#include <cmath>

#include <pybind11/numpy.h>

#include "bindings/bindings.h"

namespace smelt {

namespace {

// What the backward of a ChannelOp needs: the forward's arrays, by reference, and the statistics it used.
struct ChannelContext {
    std::string function;  // whose context it is
    ChannelOp op;
    py::object x, weight, bias, residual;  // null where absent
    std::vector<double> mean, invstd;
};

// The arrays of one call that live on one value per channel. Half-precision x may come with float32 ones.
class ChannelVectorArg {
public:
    ChannelVectorArg(const Args& args, int i, const View& x, std::int64_t channels, bool written = false) {
        if (args.given(i)) take(args[i], args.where(i), x, channels, written);
    }
    ChannelVectorArg(const py::object& object, const std::string& where, const View& x, std::int64_t channels) {
        if (object) take(object, where, x, channels, false);
    }

    explicit operator bool() const { return view_.has_value(); }
    const View* get() const { return view_ ? &*view_ : nullptr; }
    py::object object() const { return view_ ? py::reinterpret_borrow<py::object>(view_->object) : py::object(); }

private:
    void take(py::handle object, const std::string& where, const View& x, std::int64_t channels, bool written) {
        view_ = written ? writeable_view(object, where) : view(object, where);
        require_length(*view_, where, channels);
        const bool half = x.dtype == DType::f16 || x.dtype == DType::bf16;
        if (view_->dtype != x.dtype && !(half && view_->dtype == DType::f32)) {
            fail<py::type_error>(where, " must be ", text_of(x.dtype), half ? " or float32" : "", " as x is, got ",
                                 text_of(view_->dtype));
        }
    }

    std::optional<View> view_;
};

std::optional<View> residual_of(const Args& args, int i, const View& x) {
    if (!args.given(i)) return std::nullopt;
    View r = view(args, i);
    require_shape(r, args.where(i), x, "x");
    require_dtype(r, args.where(i), x.dtype, "x");
    return r;
}

py::object object_of(const std::optional<View>& v) {
    return v ? py::reinterpret_borrow<py::object>(v->object) : py::object();
}

void load_doubles(const View& v, double* to) {
    const py::object doubles = py::module_::import("smelt._interop").attr("as_numpy")(v.object).attr("astype")("float64");
    const View d = view(doubles, "statistics");
    std::copy(static_cast<double*>(d.data), static_cast<double*>(d.data) + d.size, to);
}

void store_doubles(const std::vector<double>& values, const View& v) {
    const py::array_t<double> doubles(py::ssize_t(values.size()), values.data());
    py::module_::import("numpy").attr("copyto")(py::module_::import("smelt._interop").attr("as_numpy")(v.object), doubles,
                                                py::arg("casting") = "same_kind");
}

// Statistics given by the caller: those of inference, or frozen ones.
void use_running(ChannelContext& ctx, const View& mean, const View& var, double eps) {
    load_doubles(mean, ctx.mean.data());
    load_doubles(var, ctx.invstd.data());
    for (double& v : ctx.invstd) v = 1 / std::sqrt(v + eps);
}

py::object batch_norm(const Args& args) {
    enum { x_, running_mean_, running_var_, weight_, bias_, eps_, axis_, activation_, residual_ };
    const View x = view(args, x_);
    const ChannelShape shape = channel_shape(x, axis_of(args, axis_, x));
    const ChannelVectorArg mean(args, running_mean_, x, shape.channels), var(args, running_var_, x, shape.channels),
        weight(args, weight_, x, shape.channels), bias(args, bias_, x, shape.channels);
    if (!mean || !var) {
        fail<py::type_error>(args.where(mean ? running_var_ : running_mean_), " must be an array, got None");
    }
    const double eps = number_in(args, eps_, at_least_zero);
    ChannelContext ctx;
    ctx.op.shape = shape;
    ctx.op.after = activation_of(args, activation_);
    const auto residual = residual_of(args, residual_, x);
    ctx.mean.resize(std::size_t(shape.channels));
    ctx.invstd.resize(std::size_t(shape.channels));
    use_running(ctx, *mean.get(), *var.get(), eps);
    const Result y(x);
    ChannelArrays a;
    a.x = &x, a.weight = weight.get(), a.bias = bias.get(), a.residual = residual ? &*residual : nullptr;
    a.mean = ctx.mean.data(), a.invstd = ctx.invstd.data(), a.y = &y.array();
    compute(x.size, [&] { backend().channel_forward(ctx.op, a); });
    return y.finish();
}

py::object batch_norm_forward(const Args& args) {
    enum {
        x_, running_mean_, running_var_, weight_, bias_, momentum_, eps_, axis_, activation_, dropout_, residual_, order_,
        unbiased_, frozen_, num_batches_, rng_
    };
    const View x = view(args, x_);
    const ChannelShape shape = channel_shape(x, axis_of(args, axis_, x));
    const bool frozen = args.flag(frozen_), unbiased = args.flag(unbiased_);
    const ChannelVectorArg running_mean(args, running_mean_, x, shape.channels, !frozen),
        running_var(args, running_var_, x, shape.channels, !frozen), weight(args, weight_, x, shape.channels),
        bias(args, bias_, x, shape.channels);
    if (bool(running_mean) != bool(running_var)) {
        fail<py::type_error>(args.where(running_mean ? running_var_ : running_mean_),
                             " must be given with the other running statistic, or both None, got None");
    }
    if (frozen && !running_mean) fail<py::type_error>(args.where(running_mean_), " must be an array where frozen, got None");
    double momentum = 0;
    if (args.given(momentum_)) {
        momentum = number_in(args, momentum_, unit_interval);
    } else {
        if (!args.given(num_batches_)) {
            fail<py::type_error>(args.where(num_batches_),
                                 " must be the number of batches seen before where momentum is None, got None");
        }
        const std::int64_t seen = args.integer(num_batches_);
        if (seen < 0) fail<py::value_error>(args.where(num_batches_), " must be >= 0, got ", seen);
        momentum = 1 / double(seen + 1);
    }
    const double eps = number_in(args, eps_, at_least_zero);
    const std::string order = args.text(order_);
    if (order != "bn_act" && order != "act_bn") {
        fail<py::value_error>(args.where(order_), " must be 'bn_act' or 'act_bn', got '", order, "'");
    }
    const auto residual = residual_of(args, residual_, x);
    const std::int64_t n = shape.outer * shape.inner;
    if (n == 1 && !frozen && shape.channels > 0) {
        fail<py::value_error>(args.where(x_), " must have more than one value per channel in training, got shape ",
                              shape_text(x));
    }
    ChannelContext ctx{args.function(), {}, py::reinterpret_borrow<py::object>(x.object), weight.object(), bias.object(),
                       object_of(residual), {}, {}};
    ctx.op.shape = shape;
    ctx.op.frozen = frozen;
    (order == "bn_act" ? ctx.op.after : ctx.op.before) = activation_of(args, activation_);
    Rng rng(args, rng_);
    ctx.op.dropout = dropout_of(args, dropout_, rng);
    ctx.mean.resize(std::size_t(shape.channels));
    ctx.invstd.resize(std::size_t(shape.channels));
    const Result y(x);
    ChannelArrays a;
    a.x = &x, a.weight = weight.get(), a.bias = bias.get(), a.residual = residual ? &*residual : nullptr;
    a.mean = ctx.mean.data(), a.invstd = ctx.invstd.data(), a.y = &y.array();

    if (frozen) use_running(ctx, *running_mean.get(), *running_var.get(), eps);
    std::vector<double> variance(ctx.mean.size());
    compute(x.size, [&] {
        if (!frozen && n > 0) {
            backend().channel_statistics(ctx.op, x, ctx.mean.data(), variance.data());
            for (std::size_t c = 0; c < variance.size(); ++c) {
                variance[c] /= double(n);
                ctx.invstd[c] = 1 / std::sqrt(variance[c] + eps);
            }
        }
        backend().channel_forward(ctx.op, a);
    });
    if (!frozen && running_mean && n > 0) {
        std::vector<double> mean(ctx.mean.size()), var(ctx.mean.size());
        load_doubles(*running_mean.get(), mean.data());
        load_doubles(*running_var.get(), var.data());
        const double correction = unbiased ? double(n) / double(n - 1) : 1;
        for (std::size_t c = 0; c < mean.size(); ++c) {
            mean[c] += momentum * (ctx.mean[c] - mean[c]);
            var[c] += momentum * (variance[c] * correction - var[c]);
        }
        store_doubles(mean, *running_mean.get());
        store_doubles(var, *running_var.get());
    }
    return py::make_tuple(y.finish(), std::move(ctx));
}

py::object bias_act_forward(const Args& args) {
    enum { x_, bias_, activation_, dropout_, residual_, axis_, rng_ };
    const View x = view(args, x_);
    const ChannelShape shape = channel_shape(x, axis_of(args, axis_, x));
    const ChannelVectorArg bias(args, bias_, x, shape.channels);
    const auto residual = residual_of(args, residual_, x);
    ChannelContext ctx{args.function(), {}, py::reinterpret_borrow<py::object>(x.object), {}, bias.object(),
                       object_of(residual), {}, {}};
    ctx.op.shape = shape;
    ctx.op.normalize = false;
    ctx.op.after = activation_of(args, activation_);
    Rng rng(args, rng_);
    ctx.op.dropout = dropout_of(args, dropout_, rng);
    const Result y(x);
    ChannelArrays a;
    a.x = &x, a.bias = bias.get(), a.residual = residual ? &*residual : nullptr, a.y = &y.array();
    compute(x.size, [&] { backend().channel_forward(ctx.op, a); });
    return py::make_tuple(y.finish(), std::move(ctx));
}

// (dx, dweight, dbias) or (dx, dbias), and dresidual where there was a residual.
py::object channel_backward(const Args& args) {
    const View dy = view(args, 0);
    const std::string function = args.function(), forward = function.substr(0, function.find("_backward")) + "_forward";
    if (!py::isinstance<ChannelContext>(args[1]) || args[1].cast<ChannelContext&>().function != forward) {
        fail<py::type_error>(args.where(1), " must be the context that ", forward, " returned, got ", describe(args[1]));
    }
    auto& ctx = args[1].cast<ChannelContext&>();
    const View x = view(ctx.x, function + ": ctx.x");
    if (x.size != ctx.op.shape.size()) {
        fail<py::value_error>(function, ": x must keep its shape between forward and backward, got ", shape_text(x));
    }
    require_shape(dy, args.where(0), x, "x");
    require_dtype(dy, args.where(0), x.dtype, "x");
    const std::int64_t channels = ctx.op.shape.channels;
    const ChannelVectorArg weight(ctx.weight, function + ": ctx.weight", x, channels),
        bias(ctx.bias, function + ": ctx.bias", x, channels);
    std::optional<View> residual;
    if (ctx.residual) residual = view(ctx.residual, function + ": ctx.residual");
    const Result dx(dy);
    std::optional<Result> dresidual;
    if (residual) dresidual.emplace(dy);
    std::vector<double> dweight(weight ? std::size_t(channels) : 0), dbias(bias ? std::size_t(channels) : 0);
    ChannelArrays a;
    a.x = &x, a.weight = weight.get(), a.bias = bias.get(), a.residual = residual ? &*residual : nullptr;
    a.mean = ctx.mean.data(), a.invstd = ctx.invstd.data(), a.dy = &dy, a.dx = &dx.array();
    a.dresidual = dresidual ? &dresidual->array() : nullptr;
    a.dweight = weight ? dweight.data() : nullptr, a.dbias = bias ? dbias.data() : nullptr;
    compute(dy.size, [&] { backend().channel_backward(ctx.op, a); });

    const auto gradient = [&](const ChannelVectorArg& of, const std::vector<double>& values) -> py::object {
        if (!of) return py::none();
        return vector_result(*of.get(), values, 1, &channels, of.get()->dtype);
    };
    py::list results;
    results.append(dx.finish());
    if (ctx.op.normalize) results.append(gradient(weight, dweight));
    results.append(gradient(bias, dbias));
    if (dresidual) results.append(dresidual->finish());
    return py::tuple(results);
}

}  // namespace

void register_channels(py::module_& m) {
    py::class_<ChannelContext>(m, "ChannelContext",
                               "What the backward of batch_norm_forward or bias_act_forward needs. It holds the arrays "
                               "the forward was given, no copies.");
    const std::string vectors =
        "weight, bias, running_mean and running_var have shape (C,), C the length of `axis`, and the dtype of x (or "
        "float32 where x is float16 or bfloat16). ";
    const std::string errors =
        "Raises TypeError for a wrong kind or dtype, ValueError for a wrong shape, axis or value";
    define(m,
           "batch_norm(x, running_mean, running_var, weight=None, bias=None, eps=1e-5, *, axis=1, activation=None, "
           "residual=None)",
           "Inference: y = act((x - running_mean) / sqrt(running_var + eps) * weight + bias + residual).\n\n" + vectors +
               "y and residual have the shape and dtype of x. activation is a name of smelt.activations(), a pair (name, "
               "{parameter: value}), or None.\n" + errors + ".\nSource: Ioffe and Szegedy 2015; "
               "torch.nn.functional.batch_norm.",
           batch_norm);
    define(m,
           "batch_norm_forward(x, running_mean, running_var, weight=None, bias=None, momentum=0.1, eps=1e-5, *, axis=1, "
           "activation=None, dropout=0.0, residual=None, order='bn_act', unbiased=True, frozen=False, num_batches=None, "
           "rng=None)",
           "Training: (y, ctx), y = dropout(act(xhat * weight + bias + residual)), xhat = (x - mean) / sqrt(var + eps).\n\n"
           "mean and var (biased) are those of the batch, over all axes but `axis`. order='act_bn' applies the activation "
           "to x first: y = dropout(bn(act(x)) + residual).\n"
           "The running statistics, both arrays or both None, are updated in place: running = (1 - momentum) * running + "
           "momentum * batch, with the unbiased variance n / (n - 1) unless unbiased=False. momentum=None keeps the "
           "cumulative mean and takes num_batches, the batches seen before. frozen=True normalises by the running "
           "statistics and leaves them alone.\n" + vectors +
               "y and residual have the shape and dtype of x. activation as in batch_norm, dropout and rng as in "
               "dropout_forward.\nAn empty batch leaves the statistics alone. " + errors +
               ", and for one value per channel.\nSource: Ioffe and Szegedy 2015; torch.nn.functional.batch_norm.",
           batch_norm_forward);
    define(m, "batch_norm_backward(grad_out, ctx)",
           "(dx, dweight, dbias), and dresidual where the forward was given a residual.\n\n"
           "The activation's gradient and the dropout mask are recomputed. dweight and dbias, of shape (C,) and the dtype "
           "of weight and bias, are None where those were.\n"
           "Raises TypeError or ValueError for a grad_out unlike the forward's result or a context of another function.",
           channel_backward);
    define(m,
           "bias_act_forward(x, bias=None, activation=None, dropout=0.0, residual=None, *, axis=-1, rng=None)",
           "(y, ctx), y = dropout(act(x + bias + residual)): the end of a dense layer in one pass.\n\n"
           "bias has shape (C,), C the length of `axis`, and the dtype of x (or float32 where x is float16 or bfloat16); "
           "y and residual have the shape and dtype of x. activation as in batch_norm, dropout and rng as in "
           "dropout_forward.\n" + errors + ".",
           bias_act_forward);
    define(m, "bias_act_backward(grad_out, ctx)",
           "(dx, dbias), and dresidual where the forward was given a residual; dbias is None where bias was.\n\n"
           "Raises TypeError or ValueError for a grad_out unlike the forward's result or a context of another function.",
           channel_backward);
}

}  // namespace smelt
