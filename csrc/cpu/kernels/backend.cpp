#include "core/backend.h"

#include "cpu/kernels.h"

#define SMELT_TEXT_(x) #x
#define SMELT_TEXT(x) SMELT_TEXT_(x)

namespace smelt {
inline namespace SMELT_ISA {

extern const Backend backend;
const Backend backend = {
    SMELT_TEXT(SMELT_ISA),
    activation_forward,
    activation_backward,
    dropout,
    rrelu,
    prelu_forward,
    prelu_backward,
    batch_statistics,
    given_statistics,
    channel_forward,
    channel_backward,
    softmax,
    softmax_backward,
    cross_entropy,
    mse_loss,
    maxout_forward,
    maxout_backward,
    gradient_norms,
    clip_to_norm,
    clamp,
    max_norm,
    optimizer_step,
    nullptr,
};

}  // namespace SMELT_ISA
}  // namespace smelt
