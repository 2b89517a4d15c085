// Losses, each with its gradient: every one of the list, and cross-entropy.
#include "bindings/formula.h"
#include "formulas/losses/list.h"

namespace gradfuse {

namespace {

Reduction reduction_of(const Args& args, int i) {
    const std::string text = args.text(i);
    if (text == "none") return Reduction::none;
    if (text == "mean") return Reduction::mean;
    if (text == "sum") return Reduction::sum;
    fail<py::value_error>(args.where(i), " must be 'none', 'mean' or 'sum', got '", text, "'");
}

// Losses are summed in double, in order, and given in float32, or float64 for float64.
DType loss_dtype(const View& x) { return x.dtype == DType::f64 ? DType::f64 : DType::f32; }

// A loss of logits along an axis: the arrays' form without it.
Array without_axis(const Array& a, int axis) {
    Array form = a;
    form.ndim = 0;
    form.size = 1;
    for (int d = 0; d < a.ndim; ++d) {
        if (d == axis) continue;
        form.size *= a.shape[d];
        form.shape[form.ndim++] = a.shape[d];
    }
    return form;
}

// On the CPU every label is looked at, on a device none: there the kernel gives a row of a class that does not exist
// NaN.
void require_classes(const View& target, const std::string& where, std::int64_t classes, double ignore) {
    if (target.on_device()) return;
    const auto* const label = static_cast<const std::int64_t*>(target.data);
    for (std::int64_t r = 0; r < target.size; ++r) {
        if ((label[r] < 0 || label[r] >= classes) && double(label[r]) != ignore) {
            fail<py::value_error>(where, " must hold classes in [0, ", classes, "), got ", label[r]);
        }
    }
}

// Likewise class weights.
std::optional<View> class_weights(const Args& args, int i, const View& logits, std::int64_t classes) {
    const auto weight = channel_vector(args, i, logits, classes);
    if (!weight || weight->on_device()) return weight;
    const std::vector<double> values = doubles_of(*weight);
    for (const double w : values) {
        if (!(w >= 0 && w < infinity)) {
            fail<py::value_error>(args.where(i), " must hold finite numbers >= 0, got ", w);
        }
    }
    return weight;
}

py::object cross_entropy(const Args& args) {
    enum { logits_, target_, axis_, weight_, ignore_index_, label_smoothing_, z_loss_, reduction_ };
    const View logits = view(args, logits_);
    const int axis = axis_of(args, axis_, logits);
    CrossEntropyOperation op;
    op.shape = channel_shape(logits, axis);
    op.rows = rows_of(op.shape, axis + 1 == logits.ndim);
    if (op.shape.channels == 0) {
        fail<py::value_error>(args.where(logits_), " must have at least one class on its axis ", axis, ", got shape ",
                              shape_text(logits));
    }
    op.parameters.classes = double(op.shape.channels);
    if (args.given(ignore_index_)) op.parameters.ignore = double(args.integer(ignore_index_));
    op.parameters.smoothing = number_in(args, label_smoothing_, unit_interval);
    op.parameters.z_loss = number_in(args, z_loss_, at_least_zero);
    op.reduction = reduction_of(args, reduction_);
    const Array rows = without_axis(logits, axis);
    std::optional<View> target = integer_view(args[target_], args.where(target_));
    if (target) {
        require_device(*target, args.where(target_), logits, "logits");
        require_shape(*target, args.where(target_), rows, "logits without its classes");
        require_classes(*target, args.where(target_), op.shape.channels, op.parameters.ignore);
    } else {  // probabilities
        target = view(args, target_);
        require_alike(*target, args.where(target_), logits, "logits");
        if (args.given(ignore_index_)) {
            fail<py::value_error>(args.where(ignore_index_), " must be None for probabilities, got ",
                                  args.integer(ignore_index_));
        }
    }
    const auto weight = class_weights(args, weight_, logits, op.shape.channels);
    const bool each = op.reduction == Reduction::none;
    const Result dlogits(logits), loss(logits, each ? rows.ndim : 0, rows.shape, loss_dtype(logits));
    const CrossEntropyArrays a{&logits, &*target, pointer_to(weight), &loss.array(), &dlogits.array()};
    compute(logits, [&](const Backend& backend) { backend.cross_entropy(op, a); });
    return py::make_tuple(loss.finish(), dlogits.finish());
}

const FormulaInfo& loss_info(int row) { return info_of_list(row, Losses{}); }

py::object loss(const Args& args) {
    enum { pred_, target_, first_parameter_ };
    const FormulaInfo& info = loss_info(args.tag());
    const View pred = view(args, pred_), target = view(args, target_);
    require_alike(target, args.where(target_), pred, "pred");
    const Formula f = formula_from(info, args.tag(), args, first_parameter_);
    const Reduction reduction = reduction_of(args, first_parameter_ + parameter_count(info));
    const bool each = reduction == Reduction::none;
    const Result dpred(pred), losses(pred, each ? pred.ndim : 0, pred.shape, loss_dtype(pred));
    compute(pred,
            [&](const Backend& backend) { backend.loss(f, reduction, pred, target, losses.array(), dpred.array()); });
    return py::make_tuple(losses.finish(), dpred.finish());
}

void register_loss(py::module_& m, int row) {
    const FormulaInfo& info = loss_info(row);
    define(m, std::string(info.name) + "(pred, target" + parameters_text(info) + ", *, reduction='mean')",
           std::string("(loss, dpred), loss = ") + info.formula +
               ", reduced; dpred its gradient.\n\npred and target share shape and dtype (float16, bfloat16, float32 "
               "or float64), as does dpred." +
               limits_text(info) +
               "\nreduction 'mean' or 'sum' gives a 0-d loss, 'none' one per element and each element's own gradient; "
               "the loss is float32, float64 for float64.\n"
               "Raises TypeError for a wrong kind or dtype, ValueError for a wrong shape, value or reduction.\n"
               "Source: " +
               info.source + ".",
           loss, row);
}

py::object losses(const Args&) {
    py::list all;
    for (int row = 0; row < Losses::size; ++row) {
        const FormulaInfo& info = loss_info(row);
        py::dict entry;
        entry["name"] = info.name;
        entry["formula"] = info.formula;
        entry["source"] = info.source;
        entry["parameters"] = defaults_of(info);
        all.append(entry);
    }
    return py::object(all);
}

}  // namespace

void register_losses(py::module_& m) {
    define(
        m,
        "cross_entropy(logits, target, *, axis=1, weight=None, ignore_index=None, label_smoothing=0.0, z_loss=0.0, "
        "reduction='mean')",
        "(loss, dlogits), loss = -sum(w * q * log softmax(logits)) along axis, q = (1 - label_smoothing) * target + "
        "label_smoothing / C.\n\n"
        "logits has C classes on `axis`. target is class indices of an integer dtype, of the shape of logits without "
        "that axis, or probabilities of the shape and dtype of logits. weight is a number >= 0 per class, w, of shape "
        "(C,) and the dtype of logits (or float32 where that is float16 or bfloat16). Rows whose class is ignore_index "
        "count for nothing: loss and gradient are 0. z_loss * log(sum(exp(logits)))^2 is added to the loss of every "
        "other row.\n"
        "reduction 'sum' gives a 0-d loss, 'mean' divides it by the rows that count (each as much as its class weighs; "
        "with probabilities by the number of rows), 'none' gives one loss per row and each row's own gradient. The "
        "loss "
        "is float32, float64 for float64; dlogits has the shape and dtype of logits. A probability of 0 times a logit "
        "of -inf is 0. On a GPU a class that does not exist gives its row NaN.\n"
        "Raises TypeError for a wrong kind or dtype, ValueError for a wrong shape, class, weight or value.\n"
        "Source: torch.nn.functional.cross_entropy; Szegedy et al. 2016 (smoothing); Chowdhery et al. 2022 (z_loss).",
        cross_entropy);
    for (int row = 0; row < Losses::size; ++row) register_loss(m, row);
    define(m, "losses()", "The elementwise losses: {'name', 'formula', 'source', 'parameters': {name: default}}.",
           losses);
}

}  // namespace gradfuse
