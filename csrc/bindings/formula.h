// The rows of a list of formulas as the bindings see them: what they say of themselves, and their parameters from
// arguments.
#pragma once

#include "bindings/bindings.h"
#include "core/list.h"

namespace gradfuse {

template <template <class> class First, template <class> class... Rest>
const auto& info_of_list(int row, List<First, Rest...>) {
    const decltype(First<float>::info)* const rows[] = {&First<float>::info, &Rest<float>::info...};
    return *rows[row];
}

// The row that argument i names; `list` is what the error calls the names.
template <template <class> class... All>
int row_of_name(const Args& args, int i, List<All...> all, const char* list) {
    for (int row = 0; row < all.size; ++row) {
        if (args[i].equal(py::str(info_of_list(row, all).name))) return row;
    }
    fail<py::value_error>(args.where(i), " must be one of ", list, ", got ", std::string(py::repr(args[i])));
}

py::dict description_of(const FormulaInfo& info);  // what activation_info and row_info return
int parameter_count(const FormulaInfo& info);
std::string number_text(double v);
std::string parameters_text(const FormulaInfo& info);  // ", alpha=1.0", as in a signature
std::string limits_text(const FormulaInfo& info);      // a line for each parameter
py::dict defaults_of(const FormulaInfo& info);         // {parameter: default}

// Place `first` and those after it hold the parameters.
Formula formula_from(const FormulaInfo& info, int row, const Args& args, int first);
void require_order(const FormulaInfo& info, const Formula& f, const std::string& where);

}  // namespace gradfuse
