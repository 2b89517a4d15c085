#include "bindings/bindings.h"
#include "bindings/formula.h"
#include "cpu/tile.h"
#include "formulas/dropout.h"

namespace gradfuse {

Output::Output(const Args& args, int i, const View& like, const char* like_name) {
    if (!args.given(i)) {
        result_.emplace(like);
        return;
    }
    where_ = args.where(i);
    given_ = writeable_view(args[i], where_);
    require_alike(*given_, where_, like, like_name);
}

std::optional<View> Saved::view(const Args& args, const char* name) const {
    if (!object_) return std::nullopt;
    const std::string where = args.where(1) + "." + name;
    const View v = gradfuse::view(object_, where);
    require_alike(v, where, form_, "what the forward was given");
    return v;
}

double number_in(py::handle value, const std::string& where, const Interval& interval) {
    const double v = number_of(value, where);
    if (!interval.contains(v)) fail<py::value_error>(where, " must be ", interval.text, ", got ", number_text(v));
    return v;
}

double number_in(const Args& args, int i, const Interval& interval) {
    const double v = args.number(i);
    return interval.contains(v) ? v : number_in(args[i], args.where(i), interval);
}

std::optional<View> channel_vector(const Args& args, int i, const View& x, std::int64_t channels, bool written) {
    if (!args.given(i)) return std::nullopt;
    const View v = written ? writeable_view(args[i], args.where(i)) : view(args, i);
    require_device(v, args.where(i), x, args.name(0));
    require_length(v, args.where(i), channels);
    require_vector_dtype(args, i, v, x);
    return v;
}

void require_vector_dtype(const Args& args, int i, const View& v, const View& x) {
    const bool half = x.dtype == DType::f16 || x.dtype == DType::bf16;
    if (v.dtype != x.dtype && !(half && v.dtype == DType::f32)) {
        fail<py::type_error>(args.where(i), " must be ", text_of(x.dtype), half ? " or float32" : "", " as ",
                             args.name(0), " is, got ", text_of(v.dtype));
    }
}

std::vector<double> doubles_of(const View& v) {
    std::vector<double> values(std::size_t(v.size));
    Reader<double>(v).load(0, v.size, values.data());
    return values;
}

Dropout dropout_of(const Args& args, int p, Rng& rng, const View& x, Drawn& drawn) {
    const double probability = number_in(args, p, unit_interval);
    Dropout d = plain_dropout(probability);
    if (probability > 0) drawn = rng.next(x);
    d.random = drawn.random;
    return d;
}

}  // namespace gradfuse
