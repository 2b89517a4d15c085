"""The training step of digits.py in plain NumPy, NAdam included: its formulas, one array operation at a time.

The arguments p and r are digits.py's Params and Running, float32 or float64 as they are.
"""

import numpy as np


def keep_mask(rng, p, shape):
    """True where dropout keeps an element."""
    return rng.random(shape, np.float32) >= p


def batch_norm_elu_dropout(z, mean, var, gamma, beta, keep, p, momentum=0.1, eps=1e-5):
    """Dropout of ELU of batch norm of z (N, C), and what goes back; the running mean and var move in place."""
    n = len(z)
    batch_mean = z.mean(axis=0)
    xhat = z - batch_mean
    batch_var = np.einsum("nc,nc->c", xhat, xhat) / n
    mean += momentum * (batch_mean - mean)
    var += momentum * (batch_var * (n / (n - 1)) - var)
    inv_std = 1 / np.sqrt(batch_var + eps)
    xhat *= inv_std
    a = gamma * xhat + beta
    elu = np.where(a > 0, a, np.expm1(np.minimum(a, 0)))
    scale = keep(z.shape) * z.dtype.type(1 / (1 - p))
    return elu * scale, (xhat, gamma * inv_std, elu, scale)


def batch_norm_elu_dropout_backward(dy, ctx):
    """(dz, dgamma, dbeta) of batch_norm_elu_dropout."""
    xhat, slope, elu, scale = ctx
    da = dy * scale * (np.minimum(elu, 0) + 1)  # ELU's derivative: 1 above 0, else elu + 1
    dbeta = da.sum(axis=0)
    dgamma = np.einsum("nc,nc->c", da, xhat)
    dz = slope * (da - (dbeta + xhat * dgamma) / len(dy))
    return dz, dgamma, dbeta


def cross_entropy(logits, target, smoothing):
    """The mean loss of a batch, and its gradient with respect to the logits."""
    n, classes = logits.shape
    q = np.full_like(logits, smoothing / classes)
    q[np.arange(n), target] += 1 - smoothing
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return -np.sum(q * log_p) / n, (np.exp(log_p) - q) / n


def gradients(p, r, x, target, keep, dropout, smoothing):
    """The loss of a batch and its gradient with respect to each parameter; keep(shape) draws a dropout mask."""
    h1, ctx1 = batch_norm_elu_dropout(x @ p.W1, r.mean1, r.var1, p.gamma1, p.beta1, keep, dropout)
    h2, ctx2 = batch_norm_elu_dropout(h1 @ p.W2, r.mean2, r.var2, p.gamma2, p.beta2, keep, dropout)
    loss, dlogits = cross_entropy(h2 @ p.W3 + p.b3, target, smoothing)

    dz2, dgamma2, dbeta2 = batch_norm_elu_dropout_backward(dlogits @ p.W3.T, ctx2)
    dz1, dgamma1, dbeta1 = batch_norm_elu_dropout_backward(dz2 @ p.W2.T, ctx1)
    dW1, dW2, dW3 = x.T @ dz1, h1.T @ dz2, h2.T @ dlogits
    return loss, type(p)(dW1, dgamma1, dbeta1, dW2, dgamma2, dbeta2, dW3, dlogits.sum(axis=0))


def nadam(params, lr=2e-3, b1=0.9, b2=0.999, eps=1e-8, momentum_decay=4e-3):
    """A function step(grads) that moves the parameters in place (Dozat 2016)."""
    state = [(np.zeros_like(p), np.zeros_like(p)) for p in params]
    t, product = 0, 1.0

    def step(grads):
        nonlocal t, product
        t += 1
        mu, mu_next = (b1 * (1 - 0.5 * 0.96 ** (k * momentum_decay)) for k in (t, t + 1))
        product *= mu
        of_g, of_m = lr * (1 - mu) / (1 - product), lr * mu_next / (1 - product * mu_next)
        for p, g, (m, v) in zip(params, grads, state, strict=True):
            m += (1 - b1) * (g - m)
            v += (1 - b2) * (g * g - v)
            p -= (of_g * g + of_m * m) / (np.sqrt(v / (1 - b2**t)) + eps)

    return step
