// Every normalization of the list: the elements of a group, the arrays, and the context of the backward.
#include <algorithm>

#include "bindings/formula.h"
#include "bindings/normalization.h"
#include "formulas/norms/list.h"

namespace gradfuse {

namespace arg {
constexpr Word<Divisor> num_groups{"num_groups"};
}

namespace {

const NormInfo& norm_info(int row) { return info_of_list(row, Norms{}); }

template <template <class> class... All>
int statistics_of(int row, List<All...>) {
    static constexpr int counts[] = {All<float>::Forward::group_outputs...};
    return counts[row];
}

// How x is divided into groups. If the elements of a group are not contiguous, the axes are reordered first.
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
    // The index in C order of x for each element in this order.
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
Arrangement channel_groups(const Args& args, const View& x, bool grouped) {
    const int axis = args(arg::axis, x);
    if (axis == 0) fail<py::value_error>(args.where(arg::axis), " must not be 0, the axis of the samples, got 0");
    const std::int64_t channels = x.shape[axis], samples = x.shape[0];
    const std::int64_t groups = grouped ? args(arg::num_groups, channels) : channels;
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
    if (grouped ? x.size == groups && groups > 0 : inner == 1) {
        fail<py::value_error>(args.where(arg::x), " must have more than one value per ",
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

Arrangement arrangement_of(const NormInfo& info, const Args& args, const View& x) {
    if (info.groups == Groups::rows) return rows_along(x, args(arg::axes, x));
    return channel_groups(args, x, info.groups == Groups::channel_groups);
}

void read_parameters(const NormInfo& info, const Args& args, DType dtype, double* to) {
    for (const Hyper& h : info.parameters) {
        if (!h.name) break;
        const py::handle given = args.value(&h);
        if (h.kind == Kind::flag) {
            *to++ = Flag{}.read(given, args.where(h));
        } else if (h.kind == Kind::optional && given.is_none()) {
            *to++ = h.value == machine_epsilon ? (computes_in_double(dtype) ? 0x1p-52 : 0x1p-23) : h.value;
        } else {
            *to++ = number_in(given, args.where(h), h.interval);
        }
    }
}

struct NormContext : NormalizationContext {
    NormOperation op;
    Arrangement arrangement;
    bool added;
};

// The part that inference and forward share: the checked arguments, and the call.
struct Call {
    explicit Call(const Args& args)
        : x(args(arg::x)),
          arranged(arrangement_of(norm_info(args.tag()), args, x)),
          affine(arranged.affine_ndim, arranged.affine_shape),
          weight(args(arg::weight, x, affine)),
          bias(args(arg::bias, x, affine)),
          add(args(arg::add, x)) {
        op.row = args.tag();
        op.grouping = arranged.grouping;
        op.affine_per_run = arranged.affine_per_run && (weight || bias);
        // Without weight and bias, all runs of a group are treated alike: they are one run.
        if (arranged.affine_per_run && !op.affine_per_run) {
            op.grouping = rows_of({op.grouping.count(), op.grouping.length(), 1}, true);
        }
        op.periods = arranged.periods;
        op.numbers = arranged.numbers(x);
        read_parameters(norm_info(op.row), args, x.dtype, op.parameters);
        op.activation = args(arg::activation);
    }

    void run(const Array& y, NormArrays a) {
        if (add) total.emplace(x);
        const Array from = arranged(x), to = arranged(y), added = add ? arranged(*add) : Array(),
                    sum = total ? arranged(total->array()) : Array();
        a.x = &from, a.y = &to, a.weight = pointer_to(weight), a.bias = pointer_to(bias);
        if (add) a.add = &added, a.total = &sum;
        compute(x, [&](const Backend& backend) { backend.norm_forward(op, a); });
    }

    const View x;
    const Arrangement arranged;
    const Shape affine;
    const std::optional<View> weight, bias, add;
    NormOperation op;
    std::optional<Result> total;  // x + add
};

py::object inference(const Args& args) {
    Call call(args);
    const Output y(args, call.x, {pointer_to(call.add)}, {pointer_to(call.weight), pointer_to(call.bias)});
    call.run(y.array(), {});
    if (call.add) return py::make_tuple(y.finish(), call.total->finish());
    return y.finish();
}

py::object forward(const Args& args) {
    Call call(args);
    NormContext ctx{{args, call.x, call.weight, call.bias, {}, {}}, {}, call.arranged, call.add.has_value()};
    call.op.dropout = dropout_of(args, call.x, ctx.drawn);
    NormArrays a;
    for (int k = 0; k < statistics_of(args.tag(), Norms{}); ++k) {
        a.statistics[k] = ctx.statistics[k].emplace(call.x, call.op.grouping.count()).data();
    }
    const Result y(call.x);
    call.run(y.array(), a);
    ctx.op = call.op;
    if (!call.add) return py::make_tuple(y.finish(), std::move(ctx));
    const py::object total = call.total->finish();
    ctx.x = view(total, {args.function(), "total"});
    return py::make_tuple(y.finish(), total, std::move(ctx));
}

py::object backward(const Args& args) {
    const auto& ctx = context_of<NormContext>(args);
    Gradients g(args, ctx);
    const auto dtotal = args(arg::grad_total, g.x);
    if (dtotal && !ctx.added) {
        fail<py::value_error>(args.where(arg::grad_total), " must be None if the forward had no add, got an array");
    }
    const Arrangement& arranged = ctx.arrangement;
    const Result dx(g.dy);
    const Array from = arranged(g.dy), normalized = arranged(g.x), to = arranged(dx.array()),
                more = dtotal ? arranged(*dtotal) : Array();
    NormArrays a;
    a.x = &normalized, a.dy = &from, a.dx = &to;
    if (dtotal) a.dtotal = &more;
    g.enter_vectors(a);
    for (int k = 0; k < NormInfo::max_statistics && ctx.statistics[k]; ++k) a.statistics[k] = ctx.statistics[k]->data();
    compute(g.dy, [&](const Backend& backend) { backend.norm_backward(ctx.op, a); });
    if (!norm_info(args.tag()).has_bias) return py::make_tuple(dx.finish(), g.finish(g.dweight));
    return py::make_tuple(dx.finish(), g.finish(g.dweight), g.finish(g.dbias));
}

// ---- signatures and documentation

std::string groups_text(const NormInfo& info) {
    const bool rows = info.groups == Groups::rows, grouped = info.groups == Groups::channel_groups;
    const std::string which = rows ? "the elements along `axis`"
                              : grouped
                                  ? "C / num_groups neighboring channels on `axis` of one sample, over all other axes"
                                  : "one channel on `axis` of one sample, over all other axes";
    return "A group is " + which + (info.has_bias ? "; weight and bias have " : "; weight has ") +
           (rows ? "the shape of those axes" : "shape (C,)") +
           " and the dtype of x (or float32 if x is float16 or bfloat16).";
}

void register_norm(py::module_& m, int row) {
    const NormInfo& info = norm_info(row);
    const bool rows = info.groups == Groups::rows;
    const auto only = [](bool there, const Signature& part) { return there ? part : Signature(); };
    const Signature groups = only(info.groups == Groups::channel_groups, arg::num_groups),
                    bias = only(info.has_bias, arg::bias = none), axis = rows ? arg::axes = -1 : arg::axis = 1,
                    add = only(rows, arg::add = none), grad_total = only(rows, arg::grad_total = none);
    const Signature vectors = {groups, arg::weight = none, bias};
    const Signature parameters = {arg::x, vectors, keyword_only, axis, info, add, arg::activation = none};
    const std::string name = info.name, formula = std::string("act(") + info.formula + ")";
    const std::string text = groups_text(info) + " y has the shape and dtype of x." +
                             (rows ? "\nWith add, of the shape and dtype of x, the norm is applied to total = x + add, "
                                     "and total is returned after y."
                                   : "");
    const std::string errors = rows ? "" : ", and for groups of one value";
    define(m, name, {parameters, arg::out = none}, rows ? "Any" : "Array",
           {"Inference: y = " + formula + ".", text, info.source, errors}, inference, row);
    define(m, name + "_forward", {parameters, arg::dropout = 0.0, arg::rng = none},
           rows ? "tuple[Any, ...]" : "tuple[Array, Any]",
           {"Training: (y, ctx), y = dropout(" + formula + ").", text, info.source, errors}, forward, row);
    define(m, name + "_backward", {arg::grad_out, arg::ctx, grad_total},
           info.has_bias ? "tuple[Array, Any, Any]" : "tuple[Array, Any]",
           {std::string(info.has_bias ? "(dx, dweight, dbias)" : "(dx, dweight)") +
                ", the gradients of the arguments of " + name + "_forward; None for an argument that was None.",
            std::string(rows ? "grad_total is the gradient of `total` from its other uses. It is added to dx, which is "
                               "the gradient of x and also of add. "
                             : "") +
                "grad_out and dx have the shape and dtype of x. The activation's gradient and the dropout mask are "
                "computed again."},
           backward, row);
}

}  // namespace

void register_norms(py::module_& m) {
    py::class_<NormContext>(m, "NormContext", garbage_collected<NormContext>(),
                            "What the backward of a normalization needs. It refers to the arrays that the forward was "
                            "given or returned and makes no copies.");
    for (int row = 0; row < Norms::size; ++row) register_norm(m, row);
    define_internal(m, "norms", {}, "list[str]", {"The names of the normalizations within a sample."},
                    names_of_list<Norms>);
    define_internal(
        m, "norm_info", {arg::name}, "dict[str, Any]",
        {"The description of a normalization: {'name', 'groups', 'formula', 'source', 'has_bias', 'parameters': "
         "{name: default}}. groups is 'rows', 'channel_groups' or 'channels'."},
        [](const Args& args) { return info_of_name<Norms>(args, "norms()"); });
}

}  // namespace gradfuse
