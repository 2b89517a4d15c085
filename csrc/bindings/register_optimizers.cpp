// Optimizers and gradient clipping: one call for a list of any number of arrays.
#include <algorithm>
#include <atomic>
#include <cmath>

#include "bindings/chunks.h"
#include "bindings/fork.h"
#include "bindings/formula.h"
#include "cpu/tile.h"
#include "formulas/optimizers/list.h"

namespace gradfuse {

namespace arg {
constexpr Word<ListOfArrays> grads{"grads", {"Sequence[Any]"}};  // of any libraries
constexpr Word<Number> max_norm{"max_norm", {at_least_zero}}, value{"value", {at_least_zero}}, r{"r", {at_least_zero}};
constexpr Word<Flag> per_array{"per_array"};
constexpr Word<Written> W{"W"};
constexpr Word<Integer> row{"row", {0, Optimizers::size - 1}};
constexpr Word<Anything> values{"values", {"tuple[float, ...]"}};
}  // namespace arg

namespace {

struct OptimizerRow {
    const OptimizerInfo* info;
    unsigned (*slots)(const double*);
};

template <template <class> class... Formulas>
const OptimizerRow& row_of(int row, List<Formulas...>) {
    static const OptimizerRow rows[] = {{&Formulas<float>::info, Formulas<float>::slots}...};
    return rows[row];
}
const OptimizerRow& optimizer_row(int row) { return row_of(row, Optimizers{}); }

// ValueError if two arrays of a list share an element. In most lists no extents overlap, which sorting them shows.
// Arrays whose extents overlap (columns of one matrix) are compared byte by byte.
void require_disjoint(const std::vector<View>& arrays, const Where& where) {
    std::vector<std::pair<Extent, std::size_t>> extents;
    for (std::size_t i = 0; i < arrays.size(); ++i) {
        if (arrays[i].size > 0) extents.emplace_back(extent_of(arrays[i]), i);
    }
    const auto lower = [](const auto& a, const auto& b) { return a.first.low < b.first.low; };
    if (!std::is_sorted(extents.begin(), extents.end(), lower)) std::stable_sort(extents.begin(), extents.end(), lower);
    for (std::size_t first = 0, last; first < extents.size(); first = last) {
        Extent all = extents[first].first;
        for (last = first + 1; last < extents.size() && extents[last].first.touches(all); ++last) {
            all.high = std::max(all.high, extents[last].first.high);
        }
        if (last - first == 1) continue;
        Bytes bytes(all);
        for (std::size_t k = first; k < last; ++k) {
            if (bytes.take(arrays[extents[k].second])) continue;
            fail<py::value_error>(where[extents[k].second],
                                  " must not share memory with another of the arrays, got one that does");
        }
    }
}

// The list of arrays that clipping writes in place. A None in it counts as an array without elements.
struct Gradients {
    explicit Gradients(const Args& args) : list(args(arg::grads)) {
        const Where where = args.where(arg::grads);
        std::vector<std::int64_t> sizes;
        views.reserve(list.size());
        for (const py::handle item : list) {
            if (item.is_none()) {
                views.emplace_back();
            } else {
                views.push_back(writeable_view(item, where[views.size()]));
                if (!on) on = views.back();
            }
            sizes.push_back(views.back().size);
        }
        require_disjoint(views, where);
        tensors.resize(views.size());
        for (std::size_t k = 0; k < views.size(); ++k) {
            if (!list[k].is_none()) require_device(views[k], where[k], *on, "the first");
            tensors[k].gradient = views[k];
        }
        chunks = Chunks(sizes);
    }

    // Calls f(backend, table) unless the list has no array.
    template <class F>
    void compute(const F& f) {
        if (!on) return;
        gradfuse::compute(*on, chunks.elements(),
                          [&](const Backend& backend) { f(backend, chunks.table(tensors, false)); });
    }

    py::tuple list;
    std::vector<View> views;
    std::optional<View> on;  // the first array
    std::vector<Tensor> tensors;
    Chunks chunks;
};

// Norms, in memory of the arrays' device.
class Norms {
public:
    Norms(const View& on, bool per_array, std::int64_t arrays) : device_(on.device), count_(per_array ? arrays : 1) {
        if (on.on_device()) {
            array_.emplace(on, Shape(per_array ? 1 : 0, &count_), DType::f64);
        } else {
            values_.resize(std::size_t(count_));
        }
    }

    double* data() { return array_ ? static_cast<double*>(array_->array().data) : values_.data(); }

    // The norms as numbers. This waits for a device.
    std::vector<double> values() const {
        if (!array_) return values_;
        std::vector<double> read(static_cast<std::size_t>(count_));
        const WithoutGil without_gil;
        devices::read(device_, read.data(), array_->array().data, count_ * std::int64_t(sizeof(double)));
        return read;
    }

    // Python numbers on the CPU, an array in the device's memory on a device.
    py::object object(bool per_array) const {
        if (array_) return array_->finish();
        if (!per_array) return py::float_(values_[0]);
        py::list all;
        for (const double norm : values_) all.append(norm);
        return all;
    }

private:
    int device_;
    std::int64_t count_;
    std::vector<double> values_;
    std::optional<Result> array_;
};

py::object clip_grad_norm(const Args& args) {
    const double limit = args(arg::max_norm);
    const Nonfinite policy = args(arg::nonfinite);
    const bool per_array = args(arg::per_array);
    Gradients g(args);
    Norms norms(g.on.value_or(View()), per_array, std::int64_t(g.views.size()));
    const auto clip = [&](const Backend& b, const ChunkTable& table) {
        b.clip_to_norm(table, per_array, norms.data(), limit, policy == Nonfinite::propagate);
    };
    g.compute([&](const Backend& b, const ChunkTable& table) {
        b.gradient_norms(table, per_array, norms.data());
        if (policy != Nonfinite::raise) clip(b, table);
    });
    if (policy == Nonfinite::raise) {
        const std::vector<double> values = norms.values();
        for (std::size_t k = 0; k < values.size(); ++k) {
            if (std::isfinite(values[k])) continue;
            fail<py::value_error>(per_array ? args.where(arg::grads)[k] : args.where(arg::grads),
                                  " must have a finite norm, got ", text_of(values[k]));
        }
        g.compute(clip);
    }
    return norms.object(per_array);
}

py::object clip_grad_value(const Args& args) {
    const double limit = args(arg::value);
    Gradients g(args);
    g.compute([&](const Backend& b, const ChunkTable& table) { b.clamp(table, limit); });
    return py::none();
}

// The axes of x that an argument names: an axis or a tuple of axes.
std::vector<bool> axes_of(py::handle given, const Where& where, const View& x) {
    std::vector<bool> named(std::size_t(x.ndim), false);
    for (const py::handle a :
         PyTuple_Check(given.ptr()) ? py::tuple(py::reinterpret_borrow<py::tuple>(given)) : py::make_tuple(given)) {
        if (!PyLong_CheckExact(a.ptr())) Reading::note_foreign_code();
        const Py_ssize_t axis = PyNumber_AsSsize_t(a.ptr(), nullptr);
        if (PyBool_Check(a.ptr()) || PyErr_Occurred()) {
            clear_error();
            fail<py::type_error>(where, " must be an integer or a tuple of them, got ", describe(given));
        }
        if (axis < -x.ndim || axis >= x.ndim || named[std::size_t(axis < 0 ? axis + x.ndim : axis)]) {
            fail<py::value_error>(where, " must be different axes of an array of ", x.ndim, " dimensions, got ",
                                  std::string(py::repr(given)));
        }
        named[std::size_t(axis < 0 ? axis + x.ndim : axis)] = true;
    }
    return named;
}

py::object max_norm(const Args& args) {
    const View w = args(arg::W);
    const double limit = args(arg::r);
    const std::vector<bool> reduced = axes_of(args.value(&arg::axes), args.where(arg::axes), w);
    // The remaining axes become one axis of channels, by strides without a copy. It comes after the reduced axes if the
    // last axis is among the remaining ones, otherwise before them: then the strides of a matrix do not change.
    const bool reduced_first = w.ndim > 0 && !reduced[std::size_t(w.ndim - 1)];
    Array columns = w;
    ChannelShape shape;
    int at = 0;
    for (const bool now : {reduced_first, !reduced_first}) {
        for (int d = 0; d < w.ndim; ++d) {
            if (reduced[std::size_t(d)] != now) continue;
            (!now ? shape.channels : reduced_first ? shape.outer : shape.inner) *= w.shape[d];
            columns.dense = columns.dense && at == d;
            columns.shape[at] = w.shape[d];
            columns.strides[at++] = w.strides[d];
        }
    }
    compute(w, [&](const Backend& backend) { backend.max_norm(shape, limit, columns); });
    return py::none();
}

void read_values(const py::tuple& from, double* to) {
    for (std::size_t k = 0; k < from.size(); ++k) to[k] = from[k].cast<double>();
}

// A new array of the type that `like` is computed in: a NumPy array on the CPU, else an array of the owner's library.
// NumPy resizes no view, so nobody can free the memory under a plan.
py::object full(const View& like, double value) {
    py::tuple shape(std::size_t(like.ndim));
    for (int d = 0; d < like.ndim; ++d) shape[std::size_t(d)] = like.shape[d];
    const char* const dtype = computes_in_double(like.dtype) ? "float64" : "float32";
    if (like.on_device()) return interop().attr("full")(like.object, shape, dtype, like.device, value);
    return py::module_::import("numpy").attr("full")(shape, value, dtype).attr("view")();
}

// A plan's clocks, on the host and for a device also in its memory. A device may skip a step, or replay it in a graph,
// and the host does not know. Then the clocks are read from the device.
class Clocks {
public:
    Clocks() = default;
    Clocks(const View& on, std::size_t groups) : host_(groups) {
        if (on.on_device()) memory_.emplace(on, bytes());
        device_ = on.device;
    }

    Clock* data() { return memory_ ? static_cast<Clock*>(memory_->data()) : host_.data(); }

    // To be called after a step in which the device may have counted.
    void count(bool surely) {
        if (!memory_) return;
        known_ = known_ && surely;
        for (Clock& c : host_) ++c.t;
    }
    std::int64_t t() const { return known_ ? host_[0].t : read()[0].t; }
    std::vector<Clock> read() const {
        std::vector<Clock> now = host_;
        if (memory_) {
            const WithoutGil without_gil;
            devices::read(device_, now.data(), memory_->data(), bytes());
        }
        return now;
    }
    void write(const View& on, std::vector<Clock> clocks) {
        host_ = std::move(clocks);
        known_ = true;
        if (!memory_) return;
        compute(on, [&](const Backend&) { devices::write(memory_->data(), host_.data(), bytes()); });
    }

private:
    std::int64_t bytes() const { return std::int64_t(host_.size() * sizeof(Clock)); }

    std::vector<Clock> host_;
    std::optional<Workspace> memory_;
    int device_ = cpu_device;
    bool known_ = true;
};

// The array that was last seen in a place, if it still exists. A CuPy array's memory never changes, so such an array
// need not be read again.
class LastSeen {
public:
    bool is(py::handle object) const {
        if (!reference_) return false;
#if PY_VERSION_HEX >= 0x030d0000
        PyObject* seen = nullptr;
        PyWeakref_GetRef(reference_.ptr(), &seen);
        Py_XDECREF(seen);
        return seen == object.ptr();
#else
        return PyWeakref_GetObject(reference_.ptr()) == object.ptr();
#endif
    }
    // A reference is made when an address comes twice, because loops that make new arrays would pay for it.
    void set(const View& v) {
        reference_ = py::object();
        if (v.source == Source::cupy && v.object.ptr() == address_) {
            reference_ = py::reinterpret_steal<py::object>(PyWeakref_NewRef(v.object.ptr(), nullptr));
            if (!reference_) clear_error();  // of a type without weak references
        }
        address_ = v.object.ptr();
    }

private:
    const PyObject* address_ = nullptr;
    py::object reference_;
};

// An optimizer's plan: its arrays, their state and their chunks, built once. A step only reads the pointers again.
class Plan {
public:
    // sizes: the number of parameters in each group. values: the hyper-parameters of each group.
    Plan(int row, const py::list& parameters, const py::list& sizes, const py::list& values, bool master_weights,
         bool capturable)
        : row_(optimizer_row(row)),
          index_(row),
          name_(row_.info->name),
          step_(name_ + ".step"),
          parameters_(parameters),
          present_(parameters.size(), true),
          gradients_(parameters.size()),
          capturable_(capturable) {
        const Reading reading;
        const Where where{name_.c_str(), "params"};
        std::vector<View> views;
        std::vector<py::object> plain_ones;  // the views' objects
        views.reserve(parameters_.size());
        for (std::size_t i = 0; i < parameters_.size(); ++i) {
            differentiable_.push_back(py::hasattr(parameters_[i], "requires_grad"));
            plain_ones.push_back(plain(parameters_[i]));
            views.push_back(writeable_view(plain_ones[i], where[i]));
            parameters_run_code_ = parameters_run_code_ || runs_code(plain_ones[i]);
            settled_.push_back(views[i].source == Source::cupy && !differentiable_[i]);
            require_device(views[i], where[i], views[0], "the first");
        }
        if (!views.empty()) on_ = views[0];
        on_.object = parameters_.empty() ? py::handle() : py::handle(parameters_[0]);
        on_.keeper = py::object();
        if (capturable && !on_.on_device()) {
            fail<py::value_error>(name_, ": capturable must be False for arrays on the CPU, got True");
        }
        clocks_ = Clocks(on_, sizes.size());
        clocks_.write(on_, std::vector<Clock>(sizes.size()));
        require_disjoint(views, where);
        for (std::size_t g = 0; g < sizes.size(); ++g) {
            double h[OptimizerInfo::max_values] = {};
            read_values(values[g], h);
            slots_.push_back(row_.slots(h));
            const double initial = row_.info->initial_value ? h[row_.info->place(row_.info->initial_value)] : 0;
            for (auto left = sizes[g].cast<std::size_t>(); left > 0; --left) {
                add(views[tensors_.size()], int(g), initial, master_weights);
            }
        }
        rechunk();
    }

    // f(*arguments); an error if another call of this plan is running, in another thread or around this call.
    py::object exclusively(const py::function& f, const py::args& arguments) {
        const int busy = forks() + 1;  // what the parent of this process was doing does not count
        if (busy_.exchange(busy) == busy) {
            throw std::runtime_error(name_ +
                                     ": this optimizer is already running, in another thread or around this call");
        }
        const struct Release {
            std::atomic<int>& busy;
            ~Release() { busy = 0; }
        } release{busy_};
        return f(*arguments);
    }

    // groups: per group (values, maximize, decoupled). grad_scale: a factor applied to the gradients first. Returns
    // the norm of the gradients as they were given, or None if it was not needed.
    py::object step(const py::handle& grads, const py::list& groups, const py::object& max_grad_norm,
                    const py::handle& nonfinite, double grad_scale) {
        const Nonfinite policy = arg::nonfinite.kind.read(nonfinite, {name_.c_str(), "nonfinite"});
        const bool wants_norm = !max_grad_norm.is_none() || policy != Nonfinite::propagate;
        const std::vector<GroupStep> steps = read_groups(groups, grad_scale);
        const py::tuple gradients = arg::grads.kind.read(grads, {step_.c_str(), "grads"});
        std::vector<py::object> keep;
        std::optional<Reading> reading;  // only where it is needed: it costs a tenth of a step over thousands of arrays
        if (parameters_run_code_ || any_runs_code(gradients)) reading.emplace();
        look_up(gradients, keep);

        const ChunkTable table = chunks_.table(tensors_, true, version_);
        if (on_.on_device() && !capturable_) {
            work([&](const Backend&) {
                if (!devices::is_capturing()) return;
                fail<py::value_error>(step_, ": capturable must be True while a CUDA graph is captured, got False");
            });
        }
        std::optional<Norms> norm;
        if (wants_norm) {
            norm.emplace(on_, false, 1);
            work([&](const Backend& b) { b.gradient_norms(table, false, norm->data()); });
        }
        if (policy == Nonfinite::raise && !std::isfinite(norm->values()[0])) {
            fail<py::value_error>(step_, ": grads must have a finite norm, got ", text_of(norm->values()[0]));
        }
        OptimizerStep step{index_, steps.data(), int(steps.size()), clocks_.data()};
        if (norm) step.norm = norm->data();
        if (!max_grad_norm.is_none()) step.limit = max_grad_norm.cast<double>() / grad_scale;
        step.skip = policy == Nonfinite::skip;
        step.capturable = capturable_;
        work([&](const Backend& b) { b.optimizer_step(table, step); });
        if (on_.source == Source::exchange_api) count_writes(on_.object, parameters_);
        clocks_.count(!step.skip && !capturable_);
        grad_scale_ = grad_scale;
        return norm ? norm->object(false) : py::none();
    }

    // Copies parameters to their master weights, after something other than a step has changed them.
    void refresh_master_weights() {
        const Reading reading;
        std::vector<py::object> keep;
        for (std::size_t i = 0; i < tensors_.size(); ++i) {
            if (!tensors_[i].master) continue;
            look_up_parameter(i, keep);
            const py::object parameter = plain(parameters_[i]);
            copy_master(view(parameter, {name_.c_str()}), masters_[i]);
        }
    }

    // Sets the hyper-parameters that the next replay of a captured step reads.
    void set_groups(const py::list& groups) {
        const std::vector<GroupStep> steps = read_groups(groups, grad_scale_);
        const OptimizerStep step{index_, steps.data(), int(steps.size()), clocks_.data()};
        work([&](const Backend& b) { b.set_groups(chunks_.table(tensors_, true, version_), step); });
    }

    template <class F>
    void traverse(const F& f) const {
        f(parameters_);
        f(state_);
        for (const py::object& array : owned_) f(array);
    }

    std::int64_t t() const { return clocks_.t(); }
    py::list state() const { return state_; }
    py::list clocks() const {
        py::list all;
        for (const Clock& c : clocks_.read()) all.append(py::make_tuple(c.t, c.momentum_product));
        return all;
    }
    void set_clocks(const py::list& all) {
        std::vector<Clock> clocks;
        for (const py::handle c : all) {
            const py::tuple pair = c.cast<py::tuple>();
            clocks.push_back({pair[0].cast<std::int64_t>(), pair[1].cast<double>()});
        }
        clocks_.write(on_, std::move(clocks));
    }

private:
    // Calls f(backend) on the parameters' device.
    template <class F>
    void work(const F& f) const {
        try {
            compute(on_, chunks_.elements(), f);
        } catch (const devices::Error& e) {
            throw devices::Error(step_ + ": " + e.what());
        } catch (const std::invalid_argument& e) {
            fail<py::value_error>(step_, ": ", e.what());
        }
    }

    void add(const View& parameter, int group, double initial, bool master_weights) {
        Tensor t;
        py::dict named;
        const auto new_array = [&](const char* name, double value) {
            owned_.push_back(full(parameter, value));
            named[name] = owned_.back();
            return view(owned_.back(), {name_.c_str()}).data;
        };
        t.parameter = t.gradient = parameter;
        t.group = group;
        for (int k = 0; k < OptimizerInfo::max_slots; ++k) {
            if (slots_.back() >> k & 1) t.state[k] = new_array(row_.info->slots[k], initial);
        }
        if (master_weights && itemsize(parameter.dtype) == 2) {
            t.master = static_cast<float*>(new_array("master", 0));
            copy_master(parameter, owned_.back());
        }
        masters_.push_back(t.master ? owned_.back() : py::none());
        state_.append(named);
        tensors_.push_back(t);
    }

    std::vector<GroupStep> read_groups(const py::list& groups, double grad_scale) const {
        if (groups.size() != slots_.size()) {
            fail<py::value_error>(step_, ": groups must have their original length, ", slots_.size(), ", got ",
                                  groups.size());
        }
        const int decay = row_.info->place("weight_decay");
        std::vector<GroupStep> steps(groups.size());
        for (std::size_t g = 0; g < groups.size(); ++g) {
            const py::tuple group = groups[g];
            const bool maximize = group[1].cast<bool>(), decoupled = group[2].cast<bool>();
            GroupStep& s = steps[g];
            read_values(group[0], s.values);
            const double weight_decay = decay < 0 ? 0 : s.values[decay];
            s.gradient_factor = maximize ? -grad_scale : grad_scale;
            s.coupled_decay = decoupled ? 0 : weight_decay;
            s.decoupled_factor = decoupled ? 1 - s.values[0] * weight_decay : 1;
            const unsigned slots = row_.slots(s.values);
            if (slots != slots_[g]) {
                fail<py::value_error>(step_, ": hyper-parameters must need the same state as before, ",
                                      text_of_slots(slots_[g]), ", got ones that need ", text_of_slots(slots));
            }
        }
        return steps;
    }

    static bool any_runs_code(const py::tuple& arrays) {
        return std::any_of(arrays.begin(), arrays.end(), [](py::handle a) { return !a.is_none() && runs_code(a); });
    }

    std::string text_of_slots(unsigned slots) const {
        std::string text;
        for (int k = 0; k < OptimizerInfo::max_slots; ++k) {
            if (slots >> k & 1) text += (text.empty() ? "" : " and ") + std::string(row_.info->slots[k]);
        }
        return text.empty() ? "none" : text;
    }

    // Reads the pointers again, because arrays may have been reallocated. Checks everything before anything is written.
    void look_up(const py::tuple& grads, std::vector<py::object>& keep) {
        const Where where{step_.c_str(), "grads"};
        const char* const its = "its parameter";
        if (grads.size() != tensors_.size()) {
            fail<py::value_error>(where, " must hold one gradient per parameter, ", tensors_.size(), ", got ",
                                  grads.size());
        }
        for (std::size_t i = 0; i < tensors_.size(); ++i) {
            Tensor& t = tensors_[i];
            const py::handle gradient = PyTuple_GET_ITEM(grads.ptr(), Py_ssize_t(i));
            if (gradient.is_none() == present_[i]) {
                present_[i] = !present_[i];
                chunks_are_current_ = false;
            }
            if (!present_[i]) continue;
            if (settled_[i] && gradients_[i].is(gradient)) continue;
            if (!settled_[i]) look_up_parameter(i, keep);
            const Array& p = t.parameter;
            View g = view(gradient, where[i]);
            require_alike(g, where[i], p, its);
            if (extent_of(g).touches(extent_of(p))) require_no_overlap(g, where[i], p, its);
            assign(t.gradient, g);
            if (settled_[i]) gradients_[i].set(g);
            if (g.keeper) keep.push_back(std::move(g.keeper));
        }
        if (!chunks_are_current_) rechunk();
    }

    void look_up_parameter(std::size_t i, std::vector<py::object>& keep) {
        const Where where = Where{step_.c_str(), "params"}[i];
        const py::handle parameter = PyTuple_GET_ITEM(parameters_.ptr(), Py_ssize_t(i));
        Array& before = tensors_[i].parameter;
        View p = differentiable_[i] ? tracked_view(parameter, where) : view(parameter, where);
        if (p.device != before.device) {
            fail<py::value_error>(where, " must stay on ", device_text(before), ", got it on ", device_text(p));
        }
        if (!p.writeable || p.dtype != before.dtype || !(Shape(p) == before)) {
            fail<py::value_error>(where, " must stay a writeable array of ", text_of(before.dtype), " with shape ",
                                  shape_text(before), ", got ", p.writeable ? "one" : "a read-only one", " of ",
                                  text_of(p.dtype), " with shape ", shape_text(p));
        }
        assign(before, p);
        if (p.keeper) keep.push_back(std::move(p.keeper));
    }

    static void copy_master(const View& parameter, const py::object& to) {
        Reading::check();
        if (parameter.on_device()) {
            interop().attr("assign")(to, parameter.object);
        } else {
            Reader<float>(parameter).load(0, parameter.size, static_cast<float*>(view(to, {"master"}).data));
        }
    }

    // Compares two views of the same shape and dtype. If both are dense, only their pointers can differ.
    void assign(Array& to, const Array& from) {
        if (to.dense && from.dense) {
            if (to.data == from.data) return;
            to.data = from.data;
        } else {
            to = from;
        }
        ++version_;
    }

    void rechunk() {
        std::vector<std::int64_t> sizes;
        for (std::size_t i = 0; i < tensors_.size(); ++i) sizes.push_back(present_[i] ? tensors_[i].parameter.size : 0);
        if (capturable_) retired_.push_back(std::move(chunks_));  // a captured graph may still read them
        chunks_ = Chunks(sizes);
        chunks_are_current_ = true;
    }

    const OptimizerRow& row_;
    const int index_;
    const std::string name_, step_;
    const py::tuple parameters_;
    bool parameters_run_code_ = false;
    std::vector<bool> differentiable_;  // whether it is a tensor that autograd may follow
    std::vector<bool> settled_;         // whether its memory never changes, as with CuPy's arrays
    std::vector<bool> present_;         // whether it had a gradient in the latest step
    std::vector<Tensor> tensors_;
    std::vector<LastSeen> gradients_;  // of settled parameters
    std::int64_t version_ = 1;         // of the arrays' memory
    py::list state_;                   // per parameter {slot: array}, for Python to read and save
    std::vector<py::object> owned_;    // the arrays of state_
    std::vector<py::object> masters_;  // of these the master weights, None where there are none
    std::vector<unsigned> slots_;      // per group, as row_.slots says
    View on_;                          // the first parameter: its device does the work
    Clocks clocks_;                    // per group
    const bool capturable_;
    double grad_scale_ = 1;  // of the latest step
    Chunks chunks_;
    std::vector<Chunks> retired_;
    bool chunks_are_current_ = true;
    std::atomic<int> busy_{0};
};

const char* kind_text(Kind kind) { return kind == Kind::number ? "number" : kind == Kind::pair ? "pair" : "flag"; }

// The description of the list; gradfuse.optim makes its classes from it.
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
            d["default"] = default_of(h);
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
    define_internal(m, "optimizer_list", {}, "list[dict[str, Any]]",
                    {"The description of each optimizer, in the order of the list."}, optimizer_list);
    define_internal(m, "optimizer_slots", {arg::row, arg::values}, "int",
                    {"The state arrays that these hyper-parameters need, as bits."}, [](const Args& args) {
                        double values[OptimizerInfo::max_values] = {};
                        read_values(py::tuple(py::reinterpret_borrow<py::object>(args(arg::values))), values);
                        return py::object(py::int_(optimizer_row(int(args(arg::row))).slots(values)));
                    });
    py::class_<Plan>(m, "Plan", garbage_collected<Plan>(),
                     "An optimizer's arrays, their state and the tasks into which a step is divided.")
        .def(py::init<int, const py::list&, const py::list&, const py::list&, bool, bool>(), py::arg("row"),
             py::arg("parameters"), py::arg("group_sizes"), py::arg("values"), py::arg("master_weights"),
             py::arg("capturable"))
        .def("exclusively", &Plan::exclusively)
        .def("step", &Plan::step, py::arg("grads"), py::arg("groups"), py::arg("max_grad_norm"), py::arg("nonfinite"),
             py::arg("grad_scale"))
        .def("set_groups", &Plan::set_groups, py::arg("groups"))
        .def("refresh_master_weights", &Plan::refresh_master_weights)
        .def_property_readonly("t", &Plan::t)
        .def_property_readonly("state", &Plan::state)
        .def_property("clocks", &Plan::clocks, &Plan::set_clocks);

    const std::string arrays =
        "grads is a list of arrays of any shapes (float16, bfloat16, float32 or float64) that share no memory; a None "
        "in it, of a parameter without a gradient, counts as an array without elements.";
    const std::string errors = ", for a read-only array or two that overlap";
    define(m, "clip_grad_norm_",
           {arg::grads, arg::max_norm, arg::nonfinite = "propagate", keyword_only, arg::per_array = false}, "Any",
           {"Scales the arrays in place so that their global norm is at most max_norm; returns the norm before.",
            "norm = sqrt(sum of all squares), summed in double; grads *= min(1, max_norm / norm), and nothing is "
            "written if norm <= max_norm. per_array=True clips each array by its own norm and returns a list of the "
            "norms. " +
                arrays +
                "\nIf the norm is not finite, nonfinite='propagate' scales the arrays anyway, 'skip' does not change "
                "them, and 'raise' does not change them and raises ValueError.\nFor arrays on a GPU the norms are a "
                "float64 array on that GPU, of shape () or (n,), and only 'raise' waits for the GPU.",
            "Pascanu, Mikolov and Bengio 2013; torch.nn.utils.clip_grad_norm_", errors},
           clip_grad_norm);
    define(m, "clip_grad_value_", {arg::grads, arg::value}, "None",
           {"g = min(max(g, -value), value) for every element of the arrays, in place; NaN stays.", arrays,
            "torch.nn.utils.clip_grad_value_", errors},
           clip_grad_value);
    define(m, "max_norm_", {arg::W, arg::r, keyword_only, arg::axes = 0}, "None",
           {"Scales every column of W whose norm over axis (one or several) is larger than r to norm r, in place.",
            "For W of shape (in, out), axis=0 takes each unit's incoming weights. A column with a NaN is not changed.",
            "Srebro et al. 2005, Srivastava et al. 2014; keras.constraints.MaxNorm", ", or a read-only array"},
           max_norm);
}

}  // namespace gradfuse
