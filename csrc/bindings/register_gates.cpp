// Gated linear units: an array times an activation of another, or of its own other half.
#include "bindings/bindings.h"

namespace gradfuse {

namespace {

py::object gated(const Args& args) {
    enum { a_, gate_, activation_, out_ };
    const View a = view(args, a_), gate = view(args, gate_);
    require_alike(gate, args.where(gate_), a, "a");
    const Activation activation = activation_of(args, activation_);
    const Output y(args, out_, a, "a");
    y.require_no_overlap_with(a, "a");
    y.require_no_overlap_with(gate, "gate");
    compute(a, [&](const Backend& backend) { backend.gated_forward(activation, a, gate, y.array()); });
    return y.finish();
}

py::object gated_backward(const Args& args) {
    enum { dy_, a_, gate_, activation_ };
    const View dy = view(args, dy_), a = view(args, a_), gate = view(args, gate_);
    require_alike(a, args.where(a_), dy, "grad_out");
    require_alike(gate, args.where(gate_), dy, "grad_out");
    const Activation activation = activation_of(args, activation_);
    const Result da(a), dgate(gate);
    compute(dy, [&](const Backend& backend) {
        backend.gated_backward(activation, dy, a, gate, da.array(), dgate.array());
    });
    return py::make_tuple(da.finish(), dgate.finish());
}

struct GluContext : Context {
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
    enum { x_, activation_, axis_ };
    const View x = view(args, x_);
    const Activation activation = activation_of(args, activation_);
    const int axis = axis_of(args, axis_, x);
    if (x.shape[axis] % 2 != 0) {
        fail<py::value_error>(args.where(x_), " must have an even number of elements on axis ", axis, ", got shape ",
                              shape_text(x));
    }
    const Array a = first_half(x, axis), gate = second_half(x, axis);
    const Result y(x, a.ndim, a.shape, x.dtype);
    compute(x, [&](const Backend& backend) { backend.gated_forward(activation, a, gate, y.array()); });
    return py::make_tuple(y.finish(), GluContext{{args.tag()}, Saved(x), activation, axis});
}

py::object glu_backward(const Args& args) {
    const View dy = view(args, 0);
    const auto& ctx = context_of<GluContext>(args, 1);
    const View x = *ctx.x.view(args, "x");
    const Array a = first_half(x, ctx.axis), gate = second_half(x, ctx.axis);
    require_alike(dy, args.where(0), a, "the forward's result");
    const Result dx(x);
    const Array da = first_half(dx.array(), ctx.axis), dgate = second_half(dx.array(), ctx.axis);
    compute(x, [&](const Backend& backend) { backend.gated_backward(ctx.activation, dy, a, gate, da, dgate); });
    return dx.finish();
}

const char* const activation_text =
    "activation is a name of gradfuse.activations(), a pair (name, {parameter: value}) or None.\n";
const char* const source_text = "Source: Dauphin et al. 2017; Shazeer 2020 (GEGLU, SwiGLU)";

}  // namespace

void register_gates(py::module_& m) {
    const std::string activation = activation_text, source = source_text;
    define(
        m, "gated(a, gate, activation='silu', *, out=None)",
        "y = a * act(gate): with 'silu' SwiGLU's gate, with 'gelu' GEGLU's.\n\n"
        "a, gate and the result share shape and dtype (float16, bfloat16, float32 or float64). " +
            activation +
            "out, if given, receives the result; it may be an input itself.\n"
            "Raises TypeError for a wrong kind or dtype, ValueError for a wrong shape or activation or an `out` that "
            "cannot be written.\n" +
            source + ".",
        gated);
    define(m, "gated_backward(grad_out, a, gate, activation='silu')",
           "(da, dgate), da = grad_out * act(gate), dgate = grad_out * a * act'(gate).\n\n"
           "All arrays share shape and dtype. " +
               activation +
               "Raises TypeError for a wrong kind or dtype, ValueError for a wrong shape or activation.\n" + source +
               ".",
           gated_backward);
    py::class_<GluContext>(m, "GluContext", "What glu_backward needs. It holds x.");
    define(
        m, "glu_forward(x, activation='sigmoid', *, axis=-1)",
        "(y, ctx), y = a * act(gate), a and gate the first and the second half of x on axis.\n\n"
        "y has the dtype of x, and its shape but for axis, on which it has half the elements. " +
            activation +
            "Raises TypeError for a wrong kind or dtype, ValueError for an odd number of elements on axis, or a wrong "
            "axis or activation.\n" +
            source + "; torch.nn.functional.glu.",
        glu_forward);
    define(m, "glu_backward(grad_out, ctx)",
           "dx, of the shape and dtype of x: first a's half, then the gate's.\n\n"
           "Raises TypeError or ValueError for a grad_out unlike the forward's result.",
           glu_backward);
}

}  // namespace gradfuse
