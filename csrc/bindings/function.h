// Functions of the module: declared with words, called through CPython's vectorcall.
//
// pybind11's argument conversion takes longer than a small kernel. Here a call only assigns its arguments to slots. A
// declaration lists its parameters as Python does. Each is a word of the vocabulary (vocabulary.h), which has a name, a
// type and the valid values:
//
//     define(m, "glu_forward", {x, activation = "sigmoid", keyword_only, axis = -1}, "tuple[Array, Any]", ...);
//
// The binding, the documentation, the stub and the error messages are made from the declaration. The body reads an
// argument through the same word, args(arg::axis, x), which checks it.
#pragma once

#include <pybind11/pybind11.h>

#include <algorithm>
#include <cstdint>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "core/info.h"

namespace gradfuse {

namespace py = pybind11;

// Throws TypeError or ValueError; the parts together are one sentence.
template <class Error, class... Parts>
[[noreturn]] void fail(const Parts&... parts) {
    std::ostringstream text;
    (text << ... << parts);
    throw Error(text.str());
}

// The place of an error: "elu: alpha", "Adam.step: grads[3]", "prelu_backward: ctx.x". The text is made only if there
// is an error.
struct Where {
    const char *function, *argument = "", *separator = "", *part = "";
    std::int64_t item = -1;

    Where operator[](std::size_t i) const { return {function, argument, separator, part, std::int64_t(i)}; }
    friend std::ostream& operator<<(std::ostream& text, const Where& w);
};

// ---- declarations

// A parameter of one function: a word, and the default that it has there.
struct Declared {
    const void* word;  // null for the star before the keyword-only parameters
    const char* name;
    std::string type = {}, what = {};
    py::object value = {};  // the default; null if the argument is required
};

// A word's kind reads its argument: kind.type() is the type in a stub, kind.what() describes the valid values, and
// kind.read(object, where, ...) checks a value.
template <class Kind>
Declared declared(const void* word, const char* name, const Kind& kind, py::object value = {}) {
    return {word, name, kind.type(), kind.what(), std::move(value)};
}

template <class Kind>
struct Word {
    const char* name;
    Kind kind = {};

    template <class Value>
    Declared operator=(const Value& value) const {
        return declared(this, name, kind, py::cast(value));
    }
};

struct Signature {
    Signature() = default;
    Signature(Declared parameter) : parameters{std::move(parameter)} {}
    template <class Kind>
    Signature(const Word<Kind>& word) : Signature(declared(&word, word.name, word.kind)) {}
    Signature(const FormulaInfo& info);  // its parameters
    Signature(const NormInfo& info);
    Signature(std::initializer_list<Signature> parts) {
        for (const Signature& part : parts) {
            parameters.insert(parameters.end(), part.parameters.begin(), part.parameters.end());
        }
    }
    bool has(const std::string& name) const {
        return std::any_of(parameters.begin(), parameters.end(), [&](const Declared& p) { return p.name == name; });
    }

    std::vector<Declared> parameters;
};

inline const Declared keyword_only{nullptr, "*"};
constexpr std::nullptr_t none = nullptr;  // Python's, as a default

// The documentation of a function. The valid values of its parameters and the common errors are added from the
// signature.
struct About {
    std::string formula;      // what it computes
    std::string text = "";    // shapes, dtypes and further notes
    std::string source = "";  // the paper or the function that it matches
    std::string errors = "";  // further reasons for a ValueError
};

class Args;
using Body = py::object (*)(const Args&);

// Adds a function with the return type `returns`. Its body can read `tag`, for example the row of a list.
void define(py::module_& m, const std::string& name, const Signature& signature, const std::string& returns,
            const About& about, Body body, int tag = 0);
// Adds a function for gradfuse's Python layer only, not for users.
void define_internal(py::module_& m, const std::string& name, const Signature& signature, const std::string& returns,
                     const About& about, Body body, int tag = 0);

// ---- calls

struct Function {
    std::string name, doc;
    std::vector<const void*> words;
    std::vector<py::object> names, defaults;  // interned names; a null default marks a required argument
    int positional = 0;                       // the number of positional arguments
    Body body = nullptr;
    int tag = 0;
    PyMethodDef definition{};
};

// The arguments of one call.
class Args {
public:
    static constexpr int max_args = 20;

    Args(const Function& f, PyObject* const* values, Py_ssize_t count, PyObject* keywords);

    const char* function() const { return function_.name.c_str(); }
    int tag() const { return function_.tag; }

    // The value read by the word's kind, which may need `more`.
    template <class Kind, class... More>
    auto operator()(const Word<Kind>& word, const More&... more) const {
        return word.kind.read(value(&word), where(word), more...);
    }
    // None if the function has no such parameter.
    py::handle value(const void* word) const {
        for (std::size_t i = 0; i < function_.words.size(); ++i) {
            if (function_.words[i] == word) return slots_[i];
        }
        return Py_None;
    }
    template <class Named>
    Where where(const Named& named) const {
        return {function(), named.name};
    }

private:
    const char* name(int i) const { return PyUnicode_AsUTF8(function_.names[std::size_t(i)].ptr()); }

    const Function& function_;
    PyObject* slots_[max_args];
};

// Clears the Python error, so that one of ours can take its place. An interrupt, an exit, and an error for want of
// memory or stack is thrown instead: the caller must see those.
void clear_error();

// A Python string as UTF-8, with escapes for what has no UTF-8.
std::string utf8(py::handle text);

// A Python integer but not a bool; TypeError for anything else.
std::int64_t integer_of(py::handle object, const Where& where);

// A Python number, but not a bool or a string; TypeError for anything else. ValueError outside the interval.
double number_of(py::handle object, const Where& where);
double number_in(py::handle object, const Where& where, const Interval& interval);

// A short description of a Python object for error messages: "a list", "array of int64 (3, 4)".
std::string describe(py::handle object);
std::string text_of(double number);

}  // namespace gradfuse
