// Code shared by the bindings of batch norm and of the norms within a sample.
#pragma once

#include "bindings/bindings.h"

namespace gradfuse {

// The context of a backward: references to the forward's arrays, and the statistics that the forward used.
struct NormalizationContext : Context {
    template <class F>
    void traverse(const F& f) const {
        for (const Saved* saved : {&x, &weight, &bias}) f(saved->object());
    }

    Saved x, weight, bias;  // x: what was normalized
    std::optional<Doubles> statistics[NormInfo::max_statistics];
    Drawn drawn;
};

// The arrays of a context, grad_out, and the gradients.
struct Gradients {
    Gradients(const Args& args, const NormalizationContext& ctx)
        : x(*ctx.x.view(args, "x")),
          weight(ctx.weight.view(args, "weight")),
          bias(ctx.bias.view(args, "bias")),
          dy(args(arg::grad_out, x)) {}

    // Allocates the gradients of weight and bias, and adds all four arrays to those of a call.
    template <class Arrays>
    void enter_vectors(Arrays& a) {
        if (weight) a.dweight = &dweight.emplace(*weight).array();
        if (bias) a.dbias = &dbias.emplace(*bias).array();
        a.weight = pointer_to(weight), a.bias = pointer_to(bias);
    }
    static py::object finish(const std::optional<Result>& r) { return r ? r->finish() : py::object(py::none()); }

    const View x;
    const std::optional<View> weight, bias;
    const View dy;
    std::optional<Result> dweight, dbias;
};

}  // namespace gradfuse
