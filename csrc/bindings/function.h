// Functions of the module: declared with words, called through CPython's vectorcall.
//
// pybind11's own argument conversion costs more than a small kernel; here a call binds its arguments to places and
// nothing else. A declaration lists its parameters as Python does, each a word of the vocabulary (vocabulary.h) that
// knows its name, its type and what its value must be:
//
//     define(m, "glu_forward", {x, activation = "sigmoid", keyword_only, axis = -1}, "tuple[Array, Any]", ...);
//
// Names and defaults for the binding, the documentation, the stub and the words of errors come from there. The body
// reads an argument by the same word, args(arg::axis, x), which checks it.
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

// Throws TypeError or ValueError with one sentence made of the parts.
template <class Error, class... Parts>
[[noreturn]] void fail(const Parts&... parts) {
    std::ostringstream text;
    (text << ... << parts);
    throw Error(text.str());
}

// Where an error is: "elu: alpha", "Adam.step: grads[3]", "prelu_backward: ctx.x". Text is made only for an error.
struct Where {
    const char *function, *argument = "", *separator = "", *part = "";
    std::int64_t item = -1;

    Where operator[](std::size_t i) const { return {function, argument, separator, part, std::int64_t(i)}; }
    friend std::ostream& operator<<(std::ostream& text, const Where& w);
};

// ---- declarations

// A parameter of one function: a word, and the default that it has there.
struct Declared {
    const void* word;  // none for the star before what is given by keyword alone
    const char* name;
    std::string type = {}, what = {};
    py::object value = {};  // none where it must be given
};

// A word is read by its kind: kind.type() is its type in a stub, kind.what() says what a value must be beside that, and
// kind.read(object, where, ...) checks one.
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

// What a function says of itself. What its parameters must be, and the common errors, are added from the signature.
struct About {
    std::string formula;      // what it computes
    std::string text = "";    // shapes, dtypes, and what else there is to know
    std::string source = "";  // the paper or function matched
    std::string errors = "";  // further reasons of a ValueError
};

class Args;
using Body = py::object (*)(const Args&);

// Adds a function that returns a type; its body finds `tag` again, such as the row of a list.
void define(py::module_& m, const std::string& name, const Signature& signature, const std::string& returns,
            const About& about, Body body, int tag = 0);
// One that serves gradfuse's Python layer and is not offered to users.
void define_internal(py::module_& m, const std::string& name, const Signature& signature, const std::string& returns,
                     const About& about, Body body, int tag = 0);

// ---- calls

struct Function {
    std::string name, doc;
    std::vector<const void*> words;
    std::vector<py::object> names, defaults;  // interned names; a null default marks a required argument
    int positional = 0;                       // how many may be given by position
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

    // What the word's kind reads; `more` is what it must know for that.
    template <class Kind, class... More>
    auto operator()(const Word<Kind>& word, const More&... more) const {
        return word.kind.read(value(&word), where(word), more...);
    }
    // None where the function has no such parameter.
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

// A Python integer, no bool; TypeError for anything else.
std::int64_t integer_of(py::handle object, const Where& where);

// A Python number, no bool and no text; TypeError for anything else. ValueError outside of an interval.
double number_of(py::handle object, const Where& where);
double number_in(py::handle object, const Where& where, const Interval& interval);

// A short description of a Python object for error messages: "a list", "array of int64 (3, 4)".
std::string describe(py::handle object);
std::string text_of(double number);

}  // namespace gradfuse
