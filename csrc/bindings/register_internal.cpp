// What gradfuse's Python layer asks of a device beside the operations.
#include "bindings/bindings.h"

namespace gradfuse {

namespace {

py::object copy_elements(const Args& args) {
    const View x = view(args, 0), to = writeable_view(args[1], args.where(1));
    if (!x.on_device()) fail<py::value_error>(args.where(0), " must be on a CUDA device, got an array on the CPU");
    require_alike(to, args.where(1), x, "x");
    require_no_overlap(to, args.where(1), x, "x");
    compute(x, [&](const Backend&) { devices::copy_elements(x, to); });
    return py::none();
}

}  // namespace

void register_internal(py::module_& m) {
    define(m, "copy_elements(x, to)",
           "Copies x to another array of its shape and dtype on its CUDA device; both may have any layout.",
           copy_elements);
}

}  // namespace gradfuse
