// Optimizers and gradient clipping: lists of arrays, one call however many.
#include <atomic>
#include <cmath>

#include "bindings/bindings.h"
#include "bindings/chunks.h"
#include "formulas/optimizers/list.h"

namespace smelt {

namespace {

struct OptimizerRow {
    const OptimizerInfo* info;
    unsigned (*slots)(const double*);
    void (*advance)(const double*, Clock&);
};

template <template <class> class... Formulas>
const OptimizerRow& row_of(int row, List<Formulas...>) {
    static const OptimizerRow rows[] = {{&Formulas<float>::info, Formulas<float>::slots, Formulas<float>::advance}...};
    return rows[row];
}
const OptimizerRow& optimizer_row(int row) { return row_of(row, Optimizers{}); }

enum class Nonfinite { propagate, skip, raise };

Nonfinite nonfinite_of(const std::string& text, const std::string& where) {
    if (text == "propagate") return Nonfinite::propagate;
    if (text == "skip") return Nonfinite::skip;
    if (text == "raise") return Nonfinite::raise;
    fail<py::value_error>(where, " must be 'propagate', 'skip' or 'raise', got '", text, "'");
}

// The factor that brings `norm` down to `limit`: exactly 1 where it is no higher.
double clip_factor(double norm, double limit) { return norm <= limit ? 1 : limit / norm; }

// Squared norms of each tensor's gradient, and of all, added in the order of the list.
struct Norms {
    Norms(const Chunks& chunks, const std::vector<Tensor>& tensors) : squares(tensors.size()) {
        std::vector<double> per_chunk(chunks.chunks().size());
        backend().squared_norms(chunks.table(tensors.data()), per_chunk.data());
        for (std::size_t c = 0; c < per_chunk.size(); ++c) squares[std::size_t(chunks.chunks()[c].tensor)] += per_chunk[c];
        for (const double s : squares) total += s;
        total = std::sqrt(total);
    }
    std::vector<double> squares;
    double total = 0;
};

py::sequence sequence_of(py::handle object, const std::string& where) {
    if (!PyList_Check(object.ptr()) && !PyTuple_Check(object.ptr())) {
        fail<py::type_error>(where, " must be a list or tuple of arrays, got ", describe(object));
    }
    return py::reinterpret_borrow<py::sequence>(object);
}

std::string item(const std::string& where, std::size_t i) { return where + "[" + std::to_string(i) + "]"; }

// The arrays of a list that a clip rewrites.
struct Gradients {
    Gradients(const Args& args, int i) {
        const py::sequence list = sequence_of(args[i], args.where(i));
        std::vector<std::int64_t> sizes;
        for (std::size_t k = 0; k < list.size(); ++k) {
            const py::object g = list[k];
            keepers.push_back(writeable_view(g, item(args.where(i), k)));
            Tensor t;
            t.gradient = keepers.back();
            tensors.push_back(t);
            sizes.push_back(t.gradient.size);
        }
        chunks = Chunks(sizes);
    }
    ChunkTable table() const { return chunks.table(tensors.data()); }

    std::vector<View> keepers;
    std::vector<Tensor> tensors;
    Chunks chunks;
};

py::object clip_grad_norm(const Args& args) {
    enum { grads_, max_norm_, nonfinite_, per_array_ };
    const double limit = number_in(args, max_norm_, at_least_zero);
    const Nonfinite policy = nonfinite_of(args.text(nonfinite_), args.where(nonfinite_));
    const bool per_array = args.flag(per_array_);
    Gradients g(args, grads_);
    std::vector<double> norms;
    bool finite_norms = true;
    compute(g.chunks.elements(), [&] {
        const Norms n(g.chunks, g.tensors);
        std::vector<double> factors(g.tensors.size());
        bool needed = false;
        for (std::size_t k = 0; k < factors.size(); ++k) {
            const double norm = per_array ? std::sqrt(n.squares[k]) : n.total;
            if (per_array) norms.push_back(norm);
            finite_norms = finite_norms && std::isfinite(norm);
            factors[k] = std::isfinite(norm) || policy == Nonfinite::propagate ? clip_factor(norm, limit) : 1;
            needed = needed || factors[k] != 1;
        }
        if (!per_array) norms.push_back(n.total);
        if (needed && (finite_norms || policy != Nonfinite::raise)) backend().scale(g.table(), factors.data());
    });
    if (!finite_norms && policy == Nonfinite::raise) {
        fail<py::value_error>(args.where(grads_), " must have a finite norm, got ",
                              std::string(py::repr(py::float_(norms.empty() ? 0 : norms[0]))));
    }
    return per_array ? py::object(py::cast(norms)) : py::object(py::float_(norms[0]));
}

py::object clip_grad_value(const Args& args) {
    const double limit = number_in(args, 1, at_least_zero);
    Gradients g(args, 0);
    compute(g.chunks.elements(), [&] { backend().clamp(g.table(), limit); });
    return py::none();
}

py::object max_norm(const Args& args) {
    const View w = writeable_view(args[0], args.where(0));
    const double limit = number_in(args, 1, at_least_zero);
    // The norm is taken over `axis`, neighbouring axes, and must leave the others on one side.
    std::vector<bool> reduced(std::size_t(w.ndim), false);
    py::object axes = py::reinterpret_borrow<py::object>(args[2]);
    if (!py::isinstance<py::tuple>(axes)) axes = py::make_tuple(axes);
    for (const py::handle a : py::tuple(axes)) {
        const Py_ssize_t axis = PyLong_Check(a.ptr()) ? PyLong_AsSsize_t(a.ptr()) : PY_SSIZE_T_MAX;
        if (axis < -w.ndim || axis >= w.ndim) {
            PyErr_Clear();
            fail<py::value_error>(args.where(2), " must be axes of an array of ", w.ndim, " dimensions, got ",
                                  std::string(py::repr(args[2])));
        }
        reduced[std::size_t(axis < 0 ? axis + w.ndim : axis)] = true;
    }
    // Columns are what is left: moved to one "channel" axis, by strides alone.
    Array columns = w;
    columns.ndim = 0;
    for (const bool pass : {false, true}) {
        for (int d = 0; d < w.ndim; ++d) {
            if (reduced[std::size_t(d)] != pass) continue;
            columns.shape[columns.ndim] = w.shape[d];
            columns.strides[columns.ndim++] = w.strides[d];
        }
    }
    ChannelShape shape;
    int kept = 0;
    for (int d = 0; d < w.ndim; ++d) {
        (reduced[std::size_t(d)] ? shape.inner : shape.channels) *= w.shape[d];
        kept += !reduced[std::size_t(d)];
    }
    bool in_order = w.dense;
    for (int d = 0; d < kept; ++d) in_order = in_order && !reduced[std::size_t(d)];
    bool reduced_first = w.dense;
    for (int d = kept; d < w.ndim; ++d) reduced_first = reduced_first && !reduced[std::size_t(d)];
    if (reduced_first && !in_order) {  // norms down the first axes: rows of columns as they lie
        columns = w;
        std::swap(shape.outer, shape.inner);
    } else {
        columns.dense = in_order;
    }
    compute(w.size, [&] { backend().max_norm(shape, limit, columns); });
    return py::none();
}

// An optimizer's plan: its arrays, their state and the way they are cut, built once. A step only looks the pointers up.
class Plan {
public:
    Plan(int row, const py::list& parameters, const py::list& groups, const py::list& state, const py::list& masters)
        : row_(optimizer_row(row)), index_(row), name_(row_.info->name), clocks_(py::len(groups)) {
        const std::size_t n = parameters.size();
        tensors_.resize(n);
        for (std::size_t i = 0; i < n; ++i) {
            Tensor& t = tensors_[i];
            const py::object p = parameters[i];
            const View v = writeable_view(p, item(name_ + ": params", i));
            t.parameter = v;
            t.group = group_of(groups, i);
            const py::list slots = state[i];
            for (std::size_t k = 0; k < slots.size(); ++k) {
                if (!slots[k].is_none()) t.state[k] = view(slots[k], name_ + ": state").data;
            }
            if (!masters[i].is_none()) t.master = static_cast<float*>(view(masters[i], name_ + ": master").data);
            parameters_.push_back(p);
            keepers_.emplace_back(v.keeper);
            used_slots_.push_back(0);
            for (std::size_t k = 0; k < slots.size(); ++k) used_slots_.back() |= unsigned(t.state[k] != nullptr) << k;
        }
        owned_ = py::make_tuple(state, masters);
        present_.assign(n, true);
        rechunk();
    }

    // groups: per group (values, maximize, decoupled). Returns the norm of the gradients, or None where none was needed.
    py::object step(const py::handle& grads, const py::list& groups, const py::object& max_grad_norm,
                    const std::string& nonfinite) {
        if (busy_.exchange(true)) {
            throw std::runtime_error(name_ + ".step: this optimizer is already at a step in another thread");
        }
        const struct Release {
            std::atomic<bool>& busy;
            ~Release() { busy = false; }
        } release{busy_};

        const Nonfinite policy = nonfinite_of(nonfinite, name_ + ": nonfinite");
        const double limit = max_grad_norm.is_none() ? infinity : max_grad_norm.cast<double>();
        std::vector<GroupStep> steps = read_groups(groups);
        std::vector<View> keep;
        look_up(grads, keep);

        double norm = 0;
        bool taken = true;
        const bool wants_norm = !max_grad_norm.is_none() || policy != Nonfinite::propagate;
        std::vector<Clock> clocks = clocks_;
        compute(chunks_.elements(), [&] {
            double factor = 1;
            if (wants_norm) {
                norm = Norms(chunks_, tensors_).total;
                factor = max_grad_norm.is_none() ? 1 : clip_factor(norm, limit);
                taken = std::isfinite(norm) || policy == Nonfinite::propagate;
            }
            if (!taken) return;
            for (std::size_t g = 0; g < steps.size(); ++g) {
                ++clocks[g].t;
                row_.advance(steps[g].values, clocks[g]);
                steps[g].t = clocks[g].t;
                steps[g].momentum_product = clocks[g].momentum_product;
                steps[g].gradient_factor *= factor;
            }
            backend().optimizer_step(index_, chunks_.table(tensors_.data()), steps.data());
            clocks_ = clocks;
        });
        if (!taken && policy == Nonfinite::raise) {
            fail<py::value_error>(name_, ".step: the gradients must have a finite norm, got ",
                                  std::string(py::repr(py::float_(norm))));
        }
        return wants_norm ? py::object(py::float_(norm)) : py::none();
    }

    py::list clocks() const {
        py::list all;
        for (const Clock& c : clocks_) all.append(py::make_tuple(c.t, c.momentum_product));
        return all;
    }
    void set_clocks(const py::list& all) {
        for (std::size_t g = 0; g < clocks_.size(); ++g) {
            const py::tuple c = all[g];
            clocks_[g] = {c[0].cast<std::int64_t>(), c[1].cast<double>()};
        }
    }

private:
    static int group_of(const py::list& groups, std::size_t i) {
        int g = 0;
        while (i >= groups[std::size_t(g)].cast<std::size_t>()) i -= groups[std::size_t(g++)].cast<std::size_t>();
        return g;
    }

    std::vector<GroupStep> read_groups(const py::list& groups) const {
        std::vector<GroupStep> steps(groups.size());
        for (std::size_t g = 0; g < groups.size(); ++g) {
            const py::tuple group = groups[g];
            const py::tuple values = group[0];
            GroupStep& s = steps[g];
            for (std::size_t k = 0; k < values.size(); ++k) s.values[k] = values[k].cast<double>();
            const int decay = row_.info->place("weight_decay");
            const double weight_decay = decay < 0 ? 0 : s.values[decay];
            const bool decoupled = group[2].cast<bool>();
            s.gradient_factor = group[1].cast<bool>() ? -1 : 1;
            s.coupled_decay = decoupled ? 0 : weight_decay;
            s.decoupled_factor = decoupled ? 1 - s.values[0] * weight_decay : 1;
            const unsigned slots = row_.slots(s.values);
            for (std::size_t i = 0; i < tensors_.size(); ++i) {
                if (tensors_[i].group == int(g) && used_slots_[i] != slots) {
                    fail<py::value_error>(name_, ".step: a hyper-parameter now calls for other state than the optimizer "
                                                 "was made with; make a new optimizer");
                }
            }
        }
        return steps;
    }

    // Reads every pointer anew, for arrays may have been reallocated since; checks them all before anything is written.
    void look_up(const py::handle& grads, std::vector<View>& keep) {
        const std::string where = name_ + ".step: grads";
        const py::sequence list = sequence_of(grads, where);
        if (list.size() != tensors_.size()) {
            fail<py::value_error>(where, " must hold one gradient per parameter, ", tensors_.size(), ", got ", list.size());
        }
        bool changed = false;
        for (std::size_t i = 0; i < tensors_.size(); ++i) {
            const py::handle g = PySequence_Fast_GET_ITEM(list.ptr(), Py_ssize_t(i));
            const bool present = !g.is_none();
            changed = changed || present != present_[i];
            present_[i] = present;
        }
        for (std::size_t i = 0; i < tensors_.size(); ++i) {
            Tensor& t = tensors_[i];
            View p = view(parameters_[i], name_);
            bool same = p.dtype == t.parameter.dtype && p.ndim == t.parameter.ndim && p.writeable;
            for (int d = 0; same && d < p.ndim; ++d) same = p.shape[d] == t.parameter.shape[d];
            if (!same) {
                fail<py::value_error>(item(name_ + ".step: params", i), " must stay a writeable array of ",
                                      text_of(t.parameter.dtype), " ", shape_text(t.parameter), ", got ",
                                      p.writeable ? "" : "a read-only one of ", text_of(p.dtype), " ", shape_text(p));
            }
            if (present_[i]) {
                View g = view(py::handle(PySequence_Fast_GET_ITEM(list.ptr(), Py_ssize_t(i))), where);
                if (g.dtype != p.dtype) require_dtype(g, item(where, i), p.dtype, "its parameter");
                bool equal = g.ndim == p.ndim;
                for (int d = 0; equal && d < p.ndim; ++d) equal = g.shape[d] == p.shape[d];
                if (!equal) require_shape(g, item(where, i), p, "its parameter");
                t.gradient = g;
                if (g.keeper) keep.push_back(std::move(g));
            }
            t.parameter = p;
            if (p.keeper) keep.push_back(std::move(p));
        }
        if (changed) rechunk();
    }

    void rechunk() {
        std::vector<std::int64_t> sizes;
        for (std::size_t i = 0; i < tensors_.size(); ++i) sizes.push_back(present_[i] ? tensors_[i].parameter.size : 0);
        chunks_ = Chunks(sizes);
    }

    const OptimizerRow& row_;
    const int index_;
    const std::string name_;
    std::vector<Tensor> tensors_;
    std::vector<py::object> parameters_, keepers_;
    std::vector<unsigned> used_slots_;
    std::vector<bool> present_;
    py::object owned_;  // state and master arrays
    std::vector<Clock> clocks_;
    Chunks chunks_;
    std::atomic<bool> busy_{false};
};

const char* kind_text(Kind kind) { return kind == Kind::number ? "number" : kind == Kind::pair ? "pair" : "flag"; }

// The list as Python sees it; smelt.optim makes its classes from this.
py::object optimizer_list(const Args&) {
    py::list rows;
    for (int row = 0; row < Optimizers::size; ++row) {
        const OptimizerInfo& info = *optimizer_row(row).info;
        py::list hypers, slots;
        for (const Hyper& h : info.hypers) {
            if (!h.name) break;
            py::dict d;
            d["name"] = h.name;
            d["kind"] = kind_text(h.kind);
            d["default"] = h.kind == Kind::pair   ? py::object(py::make_tuple(h.value, h.second))
                           : h.kind == Kind::flag ? py::object(py::bool_(h.value != 0))
                                                  : py::object(py::float_(h.value));
            d["interval"] = py::make_tuple(h.interval.low, h.interval.high, h.interval.open_low, h.interval.open_high);
            d["text"] = h.interval.text;
            hypers.append(d);
        }
        for (const char* slot : info.slots) {
            if (slot) slots.append(slot);
        }
        py::dict d;
        d["name"] = info.name;
        d["formula"] = info.formula;
        d["source"] = info.source;
        d["hypers"] = hypers;
        d["slots"] = slots;
        d["decoupled_weight_decay"] = info.decoupled_weight_decay;
        d["initial_value"] = info.initial_value ? py::object(py::str(info.initial_value)) : py::none();
        rows.append(d);
    }
    return rows;
}

}  // namespace

void register_optimizers(py::module_& m) {
    define(m, "optimizer_list()", "What each optimizer says of itself, in the order of the list.", optimizer_list);
    define(m, "optimizer_slots(row, values)", "Bits of the state arrays in use under these values of the hyper-parameters.",
           [](const Args& args) {
               double values[OptimizerInfo::max_values] = {};
               int k = 0;
               for (const py::handle v : py::tuple(py::reinterpret_borrow<py::object>(args[1]))) values[k++] = v.cast<double>();
               return py::object(py::int_(optimizer_row(int(args.integer(0))).slots(values)));
           });
    py::class_<Plan>(m, "Plan", "An optimizer's arrays, their state and the way they are cut into tasks.")
        .def(py::init<int, const py::list&, const py::list&, const py::list&, const py::list&>(), py::arg("row"),
             py::arg("parameters"), py::arg("group_sizes"), py::arg("state"), py::arg("masters"))
        .def("step", &Plan::step, py::arg("grads"), py::arg("groups"), py::arg("max_grad_norm"), py::arg("nonfinite"))
        .def_property("clocks", &Plan::clocks, &Plan::set_clocks);

    define(m, "clip_grad_norm_(grads, max_norm, nonfinite='propagate', *, per_array=False)",
           "Scales the arrays in place so that their global norm is at most max_norm; returns the norm before.\n\n"
           "norm = sqrt(sum of all squares), accumulated in double; grads *= min(1, max_norm / norm), and nothing is "
           "written where norm <= max_norm. per_array=True clips each array by its own norm and returns the list of them. "
           "grads is a list of arrays of any shapes (float16, bfloat16, float32 or float64). Where the norm is not finite, "
           "nonfinite='propagate' scales all the same, 'skip' leaves the arrays as they are, 'raise' does so and raises "
           "ValueError.\nRaises TypeError for a wrong kind or dtype, ValueError for a negative or non-finite max_norm or a "
           "read-only array.\nSource: Pascanu, Mikolov and Bengio 2013; torch.nn.utils.clip_grad_norm_.",
           clip_grad_norm);
    define(m, "clip_grad_value_(grads, value)",
           "Clamps every element of the arrays to [-value, value], in place; NaN stays.\n\ngrads is a list of arrays of any "
           "shapes.\nRaises TypeError for a wrong kind or dtype, ValueError for a negative or non-finite value or a "
           "read-only array.\nSource: torch.nn.utils.clip_grad_value_.",
           clip_grad_value);
    define(m, "max_norm_(W, r, *, axis=0)",
           "Scales every column of W whose norm over axis (one or several) exceeds r to norm r, in place.\n\n"
           "For W of shape (in, out), axis=0 takes each unit's incoming weights. A column with a NaN is left alone.\n"
           "Raises TypeError for a wrong kind or dtype, ValueError for a wrong axis, a negative or non-finite r or a "
           "read-only array.\nSource: Srebro et al. 2005, Srivastava et al. 2014; keras.constraints.MaxNorm.",
           max_norm);
}

}  // namespace smelt
