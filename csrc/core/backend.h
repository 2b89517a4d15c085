// What a device must offer: one function per operation, on views whose every property has been checked.
//
// The CPU fills this table once per instruction set; another device fills it with loops of its own. The formulas are
// the same for all. Outputs may be the very arrays that are read (same view), never otherwise overlapping ones.
#pragma once

#include <cstdint>

#include "core/array.h"
#include "core/info.h"
#include "core/philox.h"

namespace smelt {

// A row of the list of activations with its parameters; row -1 is the identity.
struct Activation {
    int row = -1;
    double parameters[ActivationInfo::max_parameters] = {};
};

// y = scale * x + shift where kept, `dropped` elsewhere; threshold 0 keeps everything as it is.
struct Dropout {
    RandomStream random;
    std::uint32_t threshold = 0;  // of 65536
    double scale = 1, shift = 0, dropped = 0;
};

// x -> before -> (v - mean) * invstd * weight + bias -> (+ residual) -> after -> dropout.
// Batch normalization in either order, and with no normalization the end of a dense layer.
struct ChannelOp {
    ChannelShape shape;
    Activation before, after;
    Dropout dropout;
    bool normalize = true;
    bool frozen = false;  // statistics are constants: the backward does not go through them

    SMELT_HD bool through_statistics() const { return normalize && !frozen; }
};

// The arrays of a ChannelOp. Those that are absent are null.
struct ChannelArrays {
    const Array *x = nullptr, *weight = nullptr, *bias = nullptr, *residual = nullptr;
    const double *mean = nullptr, *invstd = nullptr;  // per channel
    const Array* y = nullptr;
    const Array *dy = nullptr, *dx = nullptr, *dresidual = nullptr;
    double *dweight = nullptr, *dbias = nullptr;  // per channel
};

enum class Reduction { none, mean, sum };

// One array of an optimizer's or a clip's list: parameter (or array), gradient, state, master copy.
struct Tensor {
    Array parameter, gradient;
    void* state[OptimizerInfo::max_slots] = {};  // contiguous, of the compute type
    float* master = nullptr;                     // of a half-precision parameter, where it has one
    int group = 0;
};

// A run of elements of one tensor; the tasks of a step are runs of chunks.
struct Chunk {
    int tensor;
    std::int64_t start, count;
};

struct ChunkTable {
    static constexpr std::int64_t chunk_size = 8192;
    const Tensor* tensors = nullptr;
    const Chunk* chunks = nullptr;
    const int* tasks = nullptr;  // task k is chunks[tasks[k]] .. chunks[tasks[k + 1] - 1]
    int task_count = 0;
};

// One group's part of a step.
struct GroupStep {
    double values[OptimizerInfo::max_values];  // hyper-parameters; values[0] is the lr in force
    std::int64_t t = 0;                        // steps, this one included
    double momentum_product = 1;
    double coupled_decay = 0;     // g += coupled_decay * p
    double decoupled_factor = 1;  // p *= decoupled_factor
    double gradient_factor = 1;   // clipping, and -1 for maximize
};

struct Backend {
    const char* name;

    void (*activation_forward)(const Activation&, const Array& x, const Array& y);
    void (*activation_backward)(const Activation&, const Array& dy, const Array& saved, const Array& dx);
    void (*dropout)(const Dropout&, const Array& x, const Array& y);
    // out = x > 0 ? v : slope * v, the slope drawn per element: forward with v = x, backward with v = dy.
    void (*rrelu)(RandomStream, double lower, double upper, const Array& x, const Array& v, const Array& out);

    void (*prelu_forward)(const ChannelShape&, const Array& x, const Array& weight, const Array& y);
    void (*prelu_backward)(const ChannelShape&, const Array& dy, const Array& x, const Array& weight, const Array& dx,
                           double* dweight);

    // Mean and sum of squared deviations of before(x), per channel.
    void (*channel_statistics)(const ChannelOp&, const Array& x, double* mean, double* squares);
    void (*channel_forward)(const ChannelOp&, const ChannelArrays&);
    void (*channel_backward)(const ChannelOp&, const ChannelArrays&);

    void (*softmax)(const ChannelShape&, bool log, const Array& x, const Array& y);
    void (*softmax_backward)(const ChannelShape&, bool log, const Array& dy, const Array& y, const Array& dx);
    // The target is class indices (i64, one per row) or probabilities (as the logits). losses: one per row, as
    // computed.
    void (*cross_entropy)(const Array& logits, const Array& target, double label_smoothing, double scale,
                          double* losses, const Array& dlogits);
    void (*mse_loss)(const Array& pred, const Array& target, double scale, double* sum, const Array* losses,
                     const Array& dpred);
    void (*maxout_forward)(const ChannelShape&, int pieces, const Array& x, const Array& y);
    void (*maxout_backward)(const ChannelShape&, int pieces, const Array& dy, const Array& x, const Array& dx);

    void (*squared_norms)(const ChunkTable&, double* per_chunk);          // of the gradients
    void (*scale)(const ChunkTable&, const double* factors);              // gradients *= factors[tensor]
    void (*clamp)(const ChunkTable&, double limit);                       // gradients to [-limit, limit]
    void (*max_norm)(const ChannelShape&, double limit, const Array& w);  // the norm of each channel to at most limit
    void (*optimizer_step)(int optimizer, const ChunkTable&, const GroupStep*, int groups);
};

const Backend* const* backends(int& count);  // those this processor can run, the best last

}  // namespace smelt
