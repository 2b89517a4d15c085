#include "formulas/rows/cross_entropy.h"

#include "core/backend.h"
#include "cpu/kernels.h"
#include "cpu/reduce_map.h"
#include "cpu/sum.h"

namespace gradfuse {
inline namespace GRADFUSE_ISA {

namespace {

// The denominator of the mean loss: the sum of the class weights of all rows that count.
double rows_that_count(const CrossEntropyOperation& op, const CrossEntropyArrays& a, std::int64_t rows) {
    if (a.target->dtype != DType::i64) return double(rows);
    const auto* const label = static_cast<const std::int64_t*>(a.target->data);
    const std::int64_t classes = op.shape.channels;
    const Heap<double> weight(classes);
    if (a.weight) Reader<double>(*a.weight).load(0, classes, weight.data());
    const Heap<double> of_row(rows);
    for (std::int64_t r = 0; r < rows; ++r) {
        const bool counts = double(label[r]) != op.parameters.ignore && label[r] >= 0 && label[r] < classes;
        of_row[r] = !counts ? 0 : a.weight ? weight[label[r]] : 1;
    }
    return sum_of_many(of_row.data(), rows);
}

}  // namespace

void cross_entropy(const CrossEntropyOperation& op, const CrossEntropyArrays& a) {
    const std::int64_t rows = op.shape.outer * op.shape.inner;
    const bool mean = op.reduction == Reduction::mean;
    const double count = mean ? rows_that_count(op, a, rows) : 1;
    const Heap<double> losses(rows);
    const Array loss = dense_doubles(losses.data(), rows);
    ReduceMapArrays arrays;
    arrays.in[0] = a.logits;
    arrays.out = a.dlogits;
    arrays.column[0] = a.weight;
    arrays.group_out[0] = &loss;
    with_compute_type(a.logits->dtype, [&](auto t) {
        using T = decltype(t);
        if (a.target->dtype == DType::i64) {
            arrays.group_in[0].array = a.target;
            arrays.group_in[3].otherwise = 1 / count;
            reduce_map(CrossEntropyOfLabels<T>(op.parameters), op.rows, arrays);
        } else {
            arrays.in[1] = a.target;
            arrays.group_in[0].otherwise = 1 / count;
            reduce_map(CrossEntropyOfProbabilities<T>(op.parameters), op.rows, arrays);
        }
    });
    const Writer<double> write(*a.loss);
    if (op.reduction == Reduction::none) return write.store(0, rows, losses.data());
    double total = sum_of_many(losses.data(), rows);
    if (mean) total /= count;
    write.store(0, 1, &total);
}

}  // namespace GRADFUSE_ISA
}  // namespace gradfuse
