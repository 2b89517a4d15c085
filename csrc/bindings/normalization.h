// What the bindings of normalizations share: those of channels (batch norm) and those within a sample.
#pragma once

#include "bindings/bindings.h"

namespace gradfuse {

// What a backward needs: the forward's arrays, by reference, and the statistics that it used.
struct NormalizationContext : Context {
    Saved x, weight, bias;  // x: what was normalized
    std::optional<Doubles> statistics[NormInfo::max_statistics];
    Drawn drawn;
};

// The arrays that a context kept, grad_out, and the gradients.
struct Gradients {
    Gradients(const Args& args, const NormalizationContext& ctx)
        : x(*ctx.x.view(args, "x")),
          weight(ctx.weight.view(args, "weight")),
          bias(ctx.bias.view(args, "bias")),
          dy(args(arg::grad_out, x)) {}

    // Makes those of weight and bias, and enters all four into the arrays of a call.
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
