// CUDA's functions for the backend table. See core/backend.h.
#pragma once

#include "core/backend.h"

namespace smelt::cuda {

void activation_forward(const Activation&, const Array& x, const Array& y);
void activation_backward(const Activation&, const Array& dy, const Array& saved, const Array& dx);
void dropout(const Dropout&, const Array& x, const Array& y);
void rrelu(RandomStream, double lower, double upper, const Array& x, const Array& v, const Array& out);

void prelu_forward(const ChannelShape&, const Array& x, const Array& weight, const Array& y);
void prelu_backward(const ChannelShape&, const Array& dy, const Array& x, const Array& weight, const Array& dx,
                    const Array& dweight);
void batch_statistics(const ChannelOp&, const Array& x, double eps, const RunningStatistics&, double* mean,
                      double* invstd);
void given_statistics(const Array& given_mean, const Array& given_var, double eps, double* mean, double* invstd);
void channel_forward(const ChannelOp&, const ChannelArrays&);
void channel_backward(const ChannelOp&, const ChannelArrays&);
void max_norm(const ChannelShape&, double limit, const Array& w);

void softmax(const ChannelShape&, bool log, const Array& x, const Array& y);
void softmax_backward(const ChannelShape&, bool log, const Array& dy, const Array& y, const Array& dx);
void cross_entropy(const Array& logits, const Array& target, double label_smoothing, Reduction, const Array& loss,
                   const Array& dlogits);
void mse_loss(const Array& pred, const Array& target, Reduction, const Array& loss, const Array& dpred);
void maxout_forward(const ChannelShape&, int pieces, const Array& x, const Array& y);
void maxout_backward(const ChannelShape&, int pieces, const Array& dy, const Array& x, const Array& dx);

void gradient_norms(const ChunkTable&, bool per_tensor, double* norms);
void clip_to_norm(const ChunkTable&, bool per_tensor, const double* norms, double limit, bool all);
void clamp(const ChunkTable&, double limit);
void optimizer_step(const ChunkTable&, const OptimizerStep&);
void set_groups(const ChunkTable&, const OptimizerStep&);

}  // namespace smelt::cuda
