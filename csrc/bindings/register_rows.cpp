// The row operations of the list.
#include "bindings/formula.h"
#include "formulas/rows/list.h"

namespace gradfuse {

namespace {

const RowInfo& row_info(int row) { return info_of_list(row, RowOperations{}); }

const Word<AnArray>& saved_of(const RowInfo& info) { return info.saves == Saves::x ? arg::x : arg::y; }

Grouping rows_along(int axis, const View& x) { return rows_of(channel_shape(x, axis), axis + 1 == x.ndim); }

py::object forward(const Args& args) {
    const View x = args(arg::x);
    const Formula f = formula_of(args, row_info(args.tag()), args.tag());
    const Grouping rows = rows_along(args(arg::axis, x), x);
    const Output y(args, x);
    compute(x, [&](const Backend& backend) { backend.row_forward(f, rows, x, y.array()); });
    return y.finish();
}

py::object backward(const Args& args) {
    const RowInfo& info = row_info(args.tag());
    const View dy = args(arg::grad_out), saved = args(saved_of(info), dy);
    const Formula f = formula_of(args, info, args.tag());
    const Grouping rows = rows_along(args(arg::axis, dy), dy);
    const Output dx(args, dy, {&saved});
    compute(dy, [&](const Backend& backend) { backend.row_backward(f, rows, dy, saved, dx.array()); });
    return dx.finish();
}

void register_row(py::module_& m, int row) {
    const RowInfo& info = row_info(row);
    const Word<AnArray>& saved = saved_of(info);
    const std::string name = info.name, y = std::string("y = ") + info.formula + " along axis",
                      alike = "All arrays share shape and dtype (float16, bfloat16, float32 or float64).";
    const Signature options = {info, keyword_only, arg::axis = -1, arg::out = none};
    define(m, name, {arg::x, options}, "Array", {y + ".", alike, info.source}, forward, row);
    define(m, name + "_backward", {arg::grad_out, saved, options}, "Array",
           {"dx = the gradient of " + name + " at x, " + y + "; " + saved.name + " is that of the forward.", alike,
            info.source},
           backward, row);
}

}  // namespace

void register_rows(py::module_& m) {
    for (int row = 0; row < RowOperations::size; ++row) register_row(m, row);
    define_internal(m, "row_operations", {}, "list[str]", {"The names of the operations on rows."},
                    names_of_list<RowOperations>);
    define_internal(m, "row_info", {arg::name}, "dict[str, Any]",
                    {"The description of an operation on rows: {'name', 'saves', 'formula', 'source', 'parameters': "
                     "{name: default}}."},
                    [](const Args& args) { return info_of_name<RowOperations>(args, "row_operations()"); });
}

}  // namespace gradfuse
