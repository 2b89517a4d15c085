"""Derive the coefficients of csrc/core/math.h: prints P (and Q) of every function there, in the order of the header.

Needs only mpmath; takes about a minute. Every fit makes the greatest weighted error least, by Lawson's iteration: least
squares over Chebyshev points at 60 digits, each point's weight multiplied by its error until all peaks are level. The
coefficients are then rounded one by one, lowest powers first, and the others fitted again each time, so that little of
the optimum is lost.
"""

import struct

from mpmath import mp, mpf

mp.dps = 60


def chebyshev(low, high, count):
    """Points of [low, high], dense towards both ends."""
    low, high = mpf(low), mpf(high)
    return [(low + high) / 2 - (high - low) / 2 * mp.cos(mp.pi * (i + mpf(1) / 2) / count) for i in range(count)]


def squares(high, count):
    """Points of [0, high^2], dense towards its end: for functions of z = x^2."""
    return [x * x for x in chebyshev(-mpf(high), high, 2 * count)[count:]]


def rounded(x, dtype):
    return mpf(struct.unpack("f", struct.pack("f", x))[0] if dtype == "float" else float(x))


def literal(x, dtype):
    return f"{float(x):.9g}f" if dtype == "float" else repr(float(x))


def evaluate(c, which, x):
    return sum((value * x**k for (name, k), value in c.items() if name == which), mpf(0))


def lawson(xs, f, weight, degrees, known, steps=12):
    """The coefficients P0, Q0, P1, Q1 ... with max |weight (P/Q - f)| least, some of them known, and that maximum."""
    names = [(name, k) for k in range(max(degrees.values()) + 1) for name in "PQ" if k <= degrees[name]]
    free, c, level = [name for name in names if name not in known], dict(known), [mpf(1)] * len(xs)
    columns = [{(n, k): x**k * (1 if n == "P" else -y) for n, k in names} for x, y in zip(xs, f, strict=True)]
    rows = [[column[name] for name in free] for column in columns]
    targets = [-sum(column[name] * value for name, value in known.items()) for column in columns]
    for _ in range(steps if free else 1):
        if free:
            normal, right = mp.matrix(len(free), len(free)), mp.matrix(len(free), 1)
            for x, w, v, row, target in zip(xs, weight, level, rows, targets, strict=True):
                scale = v * (w / evaluate(c, "Q", x)) ** 2
                for i, a in enumerate(row):
                    right[i] += scale * a * target
                    for j, b in enumerate(row):
                        normal[i, j] += scale * a * b
            c.update(zip(free, mp.lu_solve(normal, right), strict=True))
        fitted = [evaluate(c, "P", x) / evaluate(c, "Q", x) for x in xs]
        errors = [abs(w * (p - y)) for w, p, y in zip(weight, fitted, f, strict=True)]
        level = [v * (e / max(errors) + mpf("1e-3")) for v, e in zip(level, errors, strict=True)]
        level = [v / max(level) for v in level]
    return c, max(errors), free


def fit(title, dtype, xs, f, weight, p_degree, q_degree=0, p0=None, q0=1):
    """Print P and Q with P/Q near f. Q(0) is given, P(0) may be."""
    f, weight, known = [f(x) for x in xs], [weight(x) for x in xs], {("Q", 0): mpf(q0)}
    if p0:
        known["P", 0] = mpf(p0)
    c, error, free = lawson(xs, f, weight, {"P": p_degree, "Q": q_degree}, known)
    while free:
        known[free[0]] = rounded(c[free[0]], dtype)
        c, error, free = lawson(xs, f, weight, {"P": p_degree, "Q": q_degree}, known)
    print(f"{title}, {dtype}: error 2^{float(mp.log(error, 2)):.1f}")
    for which in "PQ" if q_degree else "P":
        print(f"  {which}:", ", ".join(literal(c[name], dtype) for name in sorted(c) if name[0] == which), flush=True)


def exp_tail(r):  # exp(r) = 1 + r + r^2 P(r)
    return (mp.expm1(r) - r) / r**2


def tanh_tail(z):  # tanh(r) = r + r z P(z), z = r^2
    return (mp.tanh(mp.sqrt(z)) / mp.sqrt(z) - 1) / z


def log1p_tail(f):  # log1p(f) = f + f^2 P(f)
    return (mp.log1p(f) - f) / f**2


def atanh_tail(u):  # log1p(f) = f + s (u P(u) - f), s = f / (2 + f), u = s^2
    return 2 * (mp.atanh(mp.sqrt(u)) / mp.sqrt(u) - 1) / u


def mills(a):  # Phi(-a) / exp(-a^2 / 2)
    return mp.erfc(a / mp.sqrt(2)) * mp.exp(a * a / 2) / 2


def mills_rest(a):  # mills(a) = 1 / (sqrt(2 pi) a + P(a) / Q(a))
    return 1 / mills(a) - mp.sqrt(2 * mp.pi) * a


def erf_tail(z):  # erf(x) = x + x P(z), z = x^2
    return mp.erf(mp.sqrt(z)) / mp.sqrt(z) - 1


# What an error of P is in the function itself, relatively.
def of_expm1(r):
    return r**2 / abs(mp.expm1(r))


def of_exp(r):  # the other errors are greatest near -ln2 / 2: be best there
    return of_expm1(r) * (6 if r < -0.22 else 1)


def of_tanh(z):
    return z / (1 + z * tanh_tail(z))


def of_log1p(f):
    return f**2 / abs(mp.log1p(f))


def of_atanh(u):
    return u


def of_erf(z):
    return 1 / (1 + erf_tail(z))


def main():
    half_ln2 = mp.log(2) / 2 * mpf("1.002")
    fit("exp_tail", "float", chebyshev(-half_ln2, half_ln2, 100), exp_tail, of_exp, 4)
    fit("exp_tail", "double", chebyshev(-half_ln2, half_ln2, 100), exp_tail, of_expm1, 9, p0=0.5)
    fit("tanh_tail", "float", squares("0.268", 60), tanh_tail, of_tanh, 2)
    fit("tanh_tail", "double", squares("0.268", 60), tanh_tail, of_tanh, 6)
    fit("log1p_tail", "float", chebyshev(-0.25, 0.5, 100), log1p_tail, of_log1p, 8, p0=-0.5)
    fit("log1p_tail", "double", chebyshev(0, mpf("0.04"), 100), atanh_tail, of_atanh, 6)
    fit("log1p_unit", "float", chebyshev(0, 1, 100), log1p_tail, of_log1p, 8)
    fit("log1p_unit", "double", chebyshev(0, mpf(1) / 9, 100), atanh_tail, of_atanh, 9)
    fit("mills", "float", chebyshev(0, "14.5", 120), mills_rest, mills, 4, 4, p0=1.8125, q0=0.90625)
    fit("mills", "double", chebyshev(0, "38.6", 200), mills_rest, mills, 9, 10, p0=1.8125, q0=0.90625)
    fit("erf_tail", "float", squares(1, 100), erf_tail, of_erf, 6)
    fit("erf_tail", "double", squares(1, 100), erf_tail, of_erf, 11)


if __name__ == "__main__":
    main()
