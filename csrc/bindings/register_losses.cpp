// Losses, each with its gradient: those of the list, and cross-entropy.
#include <algorithm>

#include "bindings/formula.h"
#include "formulas/losses/list.h"

namespace gradfuse {

namespace arg {
constexpr Word<AnArray> logits{"logits"};
constexpr Word<Anything> labels{"target"};  // or probabilities
constexpr Word<Optional<Integer>> ignore_index{"ignore_index"};
constexpr Word<Number> label_smoothing{"label_smoothing", {unit_interval}}, z_loss{"z_loss", {at_least_zero}};
}  // namespace arg

namespace {

// Losses are summed in double, in a fixed order, and returned in float32, or in float64 for float64 arrays.
DType loss_dtype(const View& x) { return x.dtype == DType::f64 ? DType::f64 : DType::f32; }

// One loss for each element of `of`, or a single loss.
Shape loss_shape(Reduction reduction, const Array& of) {
    return {reduction == Reduction::none ? of.ndim : 0, of.shape};
}

// The form of an array without one axis.
Array without_axis(const Array& a, int axis) {
    Array form = a;
    std::copy(a.shape + axis + 1, a.shape + a.ndim, form.shape + axis);
    --form.ndim;
    return form;
}

// On the CPU every label is checked. On a device none is: there a row whose class does not exist gets NaN.
void require_classes(const View& target, const Where& where, std::int64_t classes, double ignore) {
    if (target.on_device()) return;
    const auto* const label = static_cast<const std::int64_t*>(target.data);
    for (std::int64_t r = 0; r < target.size; ++r) {
        if ((label[r] < 0 || label[r] >= classes) && double(label[r]) != ignore) {
            fail<py::value_error>(where, " must hold classes in [0, ", classes, "), got ", label[r]);
        }
    }
}

// Class weights too are checked on the CPU only.
void require_weights(const View& weight, const Where& where) {
    if (weight.on_device()) return;
    for (const double w : doubles_of(weight)) {
        if (!(w >= 0 && w < infinity)) fail<py::value_error>(where, " must hold finite numbers >= 0, got ", w);
    }
}

py::object cross_entropy(const Args& args) {
    const View logits = args(arg::logits);
    const int axis = args(arg::axis, logits);
    CrossEntropyOperation op;
    op.shape = channel_shape(logits, axis);
    op.rows = rows_of(op.shape, axis + 1 == logits.ndim);
    const std::int64_t classes = op.shape.channels;
    if (classes == 0) {
        fail<py::value_error>(args.where(arg::logits), " must have at least one class on its axis ", axis,
                              ", got shape ", shape_text(logits));
    }
    const auto ignored = args(arg::ignore_index);
    op.parameters.classes = double(classes);
    if (ignored) op.parameters.ignore = double(*ignored);
    op.parameters.smoothing = args(arg::label_smoothing);
    op.parameters.z_loss = args(arg::z_loss);
    op.reduction = args(arg::reduction);
    const Array rows = without_axis(logits, axis);
    const Where where = args.where(arg::labels);
    std::optional<View> target = integer_view(args(arg::labels), where);
    if (target) {
        require_device(*target, where, logits, "logits");
        require_shape(*target, where, rows, "logits without its classes");
        require_classes(*target, where, classes, op.parameters.ignore);
    } else {  // probabilities
        target = arg::target.kind.read(args(arg::labels), where, logits);
        if (ignored) {
            fail<py::value_error>(args.where(arg::ignore_index), " must be None for probabilities, got ", *ignored);
        }
    }
    const auto weight = args(arg::weight, logits, classes);
    if (weight) require_weights(*weight, args.where(arg::weight));
    const Result dlogits(logits), loss(logits, loss_shape(op.reduction, rows), loss_dtype(logits));
    const CrossEntropyArrays a{&logits, &*target, pointer_to(weight), &loss.array(), &dlogits.array()};
    compute(logits, [&](const Backend& backend) { backend.cross_entropy(op, a); });
    return py::make_tuple(loss.finish(), dlogits.finish());
}

const FormulaInfo& loss_info(int row) { return info_of_list(row, Losses{}); }

py::object loss(const Args& args) {
    const View pred = args(arg::pred), target = args(arg::target, pred);
    const Formula f = formula_of(args, loss_info(args.tag()), args.tag());
    const Reduction reduction = args(arg::reduction);
    const Result dpred(pred), losses(pred, loss_shape(reduction, pred), loss_dtype(pred));
    compute(pred,
            [&](const Backend& backend) { backend.loss(f, reduction, pred, target, losses.array(), dpred.array()); });
    return py::make_tuple(losses.finish(), dpred.finish());
}

void register_loss(py::module_& m, int row) {
    const FormulaInfo& info = loss_info(row);
    define(m, info.name, {arg::pred, arg::target, info, keyword_only, arg::reduction = "mean"}, "tuple[Array, Array]",
           {std::string("(loss, dpred), loss = ") + info.formula + ", reduced; dpred is its gradient.",
            "pred, target and dpred share shape and dtype (float16, bfloat16, float32 or float64). reduction 'mean' or "
            "'sum' gives a 0-d loss; 'none' gives one loss per element, and dpred is then the gradient of the sum. The "
            "loss is float32, or float64 for float64 arrays.",
            info.source},
           loss, row);
}

py::object losses(const Args&) {
    py::list all;
    for (int row = 0; row < Losses::size; ++row) all.append(description_of(loss_info(row)));
    return py::object(all);
}

}  // namespace

void register_losses(py::module_& m) {
    define(
        m, "cross_entropy",
        {arg::logits, arg::labels, keyword_only, arg::axis = 1, arg::weight = none, arg::ignore_index = none,
         arg::label_smoothing = 0.0, arg::z_loss = 0.0, arg::reduction = "mean"},
        "tuple[Array, Array]",
        {"(loss, dlogits), loss = -sum(w * q * log softmax(logits)) along axis, q = (1 - label_smoothing) * target + "
         "label_smoothing / C.",
         "logits has C classes on `axis`. target is either class indices of an integer dtype, of the shape of logits "
         "without that axis, or probabilities of the shape and dtype of logits.\n"
         "weight has shape (C,): a number w >= 0 per class, in the dtype of logits (or float32 if that is float16 or "
         "bfloat16). Rows whose class is ignore_index do not count: their loss and gradient are 0. z_loss * "
         "log(sum(exp(logits)))^2 is added to the loss of every other row.\n"
         "reduction 'sum' gives a 0-d loss. 'mean' divides it by the sum of the class weights of all rows that count; "
         "with probabilities it divides by the number of rows. 'none' gives one loss per row, and dlogits is then the "
         "gradient of the sum.\n"
         "The loss is float32, or float64 for float64 logits; dlogits has the shape and dtype of logits. A probability "
         "of 0 times a logit of -inf is 0. On a GPU a row whose class does not exist gets NaN.",
         "torch.nn.functional.cross_entropy; Szegedy et al. 2016 (smoothing); Chowdhery et al. 2022 (z_loss)",
         ", and for a wrong class or weight"},
        cross_entropy);
    for (int row = 0; row < Losses::size; ++row) register_loss(m, row);
    define_internal(
        m, "losses", {}, "list[dict[str, Any]]",
        {"The description of each elementwise loss: {'name', 'formula', 'source', 'parameters': {name: default}}."},
        losses);
}

}  // namespace gradfuse
