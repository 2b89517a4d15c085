// Every activation of the list.
#include "bindings/formula.h"
#include "formulas/activations/list.h"

namespace gradfuse {

namespace {

const FormulaInfo& activation_row(int row) { return info_of_list(row, Activations{}); }

py::object forward(const Args& args) {
    const View x = args(arg::x);
    const Activation a = formula_of(args, activation_row(args.tag()), args.tag());
    const Output y(args, x);
    compute(x, [&](const Backend& backend) { backend.activation_forward(a, x, y.array()); });
    return y.finish();
}

py::object backward(const Args& args) {
    const View dy = args(arg::grad_out), saved = args(arg::saved, dy);
    const Activation a = formula_of(args, activation_row(args.tag()), args.tag());
    const Output dx(args, dy, {&saved});
    compute(dy, [&](const Backend& backend) { backend.activation_backward(a, dy, saved, dx.array()); });
    return dx.finish();
}

const FormulaInfo& info_of(const Args& args) {
    const Activation a = arg::activation.kind.read(args(arg::name), args.where(arg::name));
    if (a.row < 0) fail<py::type_error>(args.where(arg::name), " must be a name, got None");
    return activation_row(a.row);
}

void register_activation(py::module_& m, int row) {
    const FormulaInfo& info = activation_row(row);
    const std::string name = info.name, saved = info.saves == Saves::x ? "x" : "y",
                      alike = "share shape and dtype (float16, bfloat16, float32 or float64).";
    const Signature options = {info, keyword_only, arg::out = none};
    define(m, name, {arg::x, options}, "Array",
           {std::string("y = ") + info.formula, "x and the result " + alike, info.source}, forward, row);
    define(m, name + "_backward", {arg::grad_out, arg::saved, options}, "Array",
           {"dx = grad_out * dy/dx of " + name + ", y = " + info.formula,
            "saved is the forward's " + saved + ". grad_out, saved and the result " + alike, info.source},
           backward, row);
}

}  // namespace

Activation AnActivation::read(py::handle object, const Where& where) const {
    Activation a;
    if (object.is_none()) return a;
    py::object name = py::reinterpret_borrow<py::object>(object);
    py::dict given;
    if (py::isinstance<py::tuple>(name) && py::len(name) == 2 && py::isinstance<py::dict>(name[py::int_(1)])) {
        given = name[py::int_(1)];
        Reading::note_foreign_code();  // its keys may compare in their own way
        name = name[py::int_(0)];
    }
    if (!py::isinstance<py::str>(name)) {
        fail<py::type_error>(where, " must be a name, a pair (name, {parameter: value}) or None, got ",
                             describe(object));
    }
    const std::string wanted = utf8(name);
    for (int row = 0; row < Activations::size; ++row) {
        if (wanted == activation_row(row).name) a.row = row;
    }
    if (a.row < 0) fail<py::value_error>(where, " must be one of gradfuse.activations(), got '", wanted, "'");
    const FormulaInfo& info = activation_row(a.row);
    for (int k = 0; k < parameter_count(info); ++k) a.parameters[k] = info.parameters[k].value;
    for (const auto& [key, value] : given) {
        int k = 0;
        while (k < parameter_count(info) && !key.equal(py::str(info.parameters[k].name))) ++k;
        if (k == parameter_count(info)) {
            fail<py::value_error>(where, ": ", wanted, " has no parameter ", std::string(py::repr(key)));
        }
        const Parameter& p = info.parameters[k];
        a.parameters[k] = number_in(value, {where.function, where.argument, ": ", p.name}, p.interval);
    }
    require_order(info, a, where);
    return a;
}

void register_activations(py::module_& m) {
    for (int row = 0; row < Activations::size; ++row) register_activation(m, row);

    define(m, "activations", {}, "list[str]", {"The names of the elementwise activations, in the order of the list."},
           names_of_list<Activations>);
    define_internal(
        m, "activation_info", {arg::name}, "dict[str, Any]",
        {"The description of an activation: {'name', 'saves', 'formula', 'source', 'parameters': {name: default}}."},
        [](const Args& args) { return py::object(description_of(info_of(args))); });
    define(m, "saves", {arg::name}, "str",
           {"Which array the backward of activation `name` takes as `saved`: 'x', the forward's input, or 'y', its "
            "result."},
           [](const Args& args) { return py::object(py::str(info_of(args).saves == Saves::x ? "x" : "y")); });
}

}  // namespace gradfuse
