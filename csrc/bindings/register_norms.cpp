// Every normalization of the list: which elements make a group, the arrays, and what the backward needs.
#include <algorithm>

#include "bindings/formula.h"
#include "formulas/norms/list.h"

namespace gradfuse {

namespace {

const NormInfo& norm_info(int row) { return info_of_list(row, Norms{}); }

template <template <class> class... All>
int statistics_of(int row, List<All...>) {
    static constexpr int counts[] = {All<float>::Forward::group_outputs...};
    return counts[row];
}

bool has_add(const NormInfo& info) { return info.groups == Groups::rows; }

// The places of a norm's arguments: (x, [num_groups], weight, [bias], *, axis, parameters..., [add], activation, and
// the rest).
struct Places {
    explicit Places(const NormInfo& info)
        : num_groups(info.groups == Groups::channel_groups ? 1 : -1),
          weight(num_groups > 0 ? 2 : 1),
          bias(info.has_bias ? weight + 1 : -1),
          axis(weight + 1 + info.has_bias),
          first_parameter(axis + 1) {
        int at = first_parameter;
        for (const Hyper& h : info.parameters) at += h.name != nullptr;
        add = has_add(info) ? at++ : -1;
        activation = at++;
        rest = at;  // out; or dropout and rng
    }
    int num_groups, weight, bias, axis, first_parameter, add, activation, rest;
};

// How x is cut into groups. Where their elements do not follow each other the axes are put in another order first.
struct Arrangement {
    Grouping grouping;
    bool affine_per_run = false;
    std::int64_t periods = 1;
    int affine_ndim = 0;
    std::int64_t affine_shape[Array::max_dims];
    bool permuted = false;
    int order[Array::max_dims];

    Array operator()(const Array& a) const {
        if (!permuted) return a;
        Array p = a;
        for (int d = 0; d < a.ndim; ++d) {
            p.shape[d] = a.shape[order[d]];
            p.strides[d] = a.strides[order[d]];
        }
        p.dense = is_dense(p);
        return p;
    }
    // What the elements, in this order, are in C order of x.
    ElementOrder numbers(const Array& x) const {
        ElementOrder o;
        if (!permuted) return o;
        std::int64_t step[Array::max_dims], size = 1;
        for (int d = x.ndim - 1; d >= 0; size *= x.shape[d--]) step[d] = size;
        o.ndim = x.ndim;
        for (int d = 0; d < x.ndim; ++d) {
            o.shape[d] = x.shape[order[d]];
            o.strides[d] = step[order[d]];
        }
        return o;
    }
};

// The axes of an argument that is an integer or a tuple of them, in ascending order.
std::vector<int> axes_of(const Args& args, int i, const View& x) {
    if (!py::isinstance<py::tuple>(args[i]) && !py::isinstance<py::list>(args[i])) return {axis_of(args, i, x)};
    std::vector<int> axes;
    for (const py::handle item : args[i]) {
        axes.push_back(require_axis(integer_of(item, args.where(i)), args.where(i), x));
    }
    std::sort(axes.begin(), axes.end());
    if (axes.empty() || std::adjacent_find(axes.begin(), axes.end()) != axes.end()) {
        fail<py::value_error>(args.where(i), " must name at least one axis, and none twice, got ",
                              std::string(py::repr(args[i])));
    }
    return axes;
}

Arrangement rows_along(const View& x, const std::vector<int>& axes) {
    Arrangement a;
    ChannelShape s;
    const int first = axes.front(), last = axes.back();
    a.permuted = last - first + 1 != int(axes.size());
    for (int d = 0, at = 0; d < x.ndim; ++d) {
        const bool reduced = std::find(axes.begin(), axes.end(), d) != axes.end();
        if (reduced) a.affine_shape[a.affine_ndim++] = x.shape[d];
        (reduced ? s.channels : a.permuted || d < first ? s.outer : s.inner) *= x.shape[d];
        if (!reduced) a.order[at++] = d;
    }
    std::copy(axes.begin(), axes.end(), a.order + x.ndim - int(axes.size()));
    a.grouping = rows_of(s, a.permuted || last + 1 == x.ndim);
    return a;
}

// Groups of neighboring channels of each sample.
Arrangement channel_groups(const Args& args, const View& x, int axis_place, int groups_place) {
    const int axis = axis_of(args, axis_place, x);
    if (axis == 0) fail<py::value_error>(args.where(axis_place), " must not be 0, the axis of the samples, got 0");
    const std::int64_t channels = x.shape[axis], samples = x.shape[0];
    std::int64_t groups = channels;
    if (groups_place > 0) {
        groups = args.integer(groups_place);
        if (groups < 1 || channels % groups != 0) {
            fail<py::value_error>(args.where(groups_place), " must be a positive divisor of the ", channels,
                                  " channels of x, got ", groups);
        }
    }
    Arrangement a;
    a.permuted = axis != 1;
    a.order[0] = 0;
    a.order[1] = axis;
    std::int64_t inner = 1;
    for (int d = 1, at = 2; d < x.ndim; ++d) {
        if (d == axis) continue;
        a.order[at++] = d;
        inner *= x.shape[d];
    }
    const std::int64_t each = groups ? channels / groups : 0;
    const bool grouped = groups_place > 0;
    if (grouped ? x.size == groups && groups > 0 : inner == 1) {
        fail<py::value_error>(args.where(0), " must have more than one value per ",
                              grouped ? "group" : "sample and channel", ", got shape ", shape_text(x));
    }
    a.affine_per_run = inner != 1;
    a.grouping = inner == 1 ? Grouping{1, samples * groups, 1, each, 0, each, each}
                            : Grouping{1, samples * groups, each, inner, 0, each * inner, inner};
    a.periods = std::max<std::int64_t>(groups, 1);
    a.affine_ndim = 1;
    a.affine_shape[0] = channels;
    return a;
}

Arrangement arrangement_of(const NormInfo& info, const Places& at, const Args& args, const View& x) {
    if (info.groups == Groups::rows) return rows_along(x, axes_of(args, at.axis, x));
    return channel_groups(args, x, at.axis, at.num_groups);
}

std::optional<View> affine_of(const Args& args, int i, const View& x, const Arrangement& a) {
    if (i < 0 || !args.given(i)) return std::nullopt;
    const View v = view(args, i);
    require_device(v, args.where(i), x, "x");
    bool same = v.ndim == a.affine_ndim;
    for (int d = 0; same && d < v.ndim; ++d) same = v.shape[d] == a.affine_shape[d];
    if (!same) {
        Array wanted;
        wanted.ndim = a.affine_ndim;
        std::copy(a.affine_shape, a.affine_shape + a.affine_ndim, wanted.shape);
        fail<py::value_error>(args.where(i), " must have shape ", shape_text(wanted), ", got ", shape_text(v));
    }
    require_vector_dtype(args, i, v, x);
    return v;
}

void read_parameters(const NormInfo& info, const Args& args, int first, DType dtype, double* to) {
    for (int k = 0; k < NormInfo::max_parameters && info.parameters[k].name; ++k) {
        const Hyper& h = info.parameters[k];
        if (h.kind == Kind::flag) {
            to[k] = args.flag(first + k);
        } else if (h.kind == Kind::optional && !args.given(first + k)) {
            to[k] = h.value == machine_epsilon ? (computes_in_double(dtype) ? 0x1p-52 : 0x1p-23) : h.value;
        } else {
            to[k] = number_in(args, first + k, h.interval);
        }
    }
}

struct NormContext : Context {
    NormOperation op;
    Arrangement arrangement;
    bool added;
    Saved x, weight, bias;  // x: what was normalized
    std::vector<std::shared_ptr<Doubles>> statistics;
    Drawn drawn;
};

// Everything of a forward, whose arguments end with `out` where it is the inference.
py::object run_forward(const Args& args, bool inference) {
    const NormInfo& info = norm_info(args.tag());
    const Places at(info);
    const View x = view(args, 0);
    NormContext ctx{{args.tag()}, {}, arrangement_of(info, at, args, x), false, {}, {}, {}, {}, {}};
    const Arrangement& arranged = ctx.arrangement;
    NormOperation& op = ctx.op;
    op.row = args.tag();
    op.grouping = arranged.grouping;
    op.affine_per_run = arranged.affine_per_run;
    op.periods = arranged.periods;
    const auto weight = affine_of(args, at.weight, x, arranged), bias = affine_of(args, at.bias, x, arranged);
    read_parameters(info, args, at.first_parameter, x.dtype, op.parameters);
    op.activation = activation_of(args, at.activation);
    std::optional<View> add;
    if (at.add > 0 && args.given(at.add)) {
        add = view(args, at.add);
        require_alike(*add, args.where(at.add), x, "x");
    }
    std::optional<Output> given;
    std::optional<Result> made, total;
    if (inference) {
        given.emplace(args, at.rest, x, "x");
        given->require_no_overlap_with(x, "x");
        if (add) given->require_no_overlap_with(*add, "add");
        for (const auto* vector : {&weight, &bias}) {
            if (*vector && args.given(at.rest)) {
                require_apart(given->array(), args.where(at.rest), **vector, vector == &weight ? "weight" : "bias");
            }
        }
    } else {
        Rng rng(args, at.rest + 1);
        op.dropout = dropout_of(args, at.rest, rng, x, ctx.drawn);
        made.emplace(x);
    }
    const View& y = inference ? given->array() : made->array();
    if (add) total.emplace(x);
    op.numbers = arranged.numbers(x);
    if (!inference) {
        for (int k = 0; k < statistics_of(args.tag(), Norms{}); ++k) {
            ctx.statistics.push_back(std::make_shared<Doubles>(x, op.grouping.count()));
        }
    }
    const Array from = arranged(x), to = arranged(y), added = add ? arranged(*add) : Array(),
                sum = total ? arranged(total->array()) : Array();
    NormArrays a;
    a.x = &from, a.y = &to, a.weight = pointer_to(weight), a.bias = pointer_to(bias);
    if (add) a.add = &added, a.total = &sum;
    for (std::size_t k = 0; k < ctx.statistics.size(); ++k) a.statistics[k] = ctx.statistics[k]->data();
    compute(x, [&](const Backend& backend) { backend.norm_forward(op, a); });
    const py::object normalized = inference ? given->finish() : made->finish();
    if (inference) return add ? py::make_tuple(normalized, total->finish()) : normalized;
    ctx.added = add.has_value();
    const py::object summed = add ? total->finish() : py::object();
    ctx.x = add ? Saved(view(summed, "total")) : Saved(x);
    ctx.weight = Saved(weight);
    ctx.bias = Saved(bias);
    if (add) return py::make_tuple(normalized, summed, std::move(ctx));
    return py::make_tuple(normalized, std::move(ctx));
}

py::object inference(const Args& args) { return run_forward(args, true); }
py::object forward(const Args& args) { return run_forward(args, false); }

py::object backward(const Args& args) {
    const NormInfo& info = norm_info(args.tag());
    const View dy = view(args, 0);
    const auto& ctx = context_of<NormContext>(args, 1);
    const View x = *ctx.x.view(args, "x");
    const auto weight = ctx.weight.view(args, "weight"), bias = ctx.bias.view(args, "bias");
    require_alike(dy, args.where(0), x, "x");
    std::optional<View> dtotal;
    if (has_add(info) && args.given(2)) {
        if (!ctx.added) {
            fail<py::value_error>(args.where(2), " must be None where the forward had no add, got an array");
        }
        dtotal = view(args, 2);
        require_alike(*dtotal, args.where(2), x, "x");
    }
    const Arrangement& arranged = ctx.arrangement;
    const Result dx(dy);
    std::optional<Result> dweight, dbias;
    if (weight) dweight.emplace(*weight);
    if (bias) dbias.emplace(*bias);
    const Array from = arranged(dy), normalized = arranged(x), to = arranged(dx.array()),
                more = dtotal ? arranged(*dtotal) : Array();
    NormArrays a;
    a.x = &normalized, a.weight = pointer_to(weight), a.bias = pointer_to(bias), a.dy = &from, a.dx = &to;
    if (dtotal) a.dtotal = &more;
    if (dweight) a.dweight = &dweight->array();
    if (dbias) a.dbias = &dbias->array();
    for (std::size_t k = 0; k < ctx.statistics.size(); ++k) a.statistics[k] = ctx.statistics[k]->data();
    compute(dy, [&](const Backend& backend) { backend.norm_backward(ctx.op, a); });
    const auto gradient = [](const std::optional<Result>& r) { return r ? r->finish() : py::object(py::none()); };
    if (!info.has_bias) return py::make_tuple(dx.finish(), gradient(dweight));
    return py::make_tuple(dx.finish(), gradient(dweight), gradient(dbias));
}

// ---- signatures and documentation

std::string parameters_text(const NormInfo& info) {
    std::string text;
    for (const Hyper& h : info.parameters) {
        if (!h.name) break;
        text += std::string(", ") + h.name + "=";
        text += h.kind == Kind::flag       ? (h.value ? "True" : "False")
                : h.kind == Kind::optional ? "None"
                                           : number_text(h.value);
    }
    return text;
}

py::dict description_of(const NormInfo& info) {
    py::dict parameters, d;
    for (const Hyper& h : info.parameters) {
        if (!h.name) break;
        parameters[h.name] = h.kind == Kind::flag       ? py::object(py::bool_(h.value != 0))
                             : h.kind == Kind::optional ? py::object(py::none())
                                                        : py::object(py::float_(h.value));
    }
    d["groups"] = info.groups == Groups::rows             ? "rows"
                  : info.groups == Groups::channel_groups ? "channel_groups"
                                                          : "channels";
    d["formula"] = info.formula;
    d["source"] = info.source;
    d["has_bias"] = info.has_bias;
    d["parameters"] = parameters;
    return d;
}

std::string groups_text(const NormInfo& info) {
    const std::string vector = info.has_bias ? "weight and bias have" : "weight has";
    const std::string dtype = " and the dtype of x (or float32 where x is float16 or bfloat16).";
    switch (info.groups) {
        case Groups::rows:
            return "A group is the elements along `axis`, an integer or a tuple of them; " + vector +
                   " the shape of those axes" + dtype;
        case Groups::channel_groups:
            return "A group is num_groups-th part of the channels on `axis`, neighbors, of one sample, with all other "
                   "axes; " +
                   vector + " shape (C,)" + dtype;
        default:
            return "A group is one channel of `axis` of one sample, with all other axes; " + vector + " shape (C,)" +
                   dtype;
    }
}

void register_norm(py::module_& m, int row) {
    const NormInfo& info = norm_info(row);
    const std::string name = info.name, gradients = info.has_bias ? "(dx, dweight, dbias)" : "(dx, dweight)";
    const std::string arrays = std::string("x") + (info.groups == Groups::channel_groups ? ", num_groups" : "") +
                               ", weight=None" + (info.has_bias ? ", bias=None" : "");
    const std::string options = std::string(", *, axis=") + (info.groups == Groups::rows ? "-1" : "1") +
                                parameters_text(info) + (has_add(info) ? ", add=None" : "") + ", activation=None";
    const std::string formula = std::string("act(") + info.formula + ")";
    const std::string added =
        has_add(info)
            ? "\nWith add, of the shape and dtype of x, it is total = x + add that is normalized, and total is "
              "returned after y."
            : "";
    const std::string rest = "\n\n" + groups_text(info) +
                             " y has the shape and dtype of x. activation is a name of gradfuse.activations(), a "
                             "pair (name, {parameter: value}), or None." +
                             added;
    const std::string errors =
        "\nRaises TypeError for a wrong kind or dtype, ValueError for a wrong shape, axis or value" +
        std::string(info.groups == Groups::rows ? "" : ", and for groups of one value") + ".\nSource: " + info.source +
        ".";
    define(m, name + "(" + arrays + options + ", out=None)",
           "Inference: y = " + formula + "." + rest + " out, if given, receives y; it may be x itself." + errors,
           inference, row);
    define(
        m, name + "_forward(" + arrays + options + ", dropout=0.0, rng=None)",
        "Training: (y, ctx), y = dropout(" + formula + ")." + rest + " dropout and rng as in dropout_forward." + errors,
        forward, row);
    define(m, name + "_backward(grad_out, ctx" + (has_add(info) ? ", grad_total=None" : "") + ")",
           gradients + ", the gradients at the arguments of " + name + "_forward; None for what was None.\n\n" +
               (has_add(info)
                    ? "grad_total is what `total` has of gradient from elsewhere: it is added to dx, which is the "
                      "gradient of x and of add alike. "
                    : "") +
               "grad_out and dx have the shape and dtype of x. The activation's gradient and the dropout mask are "
               "recomputed.\nRaises TypeError or ValueError for a "
               "grad_out unlike the forward's result or a context of another function.",
           backward, row);
}

}  // namespace

void register_norms(py::module_& m) {
    py::class_<NormContext>(m, "NormContext",
                            "What the backward of a normalization needs. It holds the arrays the forward was given or "
                            "returned, no copies.");
    for (int row = 0; row < Norms::size; ++row) register_norm(m, row);
    define(m, "norms()", "The names of the normalizations of one sample's groups.", [](const Args&) {
        py::list names;
        for (int row = 0; row < Norms::size; ++row) names.append(norm_info(row).name);
        return py::object(names);
    });
    define(m, "norm_info(name)",
           "What a normalization says of itself: {'groups', 'formula', 'source', 'has_bias', 'parameters': {name: "
           "default}}. groups is 'rows', 'channel_groups' or 'channels'.",
           [](const Args& args) {
               return py::object(description_of(norm_info(row_of_name(args, 0, Norms{}, "norms()"))));
           });
}

}  // namespace gradfuse
