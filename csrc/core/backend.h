// The functions that a device must have: one per operation, on views whose properties are all checked.
//
// The CPU fills this table once per instruction set, CUDA once with its own loops. All use the same formulas. An output
// may be an input (the same view), but must not overlap one in any other way. Everything passed by pointer or as an
// Array is in the device's memory: the host never reads it, so it need not wait for the device.
#pragma once

#include <cstdint>
#include <memory>
#include <type_traits>

#include "core/array.h"
#include "core/info.h"
#include "core/philox.h"
#include "core/reduce_map.h"
#include "core/windows.h"

namespace gradfuse {

// A row of a list of formulas with its parameters. In the list of activations, row -1 is the identity.
struct Formula {
    int row = -1;
    double parameters[FormulaInfo::max_parameters] = {};
};
using Activation = Formula;

enum class Reduction { none, mean, sum };

// y = scale * x + shift where kept, `dropped` elsewhere. With threshold 0 nothing is changed.
struct Dropout {
    RandomStream random;
    std::uint32_t threshold = 0;  // of 65536
    double scale = 1, shift = 0, dropped = 0;
};

// x -> before -> (v - mean) * invstd * weight + bias -> (+ residual) -> after -> dropout.
// Batch normalization in either order; without normalization, bias and activation of a dense layer.
struct ChannelOp {
    ChannelShape shape;
    Activation before, after;
    Dropout dropout;
    bool normalize = true;
    bool frozen = false;  // statistics are constants: they have no gradient

    GRADFUSE_HD bool through_statistics() const { return normalize && !frozen; }
};

// The arrays of a ChannelOp. Absent arrays are null; an absent x means zeros.
struct ChannelArrays {
    const Array *x = nullptr, *weight = nullptr, *bias = nullptr, *residual = nullptr;
    const double *mean = nullptr, *invstd = nullptr;  // per channel
    const Array* y = nullptr;
    const Array *dy = nullptr, *dx = nullptr, *dresidual = nullptr;
    const Array *dweight = nullptr, *dbias = nullptr;  // per channel
};

// Running statistics (both null if none are kept), and how a batch updates them.
struct RunningStatistics {
    const Array *mean = nullptr, *var = nullptr;  // per channel
    double momentum = 0;
    bool unbiased = true;
};

struct CrossEntropyParameters {
    double smoothing = 0, z_loss = 0, classes = 1;
    double ignore = 0.5;  // the label of rows that do not count; no label equals 0.5
};

struct CrossEntropyOperation {
    ChannelShape shape;  // of the logits, the classes its channels
    Grouping rows;
    CrossEntropyParameters parameters;
    Reduction reduction;
};

// The target is class indices (i32 or i64, one per row) or probabilities (shaped like the logits). The weights, one per
// class, may be absent. The loss is one number, or one per row if it is not reduced.
struct CrossEntropyArrays {
    const Array *logits, *target, *weight, *loss, *dlogits;
};

// total = x + add -> normalization of groups -> weight, bias -> activation -> dropout, with a row of the list of norms.
struct NormOperation {
    int row;
    double parameters[NormInfo::max_parameters];
    Grouping grouping;
    bool affine_per_run;   // weight and bias have a value per run of a group, otherwise per position
    std::int64_t periods;  // weight and bias have values for this many groups, one after the other, then repeat
    Activation activation;
    Dropout dropout;
    ElementOrder numbers;  // the indices of the elements for dropout
};

// Absent arrays are null. The statistics are dense arrays with a number per group, one for each group output of the
// norm's forward.
struct NormArrays {
    const Array *x = nullptr, *add = nullptr, *weight = nullptr, *bias = nullptr;
    double* statistics[NormInfo::max_statistics] = {};
    const Array *total = nullptr, *y = nullptr;
    const Array *dy = nullptr, *dtotal = nullptr;  // backward: x is the normalized array; dtotal is added to dx
    const Array *dx = nullptr, *dweight = nullptr, *dbias = nullptr;
};

// What to do if the norm of all gradients is not finite.
enum class Nonfinite { propagate, skip, raise };

// One tensor of an optimizer's or clipping's list: parameter, gradient, state, master copy.
struct Tensor {
    Array parameter, gradient;
    void* state[OptimizerInfo::max_slots] = {};  // contiguous, of the compute type
    float* master = nullptr;                     // the master weights of a half-precision parameter, if any
    int group = 0;
};

// A range of elements of one tensor. A task of a step is a range of chunks.
struct Chunk {
    int tensor;
    std::int64_t start, count;
};

// The part of a table that a device keeps between launches.
struct Resident {
    virtual ~Resident() = default;
};

struct ChunkTable {
    static constexpr std::int64_t chunk_size = 8192;
    const Tensor* tensors = nullptr;
    int tensor_count = 0;
    const Chunk* chunks = nullptr;
    int chunk_count = 0;
    const int* tasks = nullptr;  // task k is chunks[tasks[k]] .. chunks[tasks[k + 1] - 1]
    int task_count = 0;
    std::unique_ptr<Resident>* resident = nullptr;  // empty if the chunks are new
    bool lasting = false;                           // the resident part stays after the call
    std::int64_t version = 0;                       // changes with the arrays' memory
};

// The time of one parameter group.
struct Clock {
    std::int64_t t = 0;           // steps taken
    double momentum_product = 1;  // NAdam's product of mu_1 .. mu_t
};

// The user's settings for a step of one group.
struct GroupStep {
    double values[OptimizerInfo::max_values];  // hyper-parameters; values[0] is the current lr
    double gradient_factor = 1;                // g *= gradient_factor: the sign of maximize, and grad_scale
    double coupled_decay = 0;                  // g += coupled_decay * p
    double decoupled_factor = 1;               // p *= decoupled_factor
};

struct OptimizerStep {
    int optimizer;
    const GroupStep* groups;  // on the host
    int group_count;
    Clock* clocks;                 // per group: one step is counted
    const double* norm = nullptr;  // of all gradients, if it is needed
    double limit = infinity;       // a larger norm is scaled down to this
    bool skip = false;             // skip the step if the norm is not finite
    bool capturable = false;       // the device reads the groups that set_groups wrote
};

struct Backend {
    const char* name;

    void (*activation_forward)(const Activation&, const Array& x, const Array& y);
    void (*activation_backward)(const Activation&, const Array& dy, const Array& saved, const Array& dx);
    void (*dropout)(const Dropout&, const Array& x, const Array& y);
    // out = x > 0 ? v : slope * v with a slope drawn per element. Forward: v = x, backward: v = dy.
    void (*rrelu)(RandomStream, double lower, double upper, const Array& x, const Array& v, const Array& out);

    // y = a * act(gate); da = dy * act(gate), dgate = dy * a * act'(gate).
    void (*gated_forward)(const Activation&, const Array& a, const Array& gate, const Array& y);
    void (*gated_backward)(const Activation&, const Array& dy, const Array& a, const Array& gate, const Array& da,
                           const Array& dgate);
    // A row of the list of losses. The loss is one number, or one per element if it is not reduced.
    void (*loss)(const Formula&, Reduction, const Array& pred, const Array& target, const Array& loss,
                 const Array& dpred);

    void (*prelu_forward)(const ChannelShape&, const Array& x, const Array& weight, const Array& y);
    void (*prelu_backward)(const ChannelShape&, const Array& dy, const Array& x, const Array& weight, const Array& dx,
                           const Array& dweight);

    // Training: normalization by the batch. Writes the mean and 1 / sqrt(var + eps) of before(x) per channel, and
    // updates the running statistics.
    void (*batch_norm)(const ChannelOp&, const ChannelArrays&, double eps, const RunningStatistics&, double* mean,
                       double* invstd);
    // The mean and 1 / sqrt(var + eps) for given statistics.
    void (*given_statistics)(const Array& given_mean, const Array& given_var, double eps, double* mean, double* invstd);
    void (*channel_forward)(const ChannelOp&, const ChannelArrays&);
    void (*channel_backward)(const ChannelOp&, const ChannelArrays&);

    // The phases of batch normalization as separate functions. Moments are [3][channels]: count, mean, sum of squared
    // deviations; `b` is merged into `a`, or is the first. Sums are [2][channels]: the sums of dz and of dz xhat. The
    // local sums are dbias and dweight.
    void (*batch_moments)(const ChannelShape&, const Array& x, double* moments);
    void (*merge_moments)(double* a, const Array& b, bool first);
    void (*use_moments)(const Array& moments, double eps, const RunningStatistics&, double* mean, double* invstd);
    void (*batch_norm_sums)(const ChannelOp&, const ChannelArrays&, double* sums);
    void (*batch_norm_finish)(const ChannelOp&, const ChannelArrays&, const Array& local, const Array& sums,
                              const Array& moments);

    void (*row_forward)(const Formula&, const Grouping&, const Array& x, const Array& y);
    void (*row_backward)(const Formula&, const Grouping&, const Array& dy, const Array& saved, const Array& dx);
    void (*cross_entropy)(const CrossEntropyOperation&, const CrossEntropyArrays&);
    void (*norm_forward)(const NormOperation&, const NormArrays&);
    void (*norm_backward)(const NormOperation&, const NormArrays&);
    void (*maxout_forward)(const ChannelShape&, int pieces, const Array& x, const Array& y);
    void (*maxout_backward)(const ChannelShape&, int pieces, const Array& dy, const Array& x, const Array& dx);

    void (*gather_windows)(const WindowShape&, const Array& images, double fill, const Array& windows);
    void (*add_windows)(const WindowShape&, const Array& windows, const Array& images);

    // The L2 norm of each tensor's gradient, or of all gradients together.
    void (*gradient_norms)(const ChunkTable&, bool per_tensor, double* norms);
    // Scales gradients so that their norms are at most the limit; those whose norm is not finite only if `all`.
    void (*clip_to_norm)(const ChunkTable&, bool per_tensor, const double* norms, double limit, bool all);
    void (*clamp)(const ChunkTable&, double limit);                       // gradients to [-limit, limit]
    void (*max_norm)(const ChannelShape&, double limit, const Array& w);  // the norm of each channel to at most limit
    void (*optimizer_step)(const ChunkTable&, const OptimizerStep&);
    void (*set_groups)(const ChunkTable&, const OptimizerStep&);  // of a capturable step, for its next replay
};

// The names of the table's functions, in order. A device declares them all and fills the table with them.
// clang-format off
#define GRADFUSE_OPERATIONS(each) \
    each(activation_forward) each(activation_backward) each(dropout) each(rrelu) \
    each(gated_forward) each(gated_backward) each(loss) \
    each(prelu_forward) each(prelu_backward) \
    each(batch_norm) each(given_statistics) each(channel_forward) each(channel_backward) \
    each(batch_moments) each(merge_moments) each(use_moments) each(batch_norm_sums) each(batch_norm_finish) \
    each(row_forward) each(row_backward) each(cross_entropy) each(norm_forward) each(norm_backward) \
    each(maxout_forward) each(maxout_backward) \
    each(gather_windows) each(add_windows) \
    each(gradient_norms) each(clip_to_norm) each(clamp) each(max_norm) each(optimizer_step) each(set_groups)
// clang-format on
#define GRADFUSE_DECLARE(operation) std::remove_pointer_t<decltype(Backend::operation)> operation;
#define GRADFUSE_ENTER(operation) operation,

const Backend* const* backends(int& count);  // those that this processor can run, the best one last

}  // namespace gradfuse
