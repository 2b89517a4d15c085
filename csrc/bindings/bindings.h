// What the register_*.cpp files share.
#pragma once

#include <optional>
#include <utility>

#include "bindings/array_caster.h"
#include "bindings/function.h"
#include "core/backend.h"
#include "core/devices.h"

namespace gradfuse {

const Backend& cpu_backend();  // of the instruction set in use

// Calls f(backend) for the device of `on`: on one beside the CPU in its owner's stream, and not waiting for it.
template <class F>
void compute(const View& on, std::int64_t elements, const F& f) {
    // Above this many elements, and on a device that may be busy, a call lets other Python threads run.
    constexpr std::int64_t release_gil_above = 16384;
    if (on.on_device()) {
        std::vector<Workspace> workspaces;
        const devices::Scope scope(on.device, stream_of(on), [&](std::int64_t bytes) {
            const py::gil_scoped_acquire acquire;
            return workspaces.emplace_back(on, bytes).data();
        });
        const py::gil_scoped_release release;
        f(devices::backend());
    } else if (elements > release_gil_above) {
        const py::gil_scoped_release release;
        f(cpu_backend());
    } else {
        f(cpu_backend());
    }
}
template <class F>
void compute(const View& on, const F& f) {
    compute(on, on.size, f);
}

// Where a function writes: the array given as `out`, once checked, or a new one like `like`.
class Output {
public:
    Output(const Args& args, int i, const View& like, const char* like_name);

    const View& array() const { return given_ ? *given_ : result_->array(); }
    py::object finish() const {
        return given_ ? py::reinterpret_borrow<py::object>(given_->object) : result_->finish();
    }
    void require_no_overlap_with(const View& in, const char* in_name) const {
        if (given_) require_no_overlap(*given_, where_, in, in_name);
    }

private:
    std::optional<View> given_;
    std::optional<Result> result_;
    std::string where_;
};

// An optional array argument with one value per channel. Half-precision x may come with float32 ones.
std::optional<View> channel_vector(const Args& args, int i, const View& x, std::int64_t channels, bool written = false);
void require_vector_dtype(const Args& args, int i, const View& v,
                          const View& x);       // that of x, or float32 for half types
std::vector<double> doubles_of(const View& v);  // the elements of an array on the CPU

inline const Array* pointer_to(const std::optional<View>& v) { return v ? &*v : nullptr; }

double number_in(const Args& args, int i, const Interval& interval);
double number_in(py::handle value, const std::string& where, const Interval& interval);

// What a forward leaves for its backward. `tag` tells the functions apart that share a kind of context.
struct Context {
    int tag;
};

// The context argument of a "..._backward": TypeError unless it is one that its own forward returned.
template <class Kind>
const Kind& context_of(const Args& args, int i) {
    if (!py::isinstance<Kind>(args[i]) || args[i].cast<const Kind&>().tag != args.tag()) {
        const std::string function = args.function();
        fail<py::type_error>(args.where(i), " must be the context that ",
                             function.substr(0, function.find("_backward")), "_forward returned, got ",
                             describe(args[i]));
    }
    return args[i].cast<const Kind&>();
}

// An array that a context keeps: the caller's own, no copy. Absent where the forward was given none.
class Saved {
public:
    Saved() = default;
    explicit Saved(const View& v) : object_(py::reinterpret_borrow<py::object>(v.object)), form_(v) {}
    explicit Saved(const std::optional<View>& v) {
        if (v) *this = Saved(*v);
    }

    // ValueError where its shape or dtype is no longer what the forward was given.
    std::optional<View> view(const Args& args, const char* name) const;

private:
    py::object object_;
    Array form_;
};

// The stream of one call, and on a device the place of its number.
struct Drawn {
    RandomStream random;
    std::shared_ptr<Workspace> slot;
};

// A random stream source: seed, and how many streams have been handed out. A capturable one counts on the device.
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

// The stream for one call from an argument that is a Generator, a seed, or None for the process's own generator.
class Rng {
public:
    Rng(const Args& args, int i);
    Drawn next(const View& x) { return generator_ ? generator_->next(x) : Drawn{seed_, nullptr}; }

private:
    Generator* generator_ = nullptr;
    RandomStream seed_;
};

// None, a name of the list, or a pair (name, {parameter: value}).
Activation activation_of(const Args& args, int i);

// Of a probability p: which half-words are kept and the scale that keeps the expectation. The stream is drawn if
// needed.
Dropout dropout_of(const Args& args, int p, Rng& rng, const View& x, Drawn& drawn);

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
void register_windows(py::module_& m);
void register_optimizers(py::module_& m);

}  // namespace gradfuse
