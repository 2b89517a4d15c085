#include <cmath>

#include "bindings/bindings.h"
#include "formulas/activations/list.h"
#include "formulas/dropout.h"

namespace gradfuse {

namespace {

template <template <class> class... Formulas>
constexpr const ActivationInfo* row_info(int row, List<Formulas...>) {
    const ActivationInfo* rows[] = {&Formulas<float>::info...};
    return rows[row];
}
const ActivationInfo& info_of(int row) { return *row_info(row, Activations{}); }

int parameter_count(const ActivationInfo& info) {
    int n = 0;
    while (n < ActivationInfo::max_parameters && info.parameters[n].name) ++n;
    return n;
}

std::string number_text(double v) { return std::string(py::repr(py::float_(v))); }

void require_order(const ActivationInfo& info, const Activation& a, const std::string& where) {
    if (info.ascending && a.parameters[0] > a.parameters[1]) {
        fail<py::value_error>(where, ": ", info.parameters[0].name, " must be at most ", info.parameters[1].name,
                              ", got ", number_text(a.parameters[0]), " > ", number_text(a.parameters[1]));
    }
}

// The arguments from place `first` on are the row's parameters.
Activation activation_from(const Args& args, int first) {
    const ActivationInfo& info = info_of(args.tag());
    Activation a;
    a.row = args.tag();
    for (int k = 0; k < parameter_count(info); ++k) {
        a.parameters[k] = number_in(args, first + k, info.parameters[k].interval);
    }
    require_order(info, a, args.function());
    return a;
}

py::object forward(const Args& args) {
    const int parameters = parameter_count(info_of(args.tag()));
    const View x = view(args, 0);
    const Activation a = activation_from(args, 1);
    const Output y(args, 1 + parameters, x, "x");
    y.require_no_overlap_with(x, "x");
    compute(x, [&](const Backend& backend) { backend.activation_forward(a, x, y.array()); });
    return y.finish();
}

py::object backward(const Args& args) {
    const int parameters = parameter_count(info_of(args.tag()));
    const View dy = view(args, 0), saved = view(args, 1);
    const Activation a = activation_from(args, 2);
    require_alike(saved, args.where(1), dy, "grad_out");
    const Output dx(args, 2 + parameters, dy, "grad_out");
    dx.require_no_overlap_with(dy, "grad_out");
    dx.require_no_overlap_with(saved, "saved");
    compute(dy, [&](const Backend& backend) { backend.activation_backward(a, dy, saved, dx.array()); });
    return dx.finish();
}

std::string shapes_text(bool backward) {
    return backward ? "grad_out, saved and the result share shape and dtype (float16, bfloat16, float32 or float64)."
                    : "x and the result share shape and dtype (float16, bfloat16, float32 or float64).";
}

void register_activation(py::module_& m, int row) {
    const ActivationInfo& info = info_of(row);
    std::string parameters, limits;
    for (int k = 0; k < parameter_count(info); ++k) {
        const Parameter& p = info.parameters[k];
        parameters += std::string(", ") + p.name + "=" + number_text(p.value);
        limits += std::string("\n") + p.name + " is " + p.interval.text + ".";
    }
    const std::string name = info.name, saved = info.saves == Saves::x ? "x" : "y";
    const std::string errors =
        "\n\nout, if given, receives the result; it may be an input itself.\n"
        "Raises TypeError for a wrong kind or dtype, ValueError for a wrong shape or value or an `out` that cannot be "
        "written.\nSource: " +
        std::string(info.source) + ".";
    define(m, name + "(x" + parameters + ", *, out=None)",
           std::string("y = ") + info.formula + "\n\n" + shapes_text(false) + limits + errors, forward, row);
    define(m, name + "_backward(grad_out, saved" + parameters + ", *, out=None)",
           "dx = grad_out * dy/dx of " + name + ", y = " + info.formula + "\n\nsaved is the forward's " + saved + ". " +
               shapes_text(true) + limits + errors,
           backward, row);
}

// ---- dropout, alpha dropout, rrelu, prelu: their backward needs more than an array

enum DropoutTag { plain_tag, alpha_tag };

struct DropoutContext : Context {
    Dropout backward;
    Array form;  // shape, dtype and device of the forward's array
    Drawn drawn;
};

template <Dropout (*Forward)(double), Dropout (*Backward)(double)>
py::object dropout_forward(const Args& args) {
    const View x = view(args, 0);
    Rng rng(args, 2);
    const double p = number_in(args, 1, unit_interval);
    Dropout forward = Forward(p), backward_op = Backward(p);
    const Result y(x);
    Drawn drawn;
    if (p > 0) drawn = rng.next(x);
    forward.random = backward_op.random = drawn.random;
    compute(x, [&](const Backend& backend) { backend.dropout(forward, x, y.array()); });
    return py::make_tuple(y.finish(), DropoutContext{{args.tag()}, backward_op, x, drawn});
}

py::object dropout_backward(const Args& args) {
    const View dy = view(args, 0);
    const auto& ctx = context_of<DropoutContext>(args, 1);
    require_alike(dy, args.where(0), ctx.form, "x");
    const Result dx(dy);
    compute(dy, [&](const Backend& backend) { backend.dropout(ctx.backward, dy, dx.array()); });
    return dx.finish();
}

struct RReluContext : Context {
    Saved x;
    Drawn drawn;
    double lower, upper;
};

py::object rrelu_forward(const Args& args) {
    enum { x_, lower_, upper_, training_, rng_ };
    const View x = view(args, x_);
    double lower = number_in(args, lower_, finite), upper = number_in(args, upper_, finite);
    if (lower > upper) fail<py::value_error>(args.where(lower_), " must be at most upper, got ", lower, " > ", upper);
    Rng rng(args, rng_);
    const bool training = args.flag(training_);
    const Result y(x);
    const Drawn drawn = training ? rng.next(x) : Drawn{};
    if (!training) lower = upper = (lower + upper) / 2;
    compute(x, [&](const Backend& backend) { backend.rrelu(drawn.random, lower, upper, x, x, y.array()); });
    return py::make_tuple(y.finish(), RReluContext{{args.tag()}, Saved(x), drawn, lower, upper});
}

py::object rrelu_backward(const Args& args) {
    const View dy = view(args, 0);
    const auto& ctx = context_of<RReluContext>(args, 1);
    const View x = *ctx.x.view(args, "x");
    require_alike(dy, args.where(0), x, "x");
    const Result dx(dy);
    compute(dy,
            [&](const Backend& backend) { backend.rrelu(ctx.drawn.random, ctx.lower, ctx.upper, x, dy, dx.array()); });
    return dx.finish();
}

struct PReluContext : Context {
    Saved x, weight;
    ChannelShape shape;
};

py::object prelu_forward(const Args& args) {
    enum { x_, weight_, axis_ };
    const View x = view(args, x_), weight = view(args, weight_);
    require_device(weight, args.where(weight_), x, "x");
    require_dtype(weight, args.where(weight_), x.dtype, "x");
    ChannelShape shape;
    if (weight.ndim == 1 && weight.shape[0] == 1) {
        shape.inner = x.size;
    } else {
        const int axis = axis_of(args, axis_, x);
        if (weight.ndim != 1 || weight.shape[0] != x.shape[axis]) {
            fail<py::value_error>(args.where(weight_), " must have shape (1,) or (", x.shape[axis],
                                  ",), the channels of x, got ", shape_text(weight));
        }
        shape = channel_shape(x, axis);
    }
    const Result y(x);
    compute(x, [&](const Backend& backend) { backend.prelu_forward(shape, x, weight, y.array()); });
    return py::make_tuple(y.finish(), PReluContext{{args.tag()}, Saved(x), Saved(weight), shape});
}

py::object prelu_backward(const Args& args) {
    const View dy = view(args, 0);
    const auto& ctx = context_of<PReluContext>(args, 1);
    const View x = *ctx.x.view(args, "x"), weight = *ctx.weight.view(args, "weight");
    require_alike(dy, args.where(0), x, "x");
    const Result dx(dy), dweight(weight);
    compute(dy, [&](const Backend& backend) {
        backend.prelu_backward(ctx.shape, dy, x, weight, dx.array(), dweight.array());
    });
    return py::make_tuple(dx.finish(), dweight.finish());
}

bool is_integer(py::handle value) { return PyIndex_Check(value.ptr()) && !PyBool_Check(value.ptr()); }

std::uint64_t word(py::handle value, const std::string& where) {
    if (!is_integer(value)) fail<py::type_error>(where, " must be an integer, got ", describe(value));
    const auto index = py::reinterpret_steal<py::object>(PyNumber_Index(value.ptr()));
    const unsigned long long v = index ? PyLong_AsUnsignedLongLong(index.ptr()) : 0;
    if (PyErr_Occurred()) {
        PyErr_Clear();
        fail<py::value_error>(where, " must be in [0, 2**64), got ", std::string(py::str(value)));
    }
    return v;
}

void refuse_capture(const char* text) {
    if (cuda::is_capturing()) fail<py::value_error>(text, " while a CUDA graph is captured");
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
    const std::uint64_t seed = word(state["seed"], "Generator.load_state_dict: seed");
    return Generator(seed, word(state["stream"], "Generator.load_state_dict: stream"));
}

py::dict generator_state(const Generator& g) {
    py::dict state;
    state["seed"] = g.seed();
    state["stream"] = g.stream();
    return state;
}

void register_generator(py::module_& m) {
    py::class_<Generator>(m, "Generator",
                          "A source of random streams: dropout and RReLU draw one stream number per call.\n\n"
                          "A mask is a function of (seed, stream, element) alone, the same on every device, thread "
                          "count and dtype.\ncapturable=True keeps the count of streams on the GPU that first draws "
                          "one, so that each replay of a CUDA graph draws anew; `stream` then waits for that GPU.\n"
                          "The bits are those of Philox4x32-10 (Salmon et al. 2011).")
        .def(py::init([](const py::object& seed, bool capturable) {
                 return Generator(word(seed, "Generator: seed"), 0, capturable);
             }),
             py::arg("seed"), py::arg("capturable") = false)
        .def_property_readonly("seed", &Generator::seed, "The 64-bit seed.")
        .def_property_readonly("stream", &Generator::stream, "The next call's stream number.")
        .def_property_readonly("capturable", &Generator::capturable, "Whether CUDA graphs may capture its draws.")
        .def("state_dict", generator_state, "The state, as {'seed': int, 'stream': int}.")
        .def(
            "load_state_dict", [](Generator& g, const py::object& state) { g.take(generator_of(state)); },
            py::arg("state"), "Takes on a state from state_dict().")
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

py::object copy_elements(const Args& args) {
    const View x = view(args, 0), to = writeable_view(args[1], args.where(1));
    if (!x.on_cuda()) fail<py::value_error>(args.where(0), " must be on a CUDA device, got an array on the CPU");
    require_alike(to, args.where(1), x, "x");
    require_no_overlap(to, args.where(1), x, "x");
    compute(x, [&](const Backend&) { cuda::copy_elements(x, to); });
    return py::none();
}

}  // namespace

Output::Output(const Args& args, int i, const View& like, const char* like_name) {
    if (!args.given(i)) {
        result_.emplace(like);
        return;
    }
    where_ = args.where(i);
    given_ = writeable_view(args[i], where_);
    require_alike(*given_, where_, like, like_name);
}

std::optional<View> Saved::view(const Args& args, const char* name) const {
    if (!object_) return std::nullopt;
    const std::string where = args.where(1) + "." + name;
    const View v = gradfuse::view(object_, where);
    require_alike(v, where, form_, "what the forward was given");
    return v;
}

double number_in(py::handle value, const std::string& where, const Interval& interval) {
    const double v = number_of(value, where);
    if (!interval.contains(v)) fail<py::value_error>(where, " must be ", interval.text, ", got ", number_text(v));
    return v;
}

double number_in(const Args& args, int i, const Interval& interval) {
    const double v = args.number(i);
    return interval.contains(v) ? v : number_in(args[i], args.where(i), interval);
}

Drawn Generator::next(const View& x) {
    if (!capturable_) {
        if (x.on_cuda())
            compute(x, [](const Backend&) { refuse_capture("Generator: capturable must be True, got False"); });
        return {{seed_, stream_++, nullptr}, nullptr};
    }
    if (!x.on_cuda()) {
        fail<py::value_error>("Generator: a capturable one draws for arrays on CUDA devices, got one on the CPU");
    }
    if (!count_) {
        const auto count = std::make_shared<Workspace>(x, std::int64_t(sizeof stream_));
        compute(x, [&](const Backend&) {
            refuse_capture("Generator: must have drawn before, got the first draw");
            cuda::write(count->data(), &stream_, sizeof stream_);
        });
        count_ = count;
        device_ = x.device;
    }
    if (x.device != device_) {
        fail<py::value_error>("Generator: a capturable one draws on the device it first drew on, CUDA device ", device_,
                              ", got an array on ", device_text(x));
    }
    Drawn drawn{{seed_, 0, nullptr}, std::make_shared<Workspace>(x, std::int64_t(sizeof stream_))};
    auto* const slot = static_cast<std::uint64_t*>(drawn.slot->data());
    compute(x, [&, count = count_](const Backend&) { cuda::draw(static_cast<std::uint64_t*>(count->data()), slot); });
    drawn.random.on_device = slot;
    return drawn;
}

std::uint64_t Generator::stream() const {
    std::uint64_t now = stream_;
    if (const auto count = count_) {
        const py::gil_scoped_release release;
        cuda::read(device_, &now, count->data(), sizeof now);
    }
    return now;
}

void Generator::take(const Generator& state) {
    seed_ = state.seed_;
    stream_ = state.stream_;
    if (const auto count = count_) {  // a graph may go on counting there
        const py::gil_scoped_release release;
        cuda::set(device_, count->data(), &stream_, sizeof stream_);
    }
}

Rng::Rng(const Args& args, int i) {
    if (!args.given(i)) {
        static Generator process(py::module_::import("secrets").attr("randbits")(64).cast<std::uint64_t>());
        generator_ = &process;
    } else if (py::isinstance<Generator>(args[i])) {
        generator_ = &args[i].cast<Generator&>();
    } else if (is_integer(args[i])) {
        seed_.seed = word(args[i], args.where(i));
    } else {
        fail<py::type_error>(args.where(i), " must be a Generator, an integer seed or None, got ", describe(args[i]));
    }
}

Activation activation_of(const Args& args, int i) {
    Activation a;
    if (!args.given(i)) return a;
    py::object name = py::reinterpret_borrow<py::object>(args[i]);
    py::dict given;
    if (py::isinstance<py::tuple>(name) && py::len(name) == 2 && py::isinstance<py::dict>(name[py::int_(1)])) {
        given = name[py::int_(1)];
        name = name[py::int_(0)];
    }
    if (!py::isinstance<py::str>(name)) {
        fail<py::type_error>(args.where(i), " must be a name, a pair (name, {parameter: value}) or None, got ",
                             describe(args[i]));
    }
    const std::string wanted = name.cast<std::string>();
    for (int row = 0; row < Activations::size; ++row) {
        if (wanted == info_of(row).name) a.row = row;
    }
    if (a.row < 0) {
        fail<py::value_error>(args.where(i), " must be one of gradfuse.activations(), got '", wanted, "'");
    }
    const ActivationInfo& info = info_of(a.row);
    for (int k = 0; k < parameter_count(info); ++k) a.parameters[k] = info.parameters[k].value;
    for (const auto& [key, value] : given) {
        int k = 0;
        while (k < parameter_count(info) && !key.equal(py::str(info.parameters[k].name))) ++k;
        if (k == parameter_count(info)) {
            fail<py::value_error>(args.where(i), ": ", wanted, " has no parameter ", std::string(py::repr(key)));
        }
        a.parameters[k] = number_in(value, args.where(i) + ": " + info.parameters[k].name, info.parameters[k].interval);
    }
    require_order(info, a, args.where(i));
    return a;
}

Dropout dropout_of(const Args& args, int p, Rng& rng, const View& x, Drawn& drawn) {
    const double probability = number_in(args, p, unit_interval);
    Dropout d = plain_dropout(probability);
    if (probability > 0) drawn = rng.next(x);
    d.random = drawn.random;
    return d;
}

void register_elementwise(py::module_& m) {
    for (int row = 0; row < Activations::size; ++row) register_activation(m, row);

    define(m, "activations()", "The names of the elementwise activations, in the order of the list.", [](const Args&) {
        py::list names;
        for (int row = 0; row < Activations::size; ++row) names.append(info_of(row).name);
        return py::object(names);
    });
    define(m, "activation_info(name)",
           "What an activation says of itself: {'saves', 'formula', 'source', 'parameters': {name: default}}.",
           [](const Args& args) {
               const Activation a = activation_of(args, 0);
               if (a.row < 0) fail<py::type_error>(args.where(0), " must be a name, got None");
               const ActivationInfo& info = info_of(a.row);
               py::dict parameters, result;
               for (int k = 0; k < parameter_count(info); ++k) {
                   parameters[info.parameters[k].name] = info.parameters[k].value;
               }
               result["saves"] = info.saves == Saves::x ? "x" : "y";
               result["formula"] = info.formula;
               result["source"] = info.source;
               result["parameters"] = parameters;
               return py::object(result);
           });
    define(m, "saves(name)", "What name's backward is given as `saved`: 'x', the forward's input, or 'y', its result.",
           [](const Args& args) {
               const Activation a = activation_of(args, 0);
               if (a.row < 0) fail<py::type_error>(args.where(0), " must be a name, got None");
               return py::object(py::str(info_of(a.row).saves == Saves::x ? "x" : "y"));
           });

    define(m, "copy_elements(x, to)",
           "Copies x to another array of its shape and dtype on its CUDA device; both may have any layout.",
           copy_elements);

    register_generator(m);
    py::class_<DropoutContext>(m, "DropoutContext", "What dropout's backward needs. It holds no array.");
    py::class_<RReluContext>(m, "RReluContext", "What rrelu_backward needs. It holds x.");
    py::class_<PReluContext>(m, "PReluContext", "What prelu_backward needs. It holds x and weight.");

    const std::string mask =
        "\n\nThe mask is a function of (seed, stream, element) alone and is recomputed by the backward, never stored. "
        "p is rounded to 1/65536.\nrng is a Generator, an integer seed (stream 0), or None for the process's own "
        "generator, seeded by the system.\nRaises ValueError for p outside [0, 1], TypeError for a wrong kind or "
        "dtype.\n";
    define(m, "dropout_forward(x, p=0.5, *, rng=None)",
           "(y, ctx), y = x / (1 - p) where kept, 0 where dropped (with probability p).\n\n"
           "y has the shape and dtype of x. A dropped infinity or NaN is 0." +
               mask + "Source: Srivastava et al. 2014; torch.nn.functional.dropout.",
           dropout_forward<plain_dropout, plain_dropout>, plain_tag);
    define(m, "dropout_backward(grad_out, ctx)",
           "dx = grad_out / (1 - p) where kept, else 0; shape and dtype as x.\n\n"
           "Raises TypeError or ValueError for a grad_out unlike the forward's result.",
           dropout_backward, plain_tag);
    define(m, "alpha_dropout_forward(x, p=0.5, *, rng=None)",
           "(y, ctx), y = a x + b where kept, a alpha' + b where dropped: mean 0 and variance 1 stay so.\n\n"
           "alpha' = -1.7580993408473766, a = ((1 - p)(1 + p alpha'^2))^(-1/2), b = -a p alpha'; p = 1 gives 0. "
           "y has the shape and dtype of x." +
               mask + "Source: Klambauer et al. 2017; torch.nn.functional.alpha_dropout.",
           dropout_forward<alpha_dropout, alpha_dropout_gradient>, alpha_tag);
    define(m, "alpha_dropout_backward(grad_out, ctx)",
           "dx = a grad_out where kept, else 0; shape and dtype as x.\n\n"
           "Raises TypeError or ValueError for a grad_out unlike the forward's result.",
           dropout_backward, alpha_tag);
    define(m, "rrelu_forward(x, lower=0.125, upper=0.3333333333333333, *, training=True, rng=None)",
           "(y, ctx), y = x if x > 0 else slope * x, the slope uniform in [lower, upper] per element in training, else "
           "their mean.\n\ny has the shape and dtype of x; lower and upper are finite, lower <= upper. rng as in "
           "dropout_forward.\nRaises TypeError for a wrong kind or dtype, ValueError for wrong bounds.\n"
           "Source: Xu et al. 2015; torch.nn.functional.rrelu.",
           rrelu_forward);
    define(m, "rrelu_backward(grad_out, ctx)",
           "dx = grad_out if x > 0 else slope * grad_out; shape and dtype as x.\n\n"
           "Raises TypeError or ValueError for a grad_out unlike the forward's result.",
           rrelu_backward);
    define(
        m, "prelu_forward(x, weight, *, axis=1)",
        "(y, ctx), y = x if x > 0 else weight * x.\n\nweight has shape (1,), or (C,) for the C channels on `axis`; its "
        "dtype is that of x, as is y's.\nRaises TypeError for a wrong kind or dtype, ValueError for a wrong shape or "
        "axis.\nSource: He et al. 2015; torch.nn.functional.prelu.",
        prelu_forward);
    define(m, "prelu_backward(grad_out, ctx)",
           "(dx, dweight), dx = grad_out if x > 0 else weight * grad_out, dweight = sum of grad_out * min(x, 0).\n\n"
           "dx has the shape of x, dweight that of weight.\n"
           "Raises TypeError or ValueError for a grad_out unlike the forward's result.",
           prelu_backward);
}

}  // namespace gradfuse
