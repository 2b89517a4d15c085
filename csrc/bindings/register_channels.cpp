// Batch normalization and bias_act (bias, activation and dropout after a dense layer): both are a ChannelOp.
#include "bindings/normalization.h"

namespace gradfuse {

namespace arg {
enum class Order { bn_act, act_bn };

constexpr Word<AnArray> W{"W"}, moments{"moments"}, sums{"sums"};
constexpr Word<ListOfArrays> all_moments{"moments"};
constexpr Word<Optional<AnArray>> running_mean{"running_mean"}, running_var{"running_var"}, b{"b"};
constexpr Word<Optional<Number>> momentum{"momentum", {{unit_interval}}};
constexpr Word<Optional<Integer>> num_batches{"num_batches", {{0}}};
constexpr Word<Flag> unbiased{"unbiased"}, frozen{"frozen"};
constexpr Word<Choice<Order>> order{"order", {{"bn_act", "act_bn"}}};
}  // namespace arg

namespace {

struct ChannelContext : NormalizationContext {
    ChannelOp op;
    template <class F>
    void traverse(const F& f) const {
        NormalizationContext::traverse(f);
        f(residual.object());
        f(moments.object());
    }

    Saved residual;
    Saved moments;  // of the whole batch, if the phases are separate calls
};

// Running statistics: both arrays or both None. If they are needed, None is an error.
struct Running {
    Running(const Args& args, const View& x, std::int64_t channels, bool needed)
        : mean(args(arg::running_mean, x, channels)), var(args(arg::running_var, x, channels)) {
        if (mean && var) return;
        const Where where = args.where(mean ? arg::running_var : arg::running_mean);
        if (needed) fail<py::type_error>(where, " must be an array, got None");
        if (!mean && !var) return;
        fail<py::type_error>(where, " must be given with the other running statistic, or both None, got None");
    }
    const std::optional<View> mean, var;
};

py::object fold_batch_norm(const Args& args) {
    const View W = args(arg::W);
    ChannelOp op;
    op.shape = channel_shape(W, args(arg::axis, W));
    const std::int64_t channels = op.shape.channels;
    const Running running(args, W, channels, true);
    const auto b = args(arg::b, W, channels), weight = args(arg::weight, W, channels),
               bias = args(arg::bias, W, channels);
    const double eps = args(arg::eps);
    const View& owner = b ? *b : W;
    const Doubles mean(W, channels), invstd(W, channels);
    const Result weights(W), folded(owner, channels, owner.dtype);
    ChannelArrays a;
    a.weight = pointer_to(weight), a.invstd = invstd.data();
    compute(W, [&](const Backend& backend) {
        backend.given_statistics(*running.mean, *running.var, eps, mean.data(), invstd.data());
        a.x = &W, a.y = &weights.array();  // no mean: inference scales centered values, and W is scaled in the same way
        backend.channel_forward(op, a);
        op.shape = {1, channels, 1};
        a.x = pointer_to(b), a.bias = pointer_to(bias), a.mean = mean.data(), a.y = &folded.array();
        backend.channel_forward(op, a);
    });
    return py::make_tuple(weights.finish(), folded.finish());
}

// The arguments that inference and training share: arrays, activation, and statistics if there is a normalization.
struct Forward {
    explicit Forward(const Args& args)
        : args(args),
          x(args(arg::x)),
          shape(channel_shape(x, args(arg::axis, x))),
          weight(args(arg::weight, x, shape.channels)),
          bias(args(arg::bias, x, shape.channels)),
          residual(args(arg::residual, x)) {
        op.shape = shape;
        op.after = args(arg::activation);
    }

    // Calls f(backend, arrays).
    template <class F>
    void run(const View& y, const F& f) const {
        ChannelArrays a;
        a.x = &x, a.weight = pointer_to(weight), a.bias = pointer_to(bias), a.residual = pointer_to(residual);
        a.y = &y;
        if (op.normalize) a.mean = mean->data(), a.invstd = invstd->data();
        compute(x, [&](const Backend& backend) { f(backend, a); });
    }
    // (y, ctx) from f(backend, arrays). All checks must come before.
    template <class F>
    py::object train(const F& f, const Saved& moments = {}) {
        Drawn drawn;
        op.dropout = dropout_of(args, x, drawn);
        const Result y(x);
        run(y.array(), f);
        ChannelContext ctx{{args, x, weight, bias, {std::move(mean), std::move(invstd)}, drawn}, op, residual, moments};
        return py::make_tuple(y.finish(), std::move(ctx));
    }

    const Args& args;
    const View x;
    const ChannelShape shape;
    const std::optional<View> weight, bias, residual;
    ChannelOp op;
    std::optional<Doubles> mean, invstd;
};

// Batch norm. With `given` the running statistics must not be None.
struct BatchNorm : Forward {
    BatchNorm(const Args& args, bool given)
        : Forward(args), running(args, x, shape.channels, given), eps(args(arg::eps)) {
        mean.emplace(x, shape.channels);
        invstd.emplace(x, shape.channels);
    }
    void normalize(const Backend& backend, const ChannelArrays& a) const {
        backend.given_statistics(*running.mean, *running.var, eps, mean->data(), invstd->data());
        backend.channel_forward(op, a);
    }

    const Running running;
    const double eps;
};

py::object batch_norm(const Args& args) {
    const BatchNorm f(args, true);
    const Output y(args, f.x, {}, {pointer_to(f.residual)});
    f.run(y.array(), [&](const Backend& backend, const ChannelArrays& a) { f.normalize(backend, a); });
    return y.finish();
}

// The part that batch_norm_forward and batch_norm_apply share: the update of the running statistics.
struct Training : BatchNorm {
    Training(const Args& args, bool frozen)
        : BatchNorm(args, frozen),
          update{pointer_to(running.mean), pointer_to(running.var), momentum(), args(arg::unbiased)} {
        if (!running.mean || frozen) return;
        const Where mean = args.where(arg::running_mean), var = args.where(arg::running_var);
        require_writeable(*running.mean, mean);
        require_writeable(*running.var, var);
        gradfuse::require_apart(*running.mean, mean, *running.var);
        for (const View* other : {&x, pointer_to(weight), pointer_to(bias), pointer_to(residual)}) require_apart(other);
    }
    void require_apart(const View* other) const {
        if (!other || !running.mean) return;
        gradfuse::require_apart(*running.mean, args.where(arg::running_mean), *other);
        gradfuse::require_apart(*running.var, args.where(arg::running_var), *other);
    }

    const RunningStatistics update;

private:
    double momentum() const {
        const auto momentum = args(arg::momentum);
        const auto seen = args(arg::num_batches);
        if (momentum) return *momentum;
        if (seen) return 1 / double(*seen + 1);
        fail<py::type_error>(args.where(arg::num_batches),
                             " must be the number of batches seen before if momentum is None, got None");
    }
};

[[noreturn]] void fail_one_value(const Args& args, const std::string& got) {
    fail<py::value_error>(args.where(arg::x), " must have more than one value per channel in training, got ", got);
}

py::object batch_norm_forward(const Args& args) {
    const bool frozen = args(arg::frozen);
    Training f(args, frozen);
    if (f.shape.outer * f.shape.inner == 1 && !frozen && f.shape.channels > 0) {
        fail_one_value(args, "shape " + shape_text(f.x));
    }
    f.op.frozen = frozen;
    if (args(arg::order) == arg::Order::act_bn) std::swap(f.op.before, f.op.after);
    return f.train([&](const Backend& backend, const ChannelArrays& a) {
        if (frozen) {
            f.normalize(backend, a);
        } else {
            backend.batch_norm(f.op, a, f.eps, f.update, f.mean->data(), f.invstd->data());
        }
    });
}

py::object bias_act_forward(const Args& args) {
    Forward f(args);
    f.op.normalize = false;
    return f.train([&](const Backend& backend, const ChannelArrays& a) { backend.channel_forward(f.op, a); });
}

// The arrays of a backward.
struct ChannelGradients : Gradients {
    ChannelGradients(const Args& args, const ChannelContext& ctx)
        : Gradients(args, ctx), op(ctx.op), residual(ctx.residual.view(args, "residual")) {
        arrays.x = &x, arrays.weight = pointer_to(weight), arrays.bias = pointer_to(bias);
        arrays.residual = pointer_to(residual), arrays.dy = &dy;
        if (op.normalize) arrays.mean = ctx.statistics[0]->data(), arrays.invstd = ctx.statistics[1]->data();
    }

    // (dx, dweight, dbias) or (dx, dbias), and dresidual if there was a residual, from f(backend).
    template <class F>
    py::object run(const F& f) {
        const Result dx(dy);
        std::optional<Result> dresidual;
        arrays.dx = &dx.array();
        if (residual) arrays.dresidual = &dresidual.emplace(dy).array();
        enter_vectors(arrays);
        compute(dy, f);
        py::list results;
        results.append(dx.finish());
        if (op.normalize) results.append(finish(dweight));
        results.append(finish(dbias));
        if (dresidual) results.append(dresidual->finish());
        return py::tuple(results);
    }

    const ChannelOp& op;
    const std::optional<View> residual;
    ChannelArrays arrays;
};

py::object channel_backward(const Args& args) {
    ChannelGradients g(args, context_of<ChannelContext>(args));
    return g.run([&](const Backend& backend) { backend.channel_backward(g.op, g.arrays); });
}

// ---- the phases of batch normalization as separate calls

// A float64 array of shape (rows, channels).
View packed(const Args& args, const Word<AnArray>& word, const View& like, std::int64_t rows, std::int64_t channels) {
    const View v = args(word);
    const Where where = args.where(word);
    const std::int64_t shape[] = {rows, channels};
    require_device(v, where, like, like.name);
    if (v.dtype != DType::f64) fail<py::type_error>(where, " must be float64, got ", text_of(v.dtype));
    require_shape(v, where, Shape(2, shape));
    return v;
}

// A new array of that form.
Result packed(const View& like, std::int64_t rows, std::int64_t channels) {
    const std::int64_t shape[] = {rows, channels};
    return Result(like, Shape(2, shape), DType::f64);
}
double* doubles_in(const Result& r) { return static_cast<double*>(r.array().data); }

py::object batch_moments(const Args& args) {
    const View x = args(arg::x);
    const ChannelShape shape = channel_shape(x, args(arg::axis, x));
    const Result moments = packed(x, 3, shape.channels);
    compute(x, [&](const Backend& backend) { backend.batch_moments(shape, x, doubles_in(moments)); });
    return moments.finish();
}

py::object merge_moments(const Args& args) {
    const py::tuple given = args(arg::all_moments);
    const Where where = args.where(arg::all_moments);
    if (given.empty()) fail<py::value_error>(where, " must not be empty, got none");
    std::vector<View> moments;
    for (const py::handle item : given) {
        const View& v = moments.emplace_back(view(item, where));
        if (v.ndim != 2 || v.shape[0] != 3) {
            fail<py::value_error>(where, " must have shapes (3, C), got ", shape_text(v));
        }
        if (v.dtype != DType::f64) fail<py::type_error>(where, " must be float64, got ", text_of(v.dtype));
        require_alike(v, where, moments.front(), "the first");
    }
    const View& first = moments.front();
    const Result merged(first);
    compute(first, [&](const Backend& backend) {
        for (const View& m : moments) backend.merge_moments(doubles_in(merged), m, &m == &first);
    });
    return merged.finish();
}

// On a device the moments are not read: there a count of 1 gives an infinite variance.
void require_possible(const Args& args, const View& moments, bool empty) {
    if (moments.on_device()) return;
    const std::vector<double> values = doubles_of(moments);
    const std::size_t channels = values.size() / 3;
    for (std::size_t c = 0; c < channels; ++c) {
        const double count = values[c], squares = values[c + 2 * channels];
        if (count == 1) fail_one_value(args, "moments of one");
        if ((count > 1 || (count == 0 && empty)) && !(squares < 0)) continue;
        fail<py::value_error>(args.where(arg::moments),
                              " must hold counts of at least 2 and sums of squares >= 0, got a count of ", count,
                              " and a sum of ", squares);
    }
}

py::object batch_norm_apply(const Args& args) {
    Training f(args, false);
    const View moments = packed(args, arg::moments, f.x, 3, f.shape.channels);
    f.require_apart(&moments);
    require_possible(args, moments, f.x.size == 0);
    const auto run = [&](const Backend& backend, const ChannelArrays& a) {
        backend.use_moments(moments, f.eps, f.update, f.mean->data(), f.invstd->data());
        backend.channel_forward(f.op, a);
    };
    return f.train(run, moments);
}

py::object batch_norm_sums(const Args& args) {
    const auto& ctx = context_of<ChannelContext>(args, "batch_norm_apply");
    const ChannelGradients g(args, ctx);
    const Result sums = packed(g.dy, 2, g.op.shape.channels);
    compute(g.dy, [&](const Backend& backend) { backend.batch_norm_sums(g.op, g.arrays, doubles_in(sums)); });
    return sums.finish();
}

py::object batch_norm_finish(const Args& args) {
    const auto& ctx = context_of<ChannelContext>(args, "batch_norm_apply");
    ChannelGradients g(args, ctx);
    const std::int64_t channels = g.op.shape.channels;
    const View sums = packed(args, arg::sums, g.x, 2, channels), moments = *ctx.moments.view(args, "moments");
    const Result local = packed(g.dy, 2, channels);
    return g.run([&](const Backend& backend) {
        backend.batch_norm_sums(g.op, g.arrays, doubles_in(local));
        backend.batch_norm_finish(g.op, g.arrays, local.array(), sums, moments);
    });
}

}  // namespace

void register_channels(py::module_& m) {
    py::class_<ChannelContext>(m, "ChannelContext", garbage_collected<ChannelContext>(),
                               "What the backward of batch_norm_forward or bias_act_forward needs. It refers to the "
                               "arrays given to the forward and makes no copies.");
    const std::string
        source = "Ioffe and Szegedy 2015",
        half = "(or float32 if x is float16 or bfloat16). ", alike = "y and residual have the shape and dtype of x.",
        vectors =
            "weight, bias, running_mean and running_var have shape (C,), C the length of `axis`, and the dtype "
            "of x " +
            half;
    const Signature statistics = {arg::running_mean, arg::running_var, arg::weight = none, arg::bias = none},
                    options = {arg::axis = 1, arg::activation = none, arg::dropout = 0.0, arg::residual = none},
                    backward = {arg::grad_out, arg::ctx};
    define(m, "batch_norm",
           {arg::x, statistics, arg::eps = 1e-5, keyword_only, arg::axis = 1, arg::activation = none,
            arg::residual = none, arg::out = none},
           "Array",
           {"Inference: y = act((x - running_mean) / sqrt(running_var + eps) * weight + bias + residual).",
            vectors + alike, source + "; torch.nn.functional.batch_norm"},
           batch_norm);
    define(m, "batch_norm_forward",
           {arg::x, statistics, arg::momentum = 0.1, arg::eps = 1e-5, keyword_only, options, arg::order = "bn_act",
            arg::unbiased = true, arg::frozen = false, arg::num_batches = none, arg::rng = none},
           "tuple[Array, Any]",
           {"Training: (y, ctx), y = dropout(act(xhat * weight + bias + residual)), xhat = (x - mean) / sqrt(var + "
            "eps).",
            "mean and var (biased) are computed from the batch, over all axes except `axis`. order='act_bn' applies "
            "the activation to x first: y = dropout(bn(act(x)) + residual).\n"
            "The running statistics, both arrays or both None, are updated in place: running = (1 - momentum) * "
            "running + momentum * batch, where the variance is unbiased (times n / (n - 1)) unless unbiased=False. "
            "With momentum=None they are the mean over all batches; num_batches is then the number of batches before "
            "this one. frozen=True normalizes by the running statistics and does not change them.\n" +
                vectors + alike + " An empty batch does not change the statistics.",
            source + "; torch.nn.functional.batch_norm", ", and for one value per channel"},
           batch_norm_forward);
    define(m, "batch_norm_backward", backward, "tuple[Any, ...]",
           {"(dx, dweight, dbias), and dresidual if the forward had a residual.",
            "The activation's gradient and the dropout mask are computed again. dweight and dbias have shape (C,) and "
            "the dtype of weight and bias; they are None if weight or bias was None."},
           channel_backward);
    define(
        m, "batch_moments", {arg::x, keyword_only, arg::axis = 1}, "Array",
        {"The moments of a batch per channel: count n, mean = sum(x) / n and sum((x - mean)^2), float64 of shape (3, "
         "C).",
         "They are computed over all axes except `axis`, whose length is C. For an empty batch all are 0.",
         "Welford 1962; Chan, Golub and LeVeque 1979"},
        batch_moments);
    define(m, "merge_moments", arg::all_moments, "Array",
           {"The moments of several batches together, merged in the order of the list: n = n_a + n_b, mean = mean_a + "
            "(mean_b - mean_a) * n_b / n.",
            "moments is a list of results of batch_moments, float64 of shape (3, C). The result has the same form.",
            "Chan, Golub and LeVeque 1979", ", and for an empty list"},
           merge_moments);
    define(
        m, "batch_norm_apply",
        {arg::x, arg::moments, statistics, arg::momentum = 0.1, arg::eps = 1e-5, keyword_only, options,
         arg::unbiased = true, arg::num_batches = none, arg::rng = none},
        "tuple[Array, Any]",
        {"Training: (y, ctx), y = dropout(act(xhat * weight + bias + residual)), xhat = x normalized by the moments of "
         "the whole batch; x is a part of this batch.",
         "moments is float64 of shape (3, C): count, mean and sum of squared deviations per channel. The running "
         "statistics are updated from them. The other arguments are those of batch_norm_forward.",
         source,
         ", and for moments of one value (on a GPU they are not checked: the running variance becomes infinite)"},
        batch_norm_apply);
    define(m, "batch_norm_sums", backward, "Array",
           {"sums = (sum(dz), sum(dz * xhat)) per channel over this part of the batch, float64 of shape (2, C).",
            "dz is the gradient at the activation's input, xhat the normalized x. Add the results of all parts, and "
            "pass the sum to batch_norm_finish.",
            source},
           batch_norm_sums);
    define(
        m, "batch_norm_finish", {backward, arg::sums}, "tuple[Any, ...]",
        {"(dx, dweight, dbias), and dresidual if there was a residual: batch_norm_backward for this part of the batch.",
         "sums is float64 of shape (2, C), summed over the whole batch. dx uses them; dweight and dbias are those of "
         "this part.",
         source, ", or other sums"},
        batch_norm_finish);
    define(m, "bias_act_forward",
           {arg::x, arg::bias = none, arg::activation = none, arg::dropout = 0.0, arg::residual = none, keyword_only,
            arg::axis = -1, arg::rng = none},
           "tuple[Array, Any]",
           {"(y, ctx), y = dropout(act(x + bias + residual)): all that follows the matrix product of a dense layer, in "
            "one pass.",
            "bias has shape (C,), C the length of `axis`, and the dtype of x " + half + alike,
            "torch's add, activation and dropout, one after the other"},
           bias_act_forward);
    define(m, "bias_act_backward", backward, "tuple[Any, ...]",
           {"(dx, dbias), and dresidual if the forward had a residual; dbias is None if bias was None.",
            "dx and dresidual have the shape and dtype of x, dbias those of bias. With dz the gradient at the "
            "activation's input, dx = dresidual = dz and dbias = sum(dz)."},
           channel_backward);
    define(
        m, "fold_batch_norm", {arg::W, arg::b, statistics, arg::eps = 1e-5, keyword_only, arg::axis = -1},
        "tuple[Array, Array]",
        {"(W', b'): the weight and bias of a layer with the inference of the batch normalization after it folded in.",
         "W' = W * weight / sqrt(running_var + eps), b' = (b - running_mean) * weight / sqrt(running_var + eps) + "
         "bias.\n"
         "W has its C output channels on `axis`: -1 for (in, out), 0 for (out, in, ...). The vectors have shape "
         "(C,) and the dtype of W (or float32 if W is float16 or bfloat16); b, weight and bias may be None. W' and b' "
         "are new arrays. W' has the dtype of W, b' that of b, or of W if b is None.",
         source + "; torch.nn.utils.fusion.fuse_linear_bn_weights"},
        fold_batch_norm);
}

}  // namespace gradfuse
