#include "bindings/formula.h"

namespace gradfuse {

int parameter_count(const FormulaInfo& info) {
    int n = 0;
    while (n < FormulaInfo::max_parameters && info.parameters[n].name) ++n;
    return n;
}

py::dict description_of(const FormulaInfo& info) {
    py::dict d;
    d["saves"] = info.saves == Saves::x ? "x" : "y";
    d["formula"] = info.formula;
    d["source"] = info.source;
    d["parameters"] = defaults_of(info);
    return d;
}

std::string number_text(double v) { return std::string(py::repr(py::float_(v))); }

std::string parameters_text(const FormulaInfo& info) {
    std::string text;
    for (int k = 0; k < parameter_count(info); ++k) {
        text += std::string(", ") + info.parameters[k].name + "=" + number_text(info.parameters[k].value);
    }
    return text;
}

std::string limits_text(const FormulaInfo& info) {
    std::string text;
    for (int k = 0; k < parameter_count(info); ++k) {
        text += std::string("\n") + info.parameters[k].name + " is " + info.parameters[k].interval.text + ".";
    }
    return text;
}

py::dict defaults_of(const FormulaInfo& info) {
    py::dict defaults;
    for (int k = 0; k < parameter_count(info); ++k) defaults[info.parameters[k].name] = info.parameters[k].value;
    return defaults;
}

void require_order(const FormulaInfo& info, const Formula& f, const std::string& where) {
    if (info.ascending && f.parameters[0] > f.parameters[1]) {
        fail<py::value_error>(where, ": ", info.parameters[0].name, " must be at most ", info.parameters[1].name,
                              ", got ", number_text(f.parameters[0]), " > ", number_text(f.parameters[1]));
    }
}

Formula formula_from(const FormulaInfo& info, int row, const Args& args, int first) {
    Formula f;
    f.row = row;
    for (int k = 0; k < parameter_count(info); ++k) {
        f.parameters[k] = number_in(args, first + k, info.parameters[k].interval);
    }
    require_order(info, f, args.function());
    return f;
}

}  // namespace gradfuse
