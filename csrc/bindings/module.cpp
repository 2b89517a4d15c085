#include <cstdlib>
#include <string>

#include "bindings/bindings.h"
#include "cpu/parallel.h"

namespace gradfuse {

namespace arg {
constexpr Word<Integer> n{"n", {1, 1024}};
}

namespace {

const Backend* chosen = nullptr;

std::string names_of_backends() {
    int count = 0;
    const Backend* const* all = backends(count);
    std::string names;
    for (int k = 0; k < count; ++k) names += (k ? ", " : "") + std::string(all[k]->name);
    return names;
}

// The best instruction set of this processor, or the one in GRADFUSE_ISA.
void choose_backend() {
    int count = 0;
    const Backend* const* all = backends(count);
    chosen = all[count - 1];
    const char* const wanted = std::getenv("GRADFUSE_ISA");
    if (!wanted || !*wanted) return;
    for (int k = 0; k < count; ++k) {
        if (std::string(wanted) == all[k]->name) {
            chosen = all[k];
            return;
        }
    }
    fail<py::value_error>("GRADFUSE_ISA must be one of ", names_of_backends(), " on this machine, got '", wanted, "'");
}

}  // namespace

const Backend& cpu_backend() { return *chosen; }

}  // namespace gradfuse

PYBIND11_MODULE(_core, m) {
    using namespace gradfuse;
    m.doc() = "The compiled core of gradfuse.";
    m.attr("__all__") = py::make_tuple("Generator").cast<py::list>();
    m.attr("signatures") = py::dict();  // of the functions, with types
    import_numpy();
    choose_backend();
    register_generator(m);
    register_internal(m);
    register_activations(m);
    register_gates(m);
    register_random(m);
    register_prelu(m);
    register_maxout(m);
    register_rows(m);
    register_losses(m);
    register_norms(m);
    register_channels(m);
    register_optimizers(m);
    define(
        m, "set_num_threads", {arg::n}, "None",
        {"Sets the number of threads that a call may use, including the calling thread. Results do not depend on it.",
         "Raises TypeError or ValueError for anything other than:"},
        [](const Args& args) {
            set_num_threads(int(args(arg::n)));
            return py::object(py::none());
        });
    define(m, "get_num_threads", {}, "int", {"The number of threads that a call may use."},
           [](const Args&) { return py::object(py::int_(get_num_threads())); });
    const char* const about = "How this core was built and which devices it can use, as a dict.";
    define_internal(m, "build_info", {}, "dict[str, str]", {about}, [](const Args&) {
        py::dict info;
        info["version"] = GRADFUSE_VERSION;
        info["isa"] = cpu_backend().name;
        info["isas"] = names_of_backends();
        info["built"] = GRADFUSE_BUILT_ISAS;
        info["compiler"] = GRADFUSE_COMPILER;
        info["cuda"] = devices::built();
        info["why_not_cuda"] = devices::why_not();
        return py::object(info);
    });
}
