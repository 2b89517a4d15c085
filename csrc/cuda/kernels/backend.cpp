#include "core/backend.h"

#include "cuda/kernels.h"
#include "cuda/runtime.h"

namespace smelt::cuda {

const Backend& backend() {
    static const Backend table = {
        "cuda",
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
        set_groups,
    };
    return table;
}

}  // namespace smelt::cuda
