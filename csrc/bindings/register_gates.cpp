// Gated linear units: an array times an activation of another array, or one half of an array times an activation of
// the other half.
#include "bindings/bindings.h"

namespace gradfuse {

namespace {

py::object gated(const Args& args) {
    const View a = args(arg::a), gate = args(arg::gate, a);
    const Activation activation = args(arg::activation);
    const Output y(args, a, {&gate});
    compute(a, [&](const Backend& backend) { backend.gated_forward(activation, a, gate, y.array()); });
    return y.finish();
}

py::object gated_backward(const Args& args) {
    const View dy = args(arg::grad_out), a = args(arg::a, dy), gate = args(arg::gate, dy);
    const Activation activation = args(arg::activation);
    const Result da(a), dgate(gate);
    compute(dy, [&](const Backend& backend) {
        backend.gated_backward(activation, dy, a, gate, da.array(), dgate.array());
    });
    return py::make_tuple(da.finish(), dgate.finish());
}

struct GluContext : Context {
    template <class F>
    void traverse(const F& f) const {
        f(x.object());
    }

    Saved x;
    Activation activation;
    int axis;
};

// Elements [first, first + n) of an axis.
Array part_of(const Array& x, int axis, std::int64_t first, std::int64_t n) {
    Array part = x;
    part.shape[axis] = n;
    part.size = 1;
    for (int d = 0; d < x.ndim; ++d) part.size *= part.shape[d];
    part.data = static_cast<char*>(x.data) + first * x.strides[axis];
    part.dense = is_dense(part);
    return part;
}
Array first_half(const Array& x, int axis) { return part_of(x, axis, 0, x.shape[axis] / 2); }
Array second_half(const Array& x, int axis) { return part_of(x, axis, x.shape[axis] / 2, x.shape[axis] / 2); }

py::object glu_forward(const Args& args) {
    const View x = args(arg::x);
    const Activation activation = args(arg::activation);
    const int axis = args(arg::axis, x);
    if (x.shape[axis] % 2 != 0) {
        fail<py::value_error>(args.where(arg::x), " must have an even number of elements on axis ", axis,
                              ", got shape ", shape_text(x));
    }
    const Array a = first_half(x, axis), gate = second_half(x, axis);
    const Result y(x, a, x.dtype);
    compute(x, [&](const Backend& backend) { backend.gated_forward(activation, a, gate, y.array()); });
    return py::make_tuple(y.finish(), GluContext{args, x, activation, axis});
}

py::object glu_backward(const Args& args) {
    const View dy = args(arg::grad_out);
    const auto& ctx = context_of<GluContext>(args);
    const View x = *ctx.x.view(args, "x");
    const Array a = first_half(x, ctx.axis), gate = second_half(x, ctx.axis);
    require_alike(dy, args.where(arg::grad_out), a, "the forward's result");
    const Result dx(x);
    const Array da = first_half(dx.array(), ctx.axis), dgate = second_half(dx.array(), ctx.axis);
    compute(x, [&](const Backend& backend) { backend.gated_backward(ctx.activation, dy, a, gate, da, dgate); });
    return dx.finish();
}

}  // namespace

void register_gates(py::module_& m) {
    py::class_<GluContext>(m, "GluContext", garbage_collected<GluContext>(), "What glu_backward needs. It holds x.");
    const std::string source = "Dauphin et al. 2017; Shazeer 2020 (GEGLU, SwiGLU)";
    define(m, "gated", {arg::a, arg::gate, arg::activation = "silu", keyword_only, arg::out = none}, "Array",
           {"y = a * act(gate): with 'silu' the gate of SwiGLU, with 'gelu' that of GEGLU.",
            "a, gate and the result share shape and dtype (float16, bfloat16, float32 or float64).", source},
           gated);
    define(m, "gated_backward", {arg::grad_out, arg::a, arg::gate, arg::activation = "silu"}, "tuple[Array, Array]",
           {"(da, dgate), da = grad_out * act(gate), dgate = grad_out * a * act'(gate).",
            "All arrays share shape and dtype.", source},
           gated_backward);
    define(m, "glu_forward", {arg::x, arg::activation = "sigmoid", keyword_only, arg::axis = -1}, "tuple[Array, Any]",
           {"(y, ctx), y = a * act(gate), a and gate the first and the second half of x on axis.",
            "y has the dtype and shape of x, but half as many elements on axis.", source + "; torch.nn.functional.glu",
            ", and for an odd number of elements on axis"},
           glu_forward);
    define(m, "glu_backward", {arg::grad_out, arg::ctx}, "Array",
           {"dx, of the shape and dtype of x: the gradient of a in its first half, that of gate in its second."},
           glu_backward);
}

}  // namespace gradfuse
