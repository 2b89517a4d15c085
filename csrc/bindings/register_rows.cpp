// Operations on rows: every one of the list.
#include "bindings/formula.h"
#include "formulas/rows/list.h"

namespace gradfuse {

namespace {

const RowInfo& row_info(int row) { return info_of_list(row, RowOperations{}); }

py::object forward(const Args& args) {
    const View x = view(args, 0);
    const int parameters = parameter_count(row_info(args.tag()));
    const Formula f = formula_from(row_info(args.tag()), args.tag(), args, 1);
    const int axis = axis_of(args, 1 + parameters, x);
    const Grouping rows = rows_of(channel_shape(x, axis), axis + 1 == x.ndim);
    const Output y(args, 2 + parameters, x, "x");
    y.require_no_overlap_with(x, "x");
    compute(x, [&](const Backend& backend) { backend.row_forward(f, rows, x, y.array()); });
    return y.finish();
}

py::object backward(const Args& args) {
    const View dy = view(args, 0), saved = view(args, 1);
    const int parameters = parameter_count(row_info(args.tag()));
    const Formula f = formula_from(row_info(args.tag()), args.tag(), args, 2);
    require_alike(saved, args.where(1), dy, "grad_out");
    const int axis = axis_of(args, 2 + parameters, dy);
    const Grouping rows = rows_of(channel_shape(dy, axis), axis + 1 == dy.ndim);
    const Output dx(args, 3 + parameters, dy, "grad_out");
    dx.require_no_overlap_with(dy, "grad_out");
    dx.require_no_overlap_with(saved, args.name(1));
    compute(dy, [&](const Backend& backend) { backend.row_backward(f, rows, dy, saved, dx.array()); });
    return dx.finish();
}

void register_row(py::module_& m, int row) {
    const RowInfo& info = row_info(row);
    const std::string name = info.name, saved = info.saves == Saves::x ? "x" : "y";
    const std::string rest =
        "\n\nAll arrays share shape and dtype (float16, bfloat16, float32 or float64). out may be an input itself." +
        limits_text(info) +
        "\nRaises TypeError for a wrong kind or dtype, ValueError for a wrong shape, axis or value or an `out` that "
        "cannot be written.\nSource: " +
        info.source + ".";
    define(m, name + "(x" + parameters_text(info) + ", *, axis=-1, out=None)",
           std::string("y = ") + info.formula + " along axis." + rest, forward, row);
    define(m, name + "_backward(grad_out, " + saved + parameters_text(info) + ", *, axis=-1, out=None)",
           "dx = the gradient at x of " + name + ", y = " + info.formula + " along axis; " + saved +
               " is the forward's." + rest,
           backward, row);
}

}  // namespace

void register_rows(py::module_& m) {
    for (int row = 0; row < RowOperations::size; ++row) register_row(m, row);
    define(m, "row_operations()", "The names of the operations on rows.", [](const Args&) {
        py::list names;
        for (int row = 0; row < RowOperations::size; ++row) names.append(row_info(row).name);
        return py::object(names);
    });
    define(m, "row_info(name)",
           "What an operation on rows says of itself: {'saves', 'formula', 'source', 'parameters': {name: default}}.",
           [](const Args& args) {
               const int row = row_of_name(args, 0, RowOperations{}, "row_operations()");
               return py::object(description_of(row_info(row)));
           });
}

}  // namespace gradfuse
