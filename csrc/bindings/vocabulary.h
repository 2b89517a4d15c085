// The words that functions are declared with. A kind gives an argument's type, reads the argument and checks it; an
// error is one sentence. Further conditions are given where a word is declared (an interval) or where it is read (an
// array that must have the shape of another).
#pragma once

#include <optional>
#include <utility>
#include <vector>

#include "bindings/array_caster.h"
#include "core/backend.h"

namespace gradfuse {

class Rng;

// Any object: the body checks it.
struct Anything {
    const char* python = "Any";
    std::string type() const { return python; }
    std::string what() const { return ""; }
    py::handle read(py::handle object, const Where&) const { return object; }
};

struct AnArray {
    std::string type() const { return "Array"; }
    std::string what() const { return ""; }
    View read(py::handle object, const Where& where) const { return view(object, where); }
    // With the shape, dtype and device of another array.
    View read(py::handle object, const Where& where, const View& like) const;
    // One number per channel or column: with this shape, on the device of x, and with its dtype (or float32 if x has
    // half precision).
    View read(py::handle object, const Where& where, const View& x, const Shape& shape) const;
};

// An array that the function writes.
struct Written {
    std::string type() const { return "Array"; }
    std::string what() const { return ""; }
    View read(py::handle object, const Where& where) const { return writeable_view(object, where); }
};

struct ListOfArrays {
    const char* python = "Sequence[Array]";
    std::string type() const { return python; }
    std::string what() const { return ""; }
    py::tuple read(py::handle object, const Where& where) const;  // keeps the items alive while their views are used
};

struct Number {
    Interval interval;
    std::string type() const { return "float"; }
    std::string what() const { return interval.text; }
    double read(py::handle object, const Where& where) const { return number_in(object, where, interval); }
};

struct Integer {
    std::int64_t low = INT64_MIN, high = INT64_MAX;
    std::string type() const { return "int"; }
    std::string what() const { return "an integer" + limits(); }
    std::string limits() const;
    std::int64_t read(py::handle object, const Where& where) const;
};

struct Divisor {
    std::string type() const { return "int"; }
    std::string what() const { return "a positive divisor of the channels of x"; }
    int read(py::handle object, const Where& where, std::int64_t channels) const;
};

struct Pair {
    std::int64_t low, high;
    std::string type() const { return "tuple[int, int]"; }
    std::string what() const;
    std::pair<std::int64_t, std::int64_t> read(py::handle object, const Where& where) const;
};

struct Flag {
    std::string type() const { return "bool"; }
    std::string what() const { return "True or False"; }
    bool read(py::handle object, const Where& where) const;
};

// The names of an enumeration's values, in the same order.
std::string choices_text(const char* const (&names)[3]);
int choice_of(py::handle object, const Where& where, const char* const (&names)[3]);
template <class Enum>
struct Choice {
    const char* names[3];
    std::string type() const { return "str"; }
    std::string what() const { return choices_text(names); }
    Enum read(py::handle object, const Where& where) const { return Enum(choice_of(object, where, names)); }
};

struct Axis {
    std::string type() const { return "int"; }
    std::string what() const { return "an axis, negative ones counted from the end"; }
    int read(py::handle object, const Where& where, const View& x) const {
        return require_axis(integer_of(object, where), where, x);
    }
};

// Reads axes in ascending order.
struct Axes {
    std::string type() const { return "int | tuple[int, ...]"; }
    std::string what() const { return "an axis or a tuple of them, negative ones counted from the end"; }
    std::vector<int> read(py::handle object, const Where& where, const View& x) const;
};

struct AnActivation {
    std::string type() const { return "str | tuple[str, dict[str, float]] | None"; }
    std::string what() const { return "a name of gradfuse.activations(), a pair (name, {parameter: value}) or None"; }
    Activation read(py::handle object, const Where& where) const;
};

struct Random {
    std::string type() const { return "Generator | int | None"; }
    std::string what() const {
        return "a Generator, an integer seed (stream 0), or None for the generator of the process, seeded by the "
               "system";
    }
    Rng read(py::handle object, const Where& where) const;
};

template <class Kind>
struct Optional {
    Kind kind = {};
    std::string type() const { return kind.type() + " | None"; }
    std::string what() const {
        const std::string what = kind.what();
        return what.empty() ? "" : what + " or None";
    }
    template <class... More>
    auto read(py::handle object, const Where& where, const More&... more) const {
        return object.is_none() ? std::nullopt : std::optional(kind.read(object, where, more...));
    }
};

namespace arg {

inline constexpr Word<AnArray> x{"x"}, grad_out{"grad_out"}, saved{"saved"}, y{"y"}, a{"a"}, gate{"gate"}, pred{"pred"},
    target{"target"};
inline constexpr Word<Optional<AnArray>> weight{"weight"}, bias{"bias"}, residual{"residual"}, add{"add"},
    grad_total{"grad_total"};
inline constexpr Word<Optional<Written>> out{"out"};
inline constexpr Word<Anything> ctx{"ctx"}, name{"name", {"str"}};
inline constexpr Word<Number> eps{"eps", {at_least_zero}}, dropout{"dropout", {unit_interval}};
inline constexpr Word<Axis> axis{"axis"};
inline constexpr Word<Axes> axes{"axis"};
inline constexpr Word<AnActivation> activation{"activation"};
inline constexpr Word<Random> rng{"rng"};
inline constexpr Word<Choice<Reduction>> reduction{"reduction", {{"none", "mean", "sum"}}};
inline constexpr Word<Choice<Nonfinite>> nonfinite{"nonfinite", {{"propagate", "skip", "raise"}}};

}  // namespace arg

}  // namespace gradfuse
