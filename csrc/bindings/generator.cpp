#include "bindings/bindings.h"
#include "bindings/fork.h"

namespace gradfuse {

namespace {

bool is_integer(py::handle value) { return PyIndex_Check(value.ptr()) && !PyBool_Check(value.ptr()); }

std::uint64_t word(py::handle value, const Where& where) {
    if (!is_integer(value)) fail<py::type_error>(where, " must be an integer, got ", describe(value));
    if (!PyLong_CheckExact(value.ptr())) Reading::note_foreign_code();
    const auto index = py::reinterpret_steal<py::object>(PyNumber_Index(value.ptr()));
    const unsigned long long v = index ? PyLong_AsUnsignedLongLong(index.ptr()) : 0;
    if (PyErr_Occurred()) {
        clear_error();
        fail<py::value_error>(where, " must be in [0, 2**64), got ", std::string(py::str(value)));
    }
    return v;
}

// The arguments of a method, in the order of the names; null where one is missing. pybind11 would end the process on a
// keyword without UTF-8, and its messages are pages.
using Given = std::vector<py::object>;
Given arguments(const char* function, std::initializer_list<const char*> names, const py::args& by_place,
                const py::kwargs& by_name) {
    if (by_place.size() > names.size()) {
        fail<py::type_error>(function, ": takes at most ", names.size(), " arguments, got ", by_place.size());
    }
    Given given(names.size());
    for (std::size_t i = 0; i < by_place.size(); ++i) given[i] = by_place[i];
    for (const auto& [name, value] : by_name) {
        const auto place = std::find(names.begin(), names.end(), utf8(name));
        if (place == names.end()) fail<py::type_error>(function, ": unexpected argument '", utf8(name), "'");
        py::object& at = given[std::size_t(place - names.begin())];
        if (at) fail<py::type_error>(function, ": argument ", *place, " given twice");
        at = py::reinterpret_borrow<py::object>(value);
    }
    return given;
}
void require(const py::object& given, const char* function, const char* name) {
    if (!given) fail<py::type_error>(function, ": missing argument ", name);
}

void refuse_capture(const char* text) {
    if (devices::is_capturing()) fail<py::value_error>(text, " while a CUDA graph is captured");
}

// The numbers of a state, checked.
Generator generator_of(const py::object& given) {
    if (!py::isinstance<py::dict>(given)) {
        fail<py::type_error>("Generator.load_state_dict: state must be a dict, got ", describe(given));
    }
    const auto state = given.cast<py::dict>();
    if (!state.contains("seed") || !state.contains("stream") || state.size() != 2) {
        fail<py::value_error>("Generator.load_state_dict: state must have the keys seed and stream, got ",
                              std::string(py::str(py::list(state))));
    }
    const std::uint64_t seed = word(state["seed"], {"Generator.load_state_dict", "seed"});
    return Generator(seed, word(state["stream"], {"Generator.load_state_dict", "stream"}));
}

py::dict generator_state(const Generator& g) {
    py::dict state;
    state["seed"] = g.seed();
    state["stream"] = g.stream();
    return state;
}

}  // namespace

Drawn Generator::next(const View& x) {
    if (!capturable_) {
        if (x.on_device())
            compute(x, [](const Backend&) { refuse_capture("Generator: capturable must be True, got False"); });
        return {{seed_, stream_++, nullptr}, nullptr};
    }
    if (!x.on_device()) {
        fail<py::value_error>("Generator: a capturable generator draws for arrays on CUDA devices, got one on the CPU");
    }
    if (!count_) {
        const auto count = std::make_shared<Workspace>(x, std::int64_t(sizeof stream_));
        compute(x, [&](const Backend&) {
            refuse_capture("Generator: must have drawn before, got the first draw");
            devices::write(count->data(), &stream_, sizeof stream_);
        });
        count_ = count;
        device_ = x.device;
    }
    if (x.device != device_) {
        fail<py::value_error>("Generator: a capturable generator draws on the device of its first draw, CUDA device ",
                              device_, ", got an array on ", device_text(x));
    }
    Drawn drawn{{seed_, 0, nullptr}, std::make_shared<Workspace>(x, std::int64_t(sizeof stream_))};
    auto* const slot = static_cast<std::uint64_t*>(drawn.slot->data());
    compute(x,
            [&, count = count_](const Backend&) { devices::draw(static_cast<std::uint64_t*>(count->data()), slot); });
    drawn.random.on_device = slot;
    return drawn;
}

std::uint64_t Generator::stream() const {
    std::uint64_t now = stream_;
    if (const auto count = count_) {
        const WithoutGil without_gil;
        devices::read(device_, &now, count->data(), sizeof now);
    }
    return now;
}

void Generator::take(const Generator& state) {
    seed_ = state.seed_;
    stream_ = state.stream_;
    if (const auto count = count_) {  // a captured graph may still use this count
        const WithoutGil without_gil;
        devices::set(device_, count->data(), &stream_, sizeof stream_);
    }
}

Rng Random::read(py::handle object, const Where& where) const {
    if (object.is_none()) {
        static Generator process(0);
        static int seeded_in = -1;  // a child process gets another seed
        if (seeded_in != forks()) {
            process = Generator(py::module_::import("secrets").attr("randbits")(64).cast<std::uint64_t>());
            seeded_in = forks();
        }
        return Rng(process);
    }
    if (py::isinstance<Generator>(object)) return Rng(object.cast<Generator&>());
    if (is_integer(object)) return Rng(word(object, where));
    fail<py::type_error>(where, " must be a Generator, an integer seed or None, got ", describe(object));
}

void register_generator(py::module_& m) {
    py::class_<Generator>(m, "Generator",
                          "A source of random streams: dropout and RReLU draw one stream number per call.\n\n"
                          "A mask depends only on (seed, stream, element). It is the same for every device, thread "
                          "count and dtype.\ncapturable=True keeps the count of streams on the GPU that first draws "
                          "one, so that each replay of a CUDA graph draws new numbers; reading `stream` then waits "
                          "for that GPU.\nThe random bits are those of Philox4x32-10 (Salmon et al. 2011).")
        .def(py::init([](const py::args& by_place, const py::kwargs& by_name) {
            const Given given = arguments("Generator", {"seed", "capturable"}, by_place, by_name);
            require(given[0], "Generator", "seed");
            const bool capturable = given[1] && Flag().read(given[1], {"Generator", "capturable"});
            return Generator(word(given[0], {"Generator", "seed"}), 0, capturable);
        }))
        .def_property_readonly("seed", &Generator::seed, "The 64-bit seed.")
        .def_property_readonly("stream", &Generator::stream, "The next call's stream number.")
        .def_property_readonly("capturable", &Generator::capturable, "Whether CUDA graphs may capture its draws.")
        .def(
            "state_dict",
            [](const Generator& g, const py::args& by_place, const py::kwargs& by_name) {
                arguments("Generator.state_dict", {}, by_place, by_name);
                return generator_state(g);
            },
            "The state, as {'seed': int, 'stream': int}.")
        .def(
            "load_state_dict",
            [](Generator& g, const py::args& by_place, const py::kwargs& by_name) {
                const Given given = arguments("Generator.load_state_dict", {"state"}, by_place, by_name);
                require(given[0], "Generator.load_state_dict", "state");
                g.take(generator_of(given[0]));
            },
            "Restores a state from state_dict().")
        .def("__repr__",
             [](const Generator& g) {
                 return "Generator(seed=" + std::to_string(g.seed()) + ", stream=" + std::to_string(g.stream()) + ")";
             })
        .def(py::pickle([](const Generator& g) { return py::make_tuple(generator_state(g), g.capturable()); },
                        [](const py::tuple& pickled) {
                            Generator g(0, 0, pickled[1].cast<bool>());
                            g.take(generator_of(pickled[0]));
                            return g;
                        }));
}

}  // namespace gradfuse
