#include <cstdlib>
#include <set>
#include <string>

#include "bindings/bindings.h"
#include "cpu/parallel.h"

namespace gradfuse {

namespace {

const Backend* chosen = nullptr;

std::string names_of_backends() {
    int count = 0;
    const Backend* const* all = backends(count);
    std::string names;
    for (int k = 0; k < count; ++k) names += (k ? ", " : "") + std::string(all[k]->name);
    return names;
}

// The best this processor can run, or what GRADFUSE_ISA asks for.
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
    register_windows(m);
    register_optimizers(m);
    define(m, "set_num_threads(n)",
           "The number of threads a call may use, this thread included. Results do not depend on it.\n\n"
           "Raises TypeError or ValueError for anything but an integer of at least 1 and at most 1024.",
           [](const Args& args) {
               const std::int64_t n = args.integer(0);
               if (n < 1 || n > 1024) fail<py::value_error>(args.where(0), " must be in [1, 1024], got ", n);
               set_num_threads(int(n));
               return py::object(py::none());
           });
    define(m, "get_num_threads()", "The number of threads a call may use.",
           [](const Args&) { return py::object(py::int_(get_num_threads())); });
    define(m, "build_info()", "How this core was built and what it runs on, as a dict.", [](const Args&) {
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

    // What gradfuse itself offers of this; the rest serves its Python layer.
    py::list names;
    for (const auto& [key, value] : m.attr("__dict__").cast<py::dict>()) {
        const auto name = key.cast<std::string>();
        static const std::set<std::string> internal{
            "build_info",     "Plan",        "optimizer_list", "optimizer_slots", "activation_info",
            "gather_windows", "add_windows", "copy_elements",  "row_operations",  "row_info",
            "norms",          "norm_info",   "losses"};
        if (name[0] != '_' && !internal.count(name) && (name == "Generator" || !py::isinstance<py::type>(value)))
            names.append(key);
    }
    m.attr("__all__") = names;
}
