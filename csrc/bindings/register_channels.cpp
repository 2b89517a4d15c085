// Batch normalization and the end of a dense layer: both are a ChannelOp.
#include <cmath>

#include "bindings/bindings.h"

namespace gradfuse {

namespace {

enum ChannelTag { batch_norm_tag, bias_act_tag, phases_tag };

// What the backward of a ChannelOp needs: the forward's arrays, by reference, and the statistics it used.
struct ChannelContext : Context {
    ChannelOp op;
    Saved x, weight, bias, residual;
    std::shared_ptr<Doubles> mean, invstd;
    Drawn drawn;
    Saved moments;  // of the whole batch, where the phases are apart
};

std::optional<View> residual_of(const Args& args, int i, const View& x) {
    if (!args.given(i)) return std::nullopt;
    const View r = view(args, i);
    require_alike(r, args.where(i), x, "x");
    return r;
}

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

// What batch_norm_forward and batch_norm_apply share: their arguments, by place, checked.
struct Training {
    struct Places {
        int running_mean, running_var, weight, bias, momentum, eps, axis, activation, dropout, residual, unbiased,
            num_batches, rng;
    };

    Training(const Args& args, const Places& at, bool frozen)
        : x(view(args, 0)),
          shape(channel_shape(x, axis_of(args, at.axis, x))),
          unbiased(args.flag(at.unbiased)),
          running_mean(channel_vector(args, at.running_mean, x, shape.channels, !frozen)),
          running_var(channel_vector(args, at.running_var, x, shape.channels, !frozen)),
          weight(channel_vector(args, at.weight, x, shape.channels)),
          bias(channel_vector(args, at.bias, x, shape.channels)) {
        if (bool(running_mean) != bool(running_var)) {
            fail<py::type_error>(args.where(running_mean ? at.running_var : at.running_mean),
                                 " must be given with the other running statistic, or both None, got None");
        }
        if (frozen) require_statistics(args, at.running_mean, at.running_var);
        momentum = momentum_of(args, at);
        eps = number_in(args, at.eps, at_least_zero);
        residual = residual_of(args, at.residual, x);
        if (running_mean && !frozen) require_apart_statistics(args, at);
    }
    RunningStatistics running() const {
        return {pointer_to(running_mean), pointer_to(running_var), momentum, unbiased};
    }
    ChannelContext context(int tag) const {
        ChannelContext ctx{{tag},
                           {},
                           Saved(x),
                           Saved(weight),
                           Saved(bias),
                           Saved(residual),
                           std::make_shared<Doubles>(x, shape.channels),
                           std::make_shared<Doubles>(x, shape.channels),
                           {},
                           {}};
        ctx.op.shape = shape;
        return ctx;
    }
    ChannelArrays arrays(const ChannelContext& ctx, const Result& y) const {
        ChannelArrays a;
        a.x = &x, a.weight = pointer_to(weight), a.bias = pointer_to(bias), a.residual = pointer_to(residual);
        a.mean = ctx.mean->data(), a.invstd = ctx.invstd->data(), a.y = &y.array();
        return a;
    }

    const View x;
    const ChannelShape shape;
    const bool unbiased;
    const std::optional<View> running_mean, running_var, weight, bias;
    std::optional<View> residual;
    double momentum, eps;

private:
    static double momentum_of(const Args& args, const Places& at) {
        if (args.given(at.momentum)) return number_in(args, at.momentum, unit_interval);
        if (!args.given(at.num_batches)) {
            fail<py::type_error>(args.where(at.num_batches),
                                 " must be the number of batches seen before where momentum is None, got None");
        }
        const std::int64_t seen = args.integer(at.num_batches);
        if (seen < 0) fail<py::value_error>(args.where(at.num_batches), " must be >= 0, got ", seen);
        return 1 / double(seen + 1);
    }
    void require_apart_statistics(const Args& args, const Places& at) const {
        require_apart(*running_mean, args.where(at.running_mean), *running_var, "running_var");
        for (const int i : {at.running_mean, at.running_var}) {
            const View& own = i == at.running_mean ? *running_mean : *running_var;
            require_apart(own, args.where(i), x, "x");
            if (weight) require_apart(own, args.where(i), *weight, "weight");
            if (bias) require_apart(own, args.where(i), *bias, "bias");
            if (residual) require_apart(own, args.where(i), *residual, "residual");
        }
    }
};

[[noreturn]] void fail_one_value(const Args& args, const std::string& got) {
    fail<py::value_error>(args.where(0), " must have more than one value per channel in training, got ", got);
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
    const bool frozen = args.flag(frozen_);
    const Training t(args,
                     {running_mean_, running_var_, weight_, bias_, momentum_, eps_, axis_, activation_, dropout_,
                      residual_, unbiased_, num_batches_, rng_},
                     frozen);
    const std::string order = args.text(order_);
    if (order != "bn_act" && order != "act_bn") {
        fail<py::value_error>(args.where(order_), " must be 'bn_act' or 'act_bn', got '", order, "'");
    }
    if (t.shape.outer * t.shape.inner == 1 && !frozen && t.shape.channels > 0) {
        fail_one_value(args, "shape " + shape_text(t.x));
    }
    ChannelContext ctx = t.context(args.tag());
    ctx.op.frozen = frozen;
    (order == "bn_act" ? ctx.op.after : ctx.op.before) = activation_of(args, activation_);
    Rng rng(args, rng_);
    ctx.op.dropout = dropout_of(args, dropout_, rng, t.x, ctx.drawn);
    const Result y(t.x);
    const ChannelArrays a = t.arrays(ctx, y);
    compute(t.x, [&](const Backend& backend) {
        double *const mean = ctx.mean->data(), *const invstd = ctx.invstd->data();
        if (frozen) {
            backend.given_statistics(*t.running_mean, *t.running_var, t.eps, mean, invstd);
            backend.channel_forward(ctx.op, a);
        } else {
            backend.batch_norm(ctx.op, a, t.eps, t.running(), mean, invstd);
        }
    });
    return py::make_tuple(y.finish(), std::move(ctx));
}

// ---- batch normalization with its phases apart

// An array of float64, of some rows of channels.
View packed(const Args& args, int i, py::handle object, const Array& like, std::int64_t rows, std::int64_t channels) {
    const View v = view(object, args.where(i));
    require_device(v, args.where(i), like, args.name(0));
    if (v.dtype != DType::f64) fail<py::type_error>(args.where(i), " must be float64, got ", text_of(v.dtype));
    if (v.ndim != 2 || v.shape[0] != rows || v.shape[1] != channels) {
        fail<py::value_error>(args.where(i), " must have shape (", rows, ", ", channels, "), got ", shape_text(v));
    }
    return v;
}

py::object batch_moments(const Args& args) {
    const View x = view(args, 0);
    const ChannelShape shape = channel_shape(x, axis_of(args, 1, x));
    const std::int64_t form[] = {3, shape.channels};
    const Result moments(x, 2, form, DType::f64);
    compute(x, [&](const Backend& backend) {
        backend.batch_moments(shape, x, static_cast<double*>(moments.array().data));
    });
    return moments.finish();
}

py::object merge_moments(const Args& args) {
    if (!py::isinstance<py::list>(args[0]) && !py::isinstance<py::tuple>(args[0])) {
        fail<py::type_error>(args.where(0), " must be a list of arrays, got ", describe(args[0]));
    }
    const auto given = py::reinterpret_borrow<py::sequence>(args[0]);
    if (py::len(given) == 0) fail<py::value_error>(args.where(0), " must not be empty, got none");
    std::vector<View> moments;
    for (const py::handle item : given) {
        moments.push_back(view(item, args.where(0)));
        const View& v = moments.back();
        if (v.ndim != 2 || v.shape[0] != 3) {
            fail<py::value_error>(args.where(0), " must have shapes (3, C), got ", shape_text(v));
        }
        if (v.dtype != DType::f64) fail<py::type_error>(args.where(0), " must be float64, got ", text_of(v.dtype));
        require_alike(v, args.where(0), moments.front(), "the first");
    }
    const View& first = moments.front();
    const Result merged(first);
    compute(first, [&](const Backend& backend) {
        for (const View& m : moments) {
            backend.merge_moments(static_cast<double*>(merged.array().data), m, &m == &first);
        }
    });
    return merged.finish();
}

py::object batch_norm_apply(const Args& args) {
    enum {
        x_,
        moments_,
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
        unbiased_,
        num_batches_,
        rng_
    };
    const Training t(args,
                     {running_mean_, running_var_, weight_, bias_, momentum_, eps_, axis_, activation_, dropout_,
                      residual_, unbiased_, num_batches_, rng_},
                     false);
    const View moments = packed(args, moments_, args[moments_], t.x, 3, t.shape.channels);
    for (const int i : {running_mean_, running_var_}) {
        const auto& running = i == running_mean_ ? t.running_mean : t.running_var;
        if (running) require_apart(*running, args.where(i), moments, "moments");
    }
    if (!moments.on_device()) {  // on a device the host does not look: there one value gives an infinite variance
        const std::vector<double> values = doubles_of(moments);
        for (std::int64_t c = 0; c < t.shape.channels; ++c) {
            const double count = values[std::size_t(c)], squares = values[std::size_t(c + 2 * t.shape.channels)];
            if (count == 1) fail_one_value(args, "moments of one");
            if (!(count > 1 || (count == 0 && t.x.size == 0)) || squares < 0) {
                fail<py::value_error>(args.where(moments_),
                                      " must hold counts of at least 2 and sums of squares >= 0, got a count of ",
                                      count, " and a sum of ", squares);
            }
        }
    }
    ChannelContext ctx = t.context(args.tag());
    ctx.moments = Saved(moments);
    ctx.op.after = activation_of(args, activation_);
    Rng rng(args, rng_);
    ctx.op.dropout = dropout_of(args, dropout_, rng, t.x, ctx.drawn);
    const Result y(t.x);
    const ChannelArrays a = t.arrays(ctx, y);
    compute(t.x, [&](const Backend& backend) {
        backend.use_moments(moments, t.eps, t.running(), ctx.mean->data(), ctx.invstd->data());
        backend.channel_forward(ctx.op, a);
    });
    return py::make_tuple(y.finish(), std::move(ctx));
}

py::object bias_act_forward(const Args& args) {
    enum { x_, bias_, activation_, dropout_, residual_, axis_, rng_ };
    const View x = view(args, x_);
    const ChannelShape shape = channel_shape(x, axis_of(args, axis_, x));
    const auto bias = channel_vector(args, bias_, x, shape.channels), residual = residual_of(args, residual_, x);
    ChannelContext ctx{{args.tag()}, {}, Saved(x), {}, Saved(bias), Saved(residual), {}, {}, {}, {}};
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

// The arrays that a context keeps, and grad_out.
struct Kept {
    Kept(const Args& args, const ChannelContext& ctx)
        : dy(view(args, 0)),
          x(*ctx.x.view(args, "x")),
          weight(ctx.weight.view(args, "weight")),
          bias(ctx.bias.view(args, "bias")),
          residual(ctx.residual.view(args, "residual")) {
        require_alike(dy, args.where(0), x, "x");
        arrays.x = &x, arrays.weight = pointer_to(weight), arrays.bias = pointer_to(bias);
        arrays.residual = pointer_to(residual), arrays.dy = &dy;
        if (ctx.op.normalize) arrays.mean = ctx.mean->data(), arrays.invstd = ctx.invstd->data();
    }
    const View dy, x;
    const std::optional<View> weight, bias, residual;
    ChannelArrays arrays;
};

// (dx, dweight, dbias) or (dx, dbias), and dresidual where there was a residual, from `run`.
template <class Run>
py::object channel_gradients(const ChannelContext& ctx, Kept& kept, const Run& run) {
    const std::int64_t channels = ctx.op.shape.channels;
    const Result dx(kept.dy);
    std::optional<Result> dresidual, dweight, dbias;
    if (kept.residual) dresidual.emplace(kept.dy);
    if (kept.weight) dweight.emplace(*kept.weight, 1, &channels, kept.weight->dtype);
    if (kept.bias) dbias.emplace(*kept.bias, 1, &channels, kept.bias->dtype);
    const auto array_of = [](const std::optional<Result>& r) { return r ? &r->array() : nullptr; };
    ChannelArrays& a = kept.arrays;
    a.dx = &dx.array(), a.dresidual = array_of(dresidual), a.dweight = array_of(dweight), a.dbias = array_of(dbias);
    compute(kept.dy, run);

    const auto gradient = [](const std::optional<Result>& r) { return r ? r->finish() : py::object(py::none()); };
    py::list results;
    results.append(dx.finish());
    if (ctx.op.normalize) results.append(gradient(dweight));
    results.append(gradient(dbias));
    if (dresidual) results.append(dresidual->finish());
    return py::tuple(results);
}

py::object channel_backward(const Args& args) {
    const auto& ctx = context_of<ChannelContext>(args, 1);
    Kept kept(args, ctx);
    return channel_gradients(ctx, kept, [&](const Backend& backend) { backend.channel_backward(ctx.op, kept.arrays); });
}

// The context of batch_norm_apply, for the two functions that take it.
const ChannelContext& context_of_apply(const Args& args) {
    if (!py::isinstance<ChannelContext>(args[1]) || args[1].cast<const ChannelContext&>().tag != phases_tag) {
        fail<py::type_error>(args.where(1), " must be the context that batch_norm_apply returned, got ",
                             describe(args[1]));
    }
    return args[1].cast<const ChannelContext&>();
}

py::object batch_norm_sums(const Args& args) {
    const ChannelContext& ctx = context_of_apply(args);
    const Kept kept(args, ctx);
    const std::int64_t form[] = {2, ctx.op.shape.channels};
    const Result sums(kept.dy, 2, form, DType::f64);
    compute(kept.dy, [&](const Backend& backend) {
        backend.batch_norm_sums(ctx.op, kept.arrays, static_cast<double*>(sums.array().data));
    });
    return sums.finish();
}

py::object batch_norm_finish(const Args& args) {
    const ChannelContext& ctx = context_of_apply(args);
    Kept kept(args, ctx);
    const View sums = packed(args, 2, args[2], kept.x, 2, ctx.op.shape.channels),
               moments = *ctx.moments.view(args, "moments");
    const std::int64_t form[] = {2, ctx.op.shape.channels};
    const Result local(kept.dy, 2, form, DType::f64);
    return channel_gradients(ctx, kept, [&](const Backend& backend) {
        backend.batch_norm_sums(ctx.op, kept.arrays, static_cast<double*>(local.array().data));
        backend.batch_norm_finish(ctx.op, kept.arrays, local.array(), sums, moments);
    });
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
    const std::string moments_text =
        "moments is float64 of shape (3, C): count, mean and sum of squared deviations per channel. ";
    define(m, "batch_moments(x, *, axis=1)",
           "The moments of a batch per channel: count n, mean = sum(x) / n and sum((x - mean)^2), float64 of shape (3, "
           "C).\n\n"
           "They are taken over all axes but `axis`; C is its length. An empty batch has 0 in all.\n"
           "Raises TypeError for a wrong kind or dtype, ValueError for an axis that does not exist.\n"
           "Source: Welford 1962; Chan, Golub and LeVeque 1979.",
           batch_moments);
    define(m, "merge_moments(moments)",
           "The moments of several batches together, joined in the order of the list: n = n_a + n_b, mean = mean_a + "
           "(mean_b - "
           "mean_a) * n_b / n.\n\n"
           "moments is a list of what batch_moments returns, float64 of shape (3, C); so is the result.\n"
           "Raises TypeError for anything else, ValueError for other shapes or an empty list.\n"
           "Source: Chan, Golub and LeVeque 1979.",
           merge_moments);
    define(
        m,
        "batch_norm_apply(x, moments, running_mean, running_var, weight=None, bias=None, momentum=0.1, eps=1e-5, *, "
        "axis=1, activation=None, dropout=0.0, residual=None, unbiased=True, num_batches=None, rng=None)",
        "Training: (y, ctx), y = dropout(act(xhat * weight + bias + residual)), xhat by the moments of a whole batch "
        "of which "
        "x is a part.\n\n" +
            moments_text +
            "The running statistics are updated from them. The other arguments are batch_norm_forward's.\n" + errors +
            ", and for moments of one value (on a GPU they are not looked at: the running variance becomes infinite).\n"
            "Source: Ioffe and Szegedy 2015.",
        batch_norm_apply, phases_tag);
    define(
        m, "batch_norm_sums(grad_out, ctx)",
        "sums = (sum(dz), sum(dz * xhat)) per channel over this part of the batch, float64 of shape (2, C).\n\n"
        "dz is the gradient before the activation, xhat the normalized x. What all parts have is added up for "
        "batch_norm_finish.\n"
        "Raises TypeError or ValueError for a grad_out unlike the forward's result or a context of another function.\n"
        "Source: Ioffe and Szegedy 2015.",
        batch_norm_sums, phases_tag);
    define(
        m, "batch_norm_finish(grad_out, ctx, sums)",
        "(dx, dweight, dbias), and dresidual where there was a residual: batch_norm_backward of this part.\n\n"
        "sums, of shape (2, C) and float64, are those of the whole batch, for dx; dweight and dbias are this part's.\n"
        "Raises TypeError or ValueError for a grad_out unlike the forward's result, other sums or a context of another "
        "function.\nSource: Ioffe and Szegedy 2015.",
        batch_norm_finish, phases_tag);
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
