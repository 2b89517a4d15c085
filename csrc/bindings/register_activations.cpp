// Every activation of the list.
#include "bindings/formula.h"
#include "formulas/activations/list.h"

namespace gradfuse {

namespace {

const FormulaInfo& activation_row(int row) { return info_of_list(row, Activations{}); }

py::object forward(const Args& args) {
    const int parameters = parameter_count(activation_row(args.tag()));
    const View x = view(args, 0);
    const Activation a = formula_from(activation_row(args.tag()), args.tag(), args, 1);
    const Output y(args, 1 + parameters, x, "x");
    y.require_no_overlap_with(x, "x");
    compute(x, [&](const Backend& backend) { backend.activation_forward(a, x, y.array()); });
    return y.finish();
}

py::object backward(const Args& args) {
    const int parameters = parameter_count(activation_row(args.tag()));
    const View dy = view(args, 0), saved = view(args, 1);
    const Activation a = formula_from(activation_row(args.tag()), args.tag(), args, 2);
    require_alike(saved, args.where(1), dy, "grad_out");
    const Output dx(args, 2 + parameters, dy, "grad_out");
    dx.require_no_overlap_with(dy, "grad_out");
    dx.require_no_overlap_with(saved, "saved");
    compute(dy, [&](const Backend& backend) { backend.activation_backward(a, dy, saved, dx.array()); });
    return dx.finish();
}

std::string shapes_text(bool backward) {
    return backward ? "grad_out, saved and the result share shape and dtype (float16, bfloat16, float32 or float64)."
                    : "x and the result share shape and dtype (float16, bfloat16, float32 or float64).";
}

void register_activation(py::module_& m, int row) {
    const FormulaInfo& info = activation_row(row);
    const std::string name = info.name, saved = info.saves == Saves::x ? "x" : "y";
    const std::string errors =
        "\n\nout, if given, receives the result; it may be an input itself.\n"
        "Raises TypeError for a wrong kind or dtype, ValueError for a wrong shape or value or an `out` that cannot be "
        "written.\nSource: " +
        std::string(info.source) + ".";
    define(m, name + "(x" + parameters_text(info) + ", *, out=None)",
           std::string("y = ") + info.formula + "\n\n" + shapes_text(false) + limits_text(info) + errors, forward, row);
    define(m, name + "_backward(grad_out, saved" + parameters_text(info) + ", *, out=None)",
           "dx = grad_out * dy/dx of " + name + ", y = " + info.formula + "\n\nsaved is the forward's " + saved + ". " +
               shapes_text(true) + limits_text(info) + errors,
           backward, row);
}

}  // namespace

Activation activation_of(const Args& args, int i) {
    Activation a;
    if (!args.given(i)) return a;
    py::object name = py::reinterpret_borrow<py::object>(args[i]);
    py::dict given;
    if (py::isinstance<py::tuple>(name) && py::len(name) == 2 && py::isinstance<py::dict>(name[py::int_(1)])) {
        given = name[py::int_(1)];
        name = name[py::int_(0)];
    }
    if (!py::isinstance<py::str>(name)) {
        fail<py::type_error>(args.where(i), " must be a name, a pair (name, {parameter: value}) or None, got ",
                             describe(args[i]));
    }
    const std::string wanted = name.cast<std::string>();
    for (int row = 0; row < Activations::size; ++row) {
        if (wanted == activation_row(row).name) a.row = row;
    }
    if (a.row < 0) {
        fail<py::value_error>(args.where(i), " must be one of gradfuse.activations(), got '", wanted, "'");
    }
    const FormulaInfo& info = activation_row(a.row);
    for (int k = 0; k < parameter_count(info); ++k) a.parameters[k] = info.parameters[k].value;
    for (const auto& [key, value] : given) {
        int k = 0;
        while (k < parameter_count(info) && !key.equal(py::str(info.parameters[k].name))) ++k;
        if (k == parameter_count(info)) {
            fail<py::value_error>(args.where(i), ": ", wanted, " has no parameter ", std::string(py::repr(key)));
        }
        a.parameters[k] = number_in(value, args.where(i) + ": " + info.parameters[k].name, info.parameters[k].interval);
    }
    require_order(info, a, args.where(i));
    return a;
}

void register_activations(py::module_& m) {
    for (int row = 0; row < Activations::size; ++row) register_activation(m, row);

    define(m, "activations()", "The names of the elementwise activations, in the order of the list.", [](const Args&) {
        py::list names;
        for (int row = 0; row < Activations::size; ++row) names.append(activation_row(row).name);
        return py::object(names);
    });
    define(m, "activation_info(name)",
           "What an activation says of itself: {'saves', 'formula', 'source', 'parameters': {name: default}}.",
           [](const Args& args) {
               const Activation a = activation_of(args, 0);
               if (a.row < 0) fail<py::type_error>(args.where(0), " must be a name, got None");
               return py::object(description_of(activation_row(a.row)));
           });
    define(m, "saves(name)", "What name's backward is given as `saved`: 'x', the forward's input, or 'y', its result.",
           [](const Args& args) {
               const Activation a = activation_of(args, 0);
               if (a.row < 0) fail<py::type_error>(args.where(0), " must be a name, got None");
               return py::object(py::str(activation_row(a.row).saves == Saves::x ? "x" : "y"));
           });
}

}  // namespace gradfuse
