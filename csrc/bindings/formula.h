// The rows of a list of formulas for the bindings: their descriptions, and their parameters read from arguments.
#pragma once

#include "bindings/bindings.h"
#include "core/list.h"

namespace gradfuse {

template <template <class> class First, template <class> class... Rest>
const auto& info_of_list(int row, List<First, Rest...>) {
    const decltype(First<float>::info)* const rows[] = {&First<float>::info, &Rest<float>::info...};
    return *rows[row];
}

template <class All>
py::object names_of_list(const Args&) {
    py::list names;
    for (int row = 0; row < All::size; ++row) names.append(info_of_list(row, All{}).name);
    return py::object(names);
}

py::object default_of(const Hyper& h);
py::dict description_of(const FormulaInfo& info);
py::dict description_of(const NormInfo& info);

// The description of the row called `name`; `list` describes the valid names in the error message.
template <class All>
py::object info_of_name(const Args& args, const char* list) {
    for (int row = 0; row < All::size; ++row) {
        const auto& info = info_of_list(row, All{});
        if (args(arg::name).equal(py::str(info.name))) return description_of(info);
    }
    fail<py::value_error>(args.where(arg::name), " must be one of ", list, ", got ",
                          std::string(py::repr(args(arg::name))));
}

int parameter_count(const FormulaInfo& info);

// The formula of a row with the parameters of this call.
Formula formula_of(const Args& args, const FormulaInfo& info, int row);
void require_order(const FormulaInfo& info, const Formula& f, const Where& where);

}  // namespace gradfuse
