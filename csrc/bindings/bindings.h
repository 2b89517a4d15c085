// What the register_*.cpp files share.
#pragma once

#include <optional>
#include <utility>

#include "bindings/array_caster.h"
#include "bindings/gil.h"
#include "bindings/reading.h"
#include "bindings/vocabulary.h"
#include "core/backend.h"
#include "core/devices.h"

namespace gradfuse {

const Backend& cpu_backend();  // for the instruction set in use

// Calls f(backend) for the device of `on`. On a GPU the work is queued on the current stream of the array's library,
// and the call does not wait for it.
template <class F>
void compute(const View& on, std::int64_t elements, const F& f) {
    // A call with more elements than this, or on a GPU (the queue may be full), lets other Python threads run.
    constexpr std::int64_t release_gil_above = 16384;
    Reading::check();
    if (on.on_device()) {
        std::vector<Workspace> workspaces;
        const devices::Scope scope(on.device, stream_of(on), [&](std::int64_t bytes) {
            const WithGil with_gil;
            return workspaces.emplace_back(on, bytes).data();
        });
        const WithoutGil without_gil;
        f(devices::backend());
    } else if (elements > release_gil_above) {
        const WithoutGil without_gil;
        f(cpu_backend());
    } else {
        f(cpu_backend());
    }
}
template <class F>
void compute(const View& on, const F& f) {
    compute(on, on.size, f);
}

inline const View* pointer_to(const std::optional<View>& v) { return v ? &*v : nullptr; }

// The array that a function writes: `out`, after its checks, or a new array like `like`. `out` may be `like` or one of
// `inputs`. It must not overlap the arrays `apart`.
class Output {
public:
    using Views = std::initializer_list<const View*>;
    Output(const Args& args, const View& like, Views inputs = {}, Views apart = {});

    const View& array() const { return given_ ? *given_ : result_->array(); }
    py::object finish() const {
        return given_ ? py::reinterpret_borrow<py::object>(given_->object) : result_->finish();
    }

private:
    std::optional<View> given_;
    std::optional<Result> result_;
};

std::vector<double> doubles_of(const View& v);  // the elements of an array on the CPU

// What the forward called `forward` saves for its backward.
struct Context {
    Context(const Args& args) : forward(args.function()) {}
    const char* forward;
};

// The context argument: TypeError if it was not returned by the forward.
template <class Kind>
const Kind& context_of(const Args& args, const std::string& forward) {
    const py::handle given = args(arg::ctx);
    if (py::isinstance<Kind>(given) && given.cast<const Kind&>().forward == forward) return given.cast<const Kind&>();
    fail<py::type_error>(args.where(arg::ctx), " must be the context that ", forward, " returned, got ",
                         describe(given));
}
template <class Kind>
const Kind& context_of(const Args& args) {  // for functions called "..._backward"
    const std::string function = args.function();
    return context_of<Kind>(args, function.substr(0, function.find("backward")) + "forward");
}

// For a class whose objects hold Python objects: the garbage collector sees those that Kind::traverse(f) calls f with.
// They need not be cleared: in every cycle there is another object that can be.
template <class Kind>
py::custom_type_setup garbage_collected() {
    return py::custom_type_setup([](PyHeapTypeObject* type) {
        type->ht_type.tp_flags |= Py_TPFLAGS_HAVE_GC;
        type->ht_type.tp_traverse = [](PyObject* self, visitproc visit, void* arg) {
            int stop = visit(reinterpret_cast<PyObject*>(Py_TYPE(self)), arg);
            auto* const instance = reinterpret_cast<py::detail::instance*>(self);
            if (stop || !instance->get_value_and_holder().holder_constructed()) return stop;
            py::cast<const Kind&>(py::handle(self)).traverse([&](py::handle o) {
                if (o && !stop) stop = visit(o.ptr(), arg);
            });
            return stop;
        };
    });
}

// An array that a context keeps: the caller's array, not a copy. Absent if the forward had no such argument.
class Saved {
public:
    Saved() = default;
    Saved(const View& v) : object_(py::reinterpret_borrow<py::object>(v.object)), form_(v) {}
    Saved(const std::optional<View>& v) {
        if (v) *this = *v;
    }

    py::handle object() const { return object_; }
    // ValueError if its shape or dtype has changed since the forward.
    std::optional<View> view(const Args& args, const char* name) const;

private:
    py::object object_;
    Array form_;
};

// The random stream of one call. With a capturable generator `slot` is GPU memory with the stream's number.
struct Drawn {
    RandomStream random;
    std::shared_ptr<Workspace> slot;
};

// A source of random streams: the seed, and the number of streams drawn so far. A capturable one counts on the device.
class Generator {
public:
    explicit Generator(std::uint64_t seed, std::uint64_t stream = 0, bool capturable = false)
        : seed_(seed), stream_(stream), capturable_(capturable) {}

    Drawn next(const View& x);
    std::uint64_t seed() const { return seed_; }
    std::uint64_t stream() const;
    bool capturable() const { return capturable_; }
    void take(const Generator& state);  // seed and stream

private:
    std::uint64_t seed_, stream_;
    bool capturable_;
    int device_ = cpu_device;
    std::shared_ptr<Workspace> count_;
};

// The source of a call's random stream: a Generator or a seed.
class Rng {
public:
    explicit Rng(Generator& generator) : generator_(&generator) {}
    explicit Rng(std::uint64_t seed) { seed_.seed = seed; }
    Drawn next(const View& x) const { return generator_ ? generator_->next(x) : Drawn{seed_, nullptr}; }

private:
    Generator* generator_ = nullptr;
    RandomStream seed_;
};

// The dropout for a probability: which random half-words mean "keep", and the scale that preserves the expectation.
// Draws a stream if one is needed.
Dropout dropout_of(const Args& args, const View& x, Drawn& drawn);

void register_generator(py::module_& m);
void register_internal(py::module_& m);
void register_activations(py::module_& m);
void register_gates(py::module_& m);
void register_random(py::module_& m);
void register_prelu(py::module_& m);
void register_maxout(py::module_& m);
void register_channels(py::module_& m);
void register_rows(py::module_& m);
void register_losses(py::module_& m);
void register_norms(py::module_& m);
void register_optimizers(py::module_& m);

}  // namespace gradfuse
