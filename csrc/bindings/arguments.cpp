// How each kind of word reads its argument, and other functions that the bindings share.
#include <algorithm>

#include "bindings/bindings.h"
#include "cpu/tile.h"
#include "formulas/dropout.h"

namespace gradfuse {

View AnArray::read(py::handle object, const Where& where, const View& like) const {
    const View v = view(object, where);
    require_alike(v, where, like, like.name);
    return v;
}

View AnArray::read(py::handle object, const Where& where, const View& x, const Shape& shape) const {
    const View v = view(object, where);
    require_device(v, where, x, x.name);
    require_shape(v, where, shape);
    const bool half = x.dtype == DType::f16 || x.dtype == DType::bf16;
    if (v.dtype != x.dtype && !(half && v.dtype == DType::f32)) {
        fail<py::type_error>(where, " must be ", text_of(x.dtype), half ? " or float32" : "", " as ", x.name,
                             " is, got ", text_of(v.dtype));
    }
    return v;
}

py::tuple ListOfArrays::read(py::handle object, const Where& where) const {
    if (!PyList_Check(object.ptr()) && !PyTuple_Check(object.ptr())) {
        fail<py::type_error>(where, " must be a list or tuple of arrays, got ", describe(object));
    }
    return py::tuple(py::reinterpret_borrow<py::object>(object));
}

std::string Integer::limits() const {
    if (high < INT64_MAX) return " in [" + std::to_string(low) + ", " + std::to_string(high) + "]";
    return low > INT64_MIN ? " >= " + std::to_string(low) : "";
}

std::int64_t Integer::read(py::handle object, const Where& where) const {
    const std::int64_t n = integer_of(object, where);
    if (n < low || n > high) fail<py::value_error>(where, " must be", limits(), ", got ", n);
    return n;
}

int Divisor::read(py::handle object, const Where& where, std::int64_t channels) const {
    const std::int64_t n = integer_of(object, where);
    if (n >= 1 && n <= INT32_MAX && channels % n == 0) return int(n);
    fail<py::value_error>(where, " must be a positive divisor of the ", channels, " channels of x, got ", n);
}

std::string Pair::what() const { return "two integers in [" + std::to_string(low) + ", " + std::to_string(high) + "]"; }

std::pair<std::int64_t, std::int64_t> Pair::read(py::handle object, const Where& where) const {
    const bool is_pair = PyTuple_Check(object.ptr()) || PyList_Check(object.ptr());
    if (!is_pair || py::len(object) != 2) fail<py::type_error>(where, " must be two integers, got ", describe(object));
    const py::tuple both(py::reinterpret_borrow<py::object>(object));
    const std::pair<std::int64_t, std::int64_t> p{integer_of(both[0], where), integer_of(both[1], where)};
    if (std::min(p.first, p.second) < low || std::max(p.first, p.second) > high) {
        fail<py::value_error>(where, " must be ", what(), ", got (", p.first, ", ", p.second, ")");
    }
    return p;
}

bool Flag::read(py::handle object, const Where& where) const {
    if (object.ptr() == Py_True || object.ptr() == Py_False) return object.ptr() == Py_True;
    fail<py::type_error>(where, " must be True or False, got ", describe(object));
}

std::string choices_text(const char* const (&names)[3]) {
    const std::string last =
        names[2] ? std::string("', '") + names[1] + "' or '" + names[2] : std::string("' or '") + names[1];
    return std::string("'") + names[0] + last + "'";
}

int choice_of(py::handle object, const Where& where, const char* const (&names)[3]) {
    if (!PyUnicode_Check(object.ptr())) fail<py::type_error>(where, " must be a string, got ", describe(object));
    const std::string text = utf8(object);
    for (int k = 0; k < 3 && names[k]; ++k) {
        if (text == names[k]) return k;
    }
    fail<py::value_error>(where, " must be ", choices_text(names), ", got '", text, "'");
}

std::vector<int> Axes::read(py::handle object, const Where& where, const View& x) const {
    if (!PyTuple_Check(object.ptr()) && !PyList_Check(object.ptr())) return {arg::axis.kind.read(object, where, x)};
    std::vector<int> axes;
    for (const py::handle item : object) axes.push_back(arg::axis.kind.read(item, where, x));
    std::sort(axes.begin(), axes.end());
    if (axes.empty() || std::adjacent_find(axes.begin(), axes.end()) != axes.end()) {
        fail<py::value_error>(where, " must name at least one axis, each only once, got ",
                              std::string(py::repr(object)));
    }
    return axes;
}

Output::Output(const Args& args, const View& like, Views inputs, Views apart) : given_(args(arg::out)) {
    if (!given_) {
        result_.emplace(like);
        return;
    }
    const Where where = args.where(arg::out);
    require_alike(*given_, where, like, like.name);
    require_no_overlap(*given_, where, like, like.name);
    for (const View* const in : inputs) {
        if (in) require_no_overlap(*given_, where, *in, in->name);
    }
    for (const View* const other : apart) {
        if (other) require_apart(*given_, where, *other);
    }
}

std::optional<View> Saved::view(const Args& args, const char* name) const {
    if (!object_) return std::nullopt;
    const Where where{args.function(), "ctx", ".", name};
    const View v = gradfuse::view(object_, where);
    require_alike(v, where, form_, "what the forward was given");
    return v;
}

std::vector<double> doubles_of(const View& v) {
    Reading::check();
    std::vector<double> values(std::size_t(v.size));
    Reader<double>(v).load(0, v.size, values.data());
    return values;
}

Dropout dropout_of(const Args& args, const View& x, Drawn& drawn) {
    const Rng rng = args(arg::rng);
    const double p = args(arg::dropout);
    Dropout d = plain_dropout(p);
    if (p > 0) drawn = rng.next(x);
    d.random = drawn.random;
    return d;
}

}  // namespace gradfuse
