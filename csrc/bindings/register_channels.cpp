// Batch normalization and the end of a dense layer: both are a ChannelOp.
#include <cmath>

#include "bindings/bindings.h"

namespace gradfuse {

namespace {

enum ChannelTag { batch_norm_tag, bias_act_tag };

// What the backward of a ChannelOp needs: the forward's arrays, by reference, and the statistics it used.
struct ChannelContext : Context {
    ChannelOp op;
    Saved x, weight, bias, residual;
    std::shared_ptr<Doubles> mean, invstd;
    Drawn drawn;
};

// An optional array argument with one value per channel. Half-precision x may come with float32 ones.
std::optional<View> channel_vector(const Args& args, int i, const View& x, std::int64_t channels,
                                   bool written = false) {
    if (!args.given(i)) return std::nullopt;
    const View v = written ? writeable_view(args[i], args.where(i)) : view(args, i);
    require_device(v, args.where(i), x, args.name(0));
    require_length(v, args.where(i), channels);
    const bool half = x.dtype == DType::f16 || x.dtype == DType::bf16;
    if (v.dtype != x.dtype && !(half && v.dtype == DType::f32)) {
        fail<py::type_error>(args.where(i), " must be ", text_of(x.dtype), half ? " or float32" : "", " as ",
                             args.name(0), " is, got ", text_of(v.dtype));
    }
    return v;
}

std::optional<View> residual_of(const Args& args, int i, const View& x) {
    if (!args.given(i)) return std::nullopt;
    const View r = view(args, i);
    require_alike(r, args.where(i), x, "x");
    return r;
}

const Array* pointer_to(const std::optional<View>& v) { return v ? &*v : nullptr; }

void require_statistics(const Args& args, int mean, int var) {
    if (!args.given(mean) || !args.given(var)) {
        fail<py::type_error>(args.where(args.given(mean) ? var : mean), " must be an array, got None");
    }
}

py::object batch_norm(const Args& args) {
    enum { x_, running_mean_, running_var_, weight_, bias_, eps_, axis_, activation_, residual_, out_ };
    const View x = view(args, x_);
    ChannelOp op;
    op.shape = channel_shape(x, axis_of(args, axis_, x));
    const std::int64_t channels = op.shape.channels;
    require_statistics(args, running_mean_, running_var_);
    const auto running_mean = channel_vector(args, running_mean_, x, channels),
               running_var = channel_vector(args, running_var_, x, channels),
               weight = channel_vector(args, weight_, x, channels), bias = channel_vector(args, bias_, x, channels);
    const double eps = number_in(args, eps_, at_least_zero);
    op.after = activation_of(args, activation_);
    const auto residual = residual_of(args, residual_, x);
    const Doubles mean(x, channels), invstd(x, channels);
    const Output y(args, out_, x, "x");
    y.require_no_overlap_with(x, "x");
    if (residual && args.given(out_)) require_apart(y.array(), args.where(out_), *residual, "residual");
    ChannelArrays a;
    a.x = &x, a.weight = pointer_to(weight), a.bias = pointer_to(bias), a.residual = pointer_to(residual);
    a.mean = mean.data(), a.invstd = invstd.data(), a.y = &y.array();
    compute(x, [&](const Backend& backend) {
        backend.given_statistics(*running_mean, *running_var, eps, mean.data(), invstd.data());
        backend.channel_forward(op, a);
    });
    return y.finish();
}

py::object fold_batch_norm(const Args& args) {
    enum { W_, b_, running_mean_, running_var_, weight_, bias_, eps_, axis_ };
    const View W = view(args, W_);
    ChannelOp op;
    op.shape = channel_shape(W, axis_of(args, axis_, W));
    const std::int64_t channels = op.shape.channels;
    require_statistics(args, running_mean_, running_var_);
    const auto b = channel_vector(args, b_, W, channels),
               running_mean = channel_vector(args, running_mean_, W, channels),
               running_var = channel_vector(args, running_var_, W, channels),
               weight = channel_vector(args, weight_, W, channels), bias = channel_vector(args, bias_, W, channels);
    const double eps = number_in(args, eps_, at_least_zero);
    const View& owner = b ? *b : W;
    const Doubles mean(W, channels), invstd(W, channels);
    const Result weights(W), folded(owner, 1, &channels, owner.dtype);
    ChannelArrays a;
    a.weight = pointer_to(weight), a.invstd = invstd.data();
    compute(W, [&](const Backend& backend) {
        backend.given_statistics(*running_mean, *running_var, eps, mean.data(), invstd.data());
        a.x = &W, a.y = &weights.array();  // no mean: the weights are scaled as inference scales what it has centred
        backend.channel_forward(op, a);
        op.shape = {1, channels, 1};
        a.x = pointer_to(b), a.bias = pointer_to(bias), a.mean = mean.data(), a.y = &folded.array();
        backend.channel_forward(op, a);
    });
    return py::make_tuple(weights.finish(), folded.finish());
}

py::object batch_norm_forward(const Args& args) {
    enum {
        x_,
        running_mean_,
        running_var_,
        weight_,
        bias_,
        momentum_,
        eps_,
        axis_,
        activation_,
        dropout_,
        residual_,
        order_,
        unbiased_,
        frozen_,
        num_batches_,
        rng_
    };
    const View x = view(args, x_);
    const ChannelShape shape = channel_shape(x, axis_of(args, axis_, x));
    const bool frozen = args.flag(frozen_), unbiased = args.flag(unbiased_);
    const auto running_mean = channel_vector(args, running_mean_, x, shape.channels, !frozen),
               running_var = channel_vector(args, running_var_, x, shape.channels, !frozen),
               weight = channel_vector(args, weight_, x, shape.channels),
               bias = channel_vector(args, bias_, x, shape.channels);
    if (bool(running_mean) != bool(running_var)) {
        fail<py::type_error>(args.where(running_mean ? running_var_ : running_mean_),
                             " must be given with the other running statistic, or both None, got None");
    }
    if (frozen) require_statistics(args, running_mean_, running_var_);
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
    if (running_mean && !frozen) {
        require_apart(*running_mean, args.where(running_mean_), *running_var, "running_var");
        for (const int i : {running_mean_, running_var_}) {
            const View& running = i == running_mean_ ? *running_mean : *running_var;
            require_apart(running, args.where(i), x, "x");
            if (weight) require_apart(running, args.where(i), *weight, "weight");
            if (bias) require_apart(running, args.where(i), *bias, "bias");
            if (residual) require_apart(running, args.where(i), *residual, "residual");
        }
    }
    ChannelContext ctx{{args.tag()},
                       {},
                       Saved(x),
                       Saved(weight),
                       Saved(bias),
                       Saved(residual),
                       std::make_shared<Doubles>(x, shape.channels),
                       std::make_shared<Doubles>(x, shape.channels),
                       {}};
    ctx.op.shape = shape;
    ctx.op.frozen = frozen;
    (order == "bn_act" ? ctx.op.after : ctx.op.before) = activation_of(args, activation_);
    Rng rng(args, rng_);
    ctx.op.dropout = dropout_of(args, dropout_, rng, x, ctx.drawn);
    const Result y(x);
    ChannelArrays a;
    a.x = &x, a.weight = pointer_to(weight), a.bias = pointer_to(bias), a.residual = pointer_to(residual);
    a.mean = ctx.mean->data(), a.invstd = ctx.invstd->data(), a.y = &y.array();
    compute(x, [&](const Backend& backend) {
        if (frozen) {
            backend.given_statistics(*running_mean, *running_var, eps, ctx.mean->data(), ctx.invstd->data());
        } else {
            const RunningStatistics running{pointer_to(running_mean), pointer_to(running_var), momentum, unbiased};
            backend.batch_statistics(ctx.op, x, eps, running, ctx.mean->data(), ctx.invstd->data());
        }
        backend.channel_forward(ctx.op, a);
    });
    return py::make_tuple(y.finish(), std::move(ctx));
}

py::object bias_act_forward(const Args& args) {
    enum { x_, bias_, activation_, dropout_, residual_, axis_, rng_ };
    const View x = view(args, x_);
    const ChannelShape shape = channel_shape(x, axis_of(args, axis_, x));
    const auto bias = channel_vector(args, bias_, x, shape.channels), residual = residual_of(args, residual_, x);
    ChannelContext ctx{{args.tag()}, {}, Saved(x), {}, Saved(bias), Saved(residual), {}, {}, {}};
    ctx.op.shape = shape;
    ctx.op.normalize = false;
    ctx.op.after = activation_of(args, activation_);
    Rng rng(args, rng_);
    ctx.op.dropout = dropout_of(args, dropout_, rng, x, ctx.drawn);
    const Result y(x);
    ChannelArrays a;
    a.x = &x, a.bias = pointer_to(bias), a.residual = pointer_to(residual), a.y = &y.array();
    compute(x, [&](const Backend& backend) { backend.channel_forward(ctx.op, a); });
    return py::make_tuple(y.finish(), std::move(ctx));
}

// (dx, dweight, dbias) or (dx, dbias), and dresidual where there was a residual.
py::object channel_backward(const Args& args) {
    const View dy = view(args, 0);
    const auto& ctx = context_of<ChannelContext>(args, 1);
    const View x = *ctx.x.view(args, "x");
    const auto weight = ctx.weight.view(args, "weight"), bias = ctx.bias.view(args, "bias"),
               residual = ctx.residual.view(args, "residual");
    require_alike(dy, args.where(0), x, "x");
    const std::int64_t channels = ctx.op.shape.channels;
    const Result dx(dy);
    std::optional<Result> dresidual, dweight, dbias;
    if (residual) dresidual.emplace(dy);
    if (weight) dweight.emplace(*weight, 1, &channels, weight->dtype);
    if (bias) dbias.emplace(*bias, 1, &channels, bias->dtype);
    const auto array_of = [](const std::optional<Result>& r) { return r ? &r->array() : nullptr; };
    ChannelArrays a;
    a.x = &x, a.weight = pointer_to(weight), a.bias = pointer_to(bias), a.residual = pointer_to(residual);
    if (ctx.op.normalize) a.mean = ctx.mean->data(), a.invstd = ctx.invstd->data();
    a.dy = &dy, a.dx = &dx.array(), a.dresidual = array_of(dresidual);
    a.dweight = array_of(dweight), a.dbias = array_of(dbias);
    compute(dy, [&](const Backend& backend) { backend.channel_backward(ctx.op, a); });

    const auto gradient = [](const std::optional<Result>& r) { return r ? r->finish() : py::object(py::none()); };
    py::list results;
    results.append(dx.finish());
    if (ctx.op.normalize) results.append(gradient(dweight));
    results.append(gradient(dbias));
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
           "residual=None, out=None)",
           "Inference: y = act((x - running_mean) / sqrt(running_var + eps) * weight + bias + residual).\n\n" +
               vectors +
               "y and residual have the shape and dtype of x. activation is a name of gradfuse.activations(), a pair "
               "(name, "
               "{parameter: value}), or None. out, if given, receives the result; it may be x itself.\n" +
               errors +
               ".\nSource: Ioffe and Szegedy 2015; "
               "torch.nn.functional.batch_norm.",
           batch_norm);
    define(
        m,
        "batch_norm_forward(x, running_mean, running_var, weight=None, bias=None, momentum=0.1, eps=1e-5, *, axis=1, "
        "activation=None, dropout=0.0, residual=None, order='bn_act', unbiased=True, frozen=False, num_batches=None, "
        "rng=None)",
        "Training: (y, ctx), y = dropout(act(xhat * weight + bias + residual)), xhat = (x - mean) / sqrt(var + "
        "eps).\n\n"
        "mean and var (biased) are those of the batch, over all axes but `axis`. order='act_bn' applies the activation "
        "to x first: y = dropout(bn(act(x)) + residual).\n"
        "The running statistics, both arrays or both None, are updated in place: running = (1 - momentum) * running + "
        "momentum * batch, with the unbiased variance n / (n - 1) unless unbiased=False. momentum=None keeps the "
        "cumulative mean and takes num_batches, the batches seen before. frozen=True normalises by the running "
        "statistics and leaves them alone.\n" +
            vectors +
            "y and residual have the shape and dtype of x. activation as in batch_norm, dropout and rng as in "
            "dropout_forward.\nAn empty batch leaves the statistics alone. " +
            errors +
            ", and for one value per channel.\nSource: Ioffe and Szegedy 2015; torch.nn.functional.batch_norm.",
        batch_norm_forward, batch_norm_tag);
    define(
        m, "batch_norm_backward(grad_out, ctx)",
        "(dx, dweight, dbias), and dresidual where the forward was given a residual.\n\n"
        "The activation's gradient and the dropout mask are recomputed. dweight and dbias, of shape (C,) and the dtype "
        "of weight and bias, are None where those were.\n"
        "Raises TypeError or ValueError for a grad_out unlike the forward's result or a context of another function.",
        channel_backward, batch_norm_tag);
    define(
        m, "bias_act_forward(x, bias=None, activation=None, dropout=0.0, residual=None, *, axis=-1, rng=None)",
        "(y, ctx), y = dropout(act(x + bias + residual)): the end of a dense layer in one pass.\n\n"
        "bias has shape (C,), C the length of `axis`, and the dtype of x (or float32 where x is float16 or bfloat16); "
        "y and residual have the shape and dtype of x. activation as in batch_norm, dropout and rng as in "
        "dropout_forward.\n" +
            errors + ".\nSource: torch's add, activation and dropout, one after another.",
        bias_act_forward, bias_act_tag);
    define(
        m, "bias_act_backward(grad_out, ctx)",
        "(dx, dbias), and dresidual where the forward was given a residual; dbias is None where bias was.\n\n"
        "dx and dresidual have the shape and dtype of x, dbias those of bias; dz, the gradient before the sum, is all "
        "three: dx = dresidual = dz, dbias = sum(dz).\n"
        "Raises TypeError or ValueError for a grad_out unlike the forward's result or a context of another function.",
        channel_backward, bias_act_tag);
    define(m, "fold_batch_norm(W, b, running_mean, running_var, weight=None, bias=None, eps=1e-5, *, axis=-1)",
           "(W', b') of the layer before a batch normalization, with its inference folded in.\n\n"
           "W' = W * weight / sqrt(running_var + eps), b' = (b - running_mean) * weight / sqrt(running_var + eps) + "
           "bias.\n"
           "W has its C output channels on `axis`: the last of (in, out), 0 for (out, in, ...). The vectors have shape "
           "(C,) "
           "and the dtype of W (or float32 where W is float16 or bfloat16); b, weight and bias may be None. New arrays "
           "are "
           "returned, W' of the dtype of W and b' of that of b, or of W where b is None.\n" +
               errors + ".\nSource: Ioffe and Szegedy 2015; torch.nn.utils.fusion.fuse_linear_bn_weights.",
           fold_batch_norm);
}

}  // namespace gradfuse
