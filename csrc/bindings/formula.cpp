#include "bindings/formula.h"

namespace gradfuse {

py::object default_of(const Hyper& h) {
    if (h.kind == Kind::pair) return py::make_tuple(h.value, h.second);
    if (h.kind == Kind::flag) return py::bool_(h.value != 0);
    return h.kind == Kind::optional ? py::object(py::none()) : py::float_(h.value);
}

Signature::Signature(const FormulaInfo& info) {
    for (int k = 0; k < parameter_count(info); ++k) {
        const Parameter& p = info.parameters[k];
        parameters.push_back(declared(&p, p.name, Number{p.interval}, py::float_(p.value)));
    }
}

Signature::Signature(const NormInfo& info) {
    for (const Hyper& h : info.parameters) {
        if (!h.name) break;
        const Number number{h.interval};
        parameters.push_back(h.kind == Kind::flag       ? declared(&h, h.name, Flag{}, default_of(h))
                             : h.kind == Kind::optional ? declared(&h, h.name, Optional<Number>{number}, default_of(h))
                                                        : declared(&h, h.name, number, default_of(h)));
    }
}

int parameter_count(const FormulaInfo& info) {
    int n = 0;
    while (n < FormulaInfo::max_parameters && info.parameters[n].name) ++n;
    return n;
}

py::dict description_of(const FormulaInfo& info) {
    py::dict d, defaults;
    for (int k = 0; k < parameter_count(info); ++k) defaults[info.parameters[k].name] = info.parameters[k].value;
    d["name"] = info.name;
    d["saves"] = info.saves == Saves::x ? "x" : "y";
    d["formula"] = info.formula;
    d["source"] = info.source;
    d["parameters"] = defaults;
    return d;
}

py::dict description_of(const NormInfo& info) {
    py::dict d, defaults;
    for (const Hyper& h : info.parameters) {
        if (h.name) defaults[h.name] = default_of(h);
    }
    d["name"] = info.name;
    d["groups"] = info.groups == Groups::rows             ? "rows"
                  : info.groups == Groups::channel_groups ? "channel_groups"
                                                          : "channels";
    d["formula"] = info.formula;
    d["source"] = info.source;
    d["has_bias"] = info.has_bias;
    d["parameters"] = defaults;
    return d;
}

void require_order(const FormulaInfo& info, const Formula& f, const Where& where) {
    if (info.ascending && f.parameters[0] > f.parameters[1]) {
        fail<py::value_error>(where, ": ", info.parameters[0].name, " must be at most ", info.parameters[1].name,
                              ", got ", text_of(f.parameters[0]), " > ", text_of(f.parameters[1]));
    }
}

Formula formula_of(const Args& args, const FormulaInfo& info, int row) {
    Formula f;
    f.row = row;
    for (int k = 0; k < parameter_count(info); ++k) {
        const Parameter& p = info.parameters[k];
        f.parameters[k] = number_in(args.value(&p), args.where(p), p.interval);
    }
    require_order(info, f, {args.function()});
    return f;
}

}  // namespace gradfuse
