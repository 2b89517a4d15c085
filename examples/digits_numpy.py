"""The step of digits.py in plain NumPy, NAdam included: what its formulas are, and what they cost unfused.

Parameters and running statistics are those of digits.py, by name; float32 or float64, whichever they are.
"""

import numpy as np


def batch_norm_elu_dropout(z, mean, var, gamma, beta, keep_of, p, momentum=0.1, eps=1e-5):
    """Dropout of ELU of batch norm of z (N, C), and what goes back; the running mean and var move in place."""
    n = len(z)
    centred = z - z.mean(axis=0)
    batch_var = np.mean(centred * centred, axis=0)
    mean += momentum * (z.mean(axis=0) - mean)
    var += momentum * (batch_var * (n / (n - 1)) - var)
    inv_std = 1 / np.sqrt(batch_var + eps)
    xhat = centred * inv_std
    a = gamma * xhat + beta
    elu = np.where(a > 0, a, np.expm1(np.minimum(a, 0)))
    scale = keep_of(z.shape) * z.dtype.type(1 / (1 - p))
    return elu * scale, (xhat, inv_std, gamma, elu, scale)


def batch_norm_elu_dropout_backward(dy, ctx):
    """(dz, dgamma, dbeta) of batch_norm_elu_dropout."""
    xhat, inv_std, gamma, elu, scale = ctx
    da = dy * scale * np.where(elu > 0, 1, elu + 1)
    dbeta = da.sum(axis=0)
    dgamma = np.einsum("nc,nc->c", da, xhat)
    dz = (gamma * inv_std) * (da - (dbeta + xhat * dgamma) / len(dy))
    return dz, dgamma, dbeta


def cross_entropy(logits, target):
    """The mean loss of a batch, and its gradient with respect to the logits."""
    rows = np.arange(len(logits))
    shifted = logits - logits.max(axis=1, keepdims=True)
    exp = np.exp(shifted)
    total = exp.sum(axis=1, keepdims=True)
    loss = np.mean(np.log(total[:, 0]) - shifted[rows, target])
    dlogits = exp / total
    dlogits[rows, target] -= 1
    return loss, dlogits / len(logits)


def gradients(p, s, x, target, keep_of, dropout):
    """Loss and gradients of a batch; keep_of(shape) draws a dropout mask, True where an element is kept."""
    h1, ctx1 = batch_norm_elu_dropout(x @ p.W1, s.mean1, s.var1, p.gamma1, p.beta1, keep_of, dropout)
    h2, ctx2 = batch_norm_elu_dropout(h1 @ p.W2, s.mean2, s.var2, p.gamma2, p.beta2, keep_of, dropout)
    loss, dlogits = cross_entropy(h2 @ p.W3 + p.b3, target)

    dz2, dgamma2, dbeta2 = batch_norm_elu_dropout_backward(dlogits @ p.W3.T, ctx2)
    dz1, dgamma1, dbeta1 = batch_norm_elu_dropout_backward(dz2 @ p.W2.T, ctx1)
    dW1, dW2, dW3 = x.T @ dz1, h1.T @ dz2, h2.T @ dlogits
    return loss, [dW1, dgamma1, dbeta1, dW2, dgamma2, dbeta2, dW3, dlogits.sum(axis=0)]


def nadam(params, lr=2e-3, b1=0.9, b2=0.999, eps=1e-8, momentum_decay=4e-3):
    """A function step(grads) that moves the parameters in place (Dozat 2016)."""
    moments = [(np.zeros_like(p), np.zeros_like(p)) for p in params]
    t, product = 0, 1.0

    def step(grads):
        nonlocal t, product
        t += 1
        mu = b1 * (1 - 0.5 * 0.96 ** (t * momentum_decay))
        mu_next = b1 * (1 - 0.5 * 0.96 ** ((t + 1) * momentum_decay))
        product *= mu
        of_g = lr * (1 - mu) / (1 - product)
        of_m = lr * mu_next / (1 - product * mu_next)
        for p, g, (m, v) in zip(params, grads, moments, strict=True):
            m *= b1
            m += (1 - b1) * g
            v *= b2
            v += (1 - b2) * (g * g)
            p -= (of_g * g + of_m * m) / (np.sqrt(v / (1 - b2**t)) + eps)

    return step
