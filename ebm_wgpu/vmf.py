"""Von Mises-Fisher distributions on S^{d-1}, relative to the uniform probability, in float64.

p(x) = exp(k mu.x - log Z0(k)) with Z0(k) = E_uniform[exp(k mu.x)], so log Z0(0) = 0. Concentrations
k >= 0 are in natural units (a splat of relative concentration kappa has k = (d-1) kappa).

log Z0 is the uniform Debye expansion of the Bessel function I_nu, nu = d/2 - 1 (Abramowitz and
Stegun 9.7.7, polynomials up to u_4), taken at a dimension D >= 128 and brought down to d by

    log Z0_d(k) = log Z0_{d+2}(k) + log(1 + f_{d+2}/d),   f_d = k^2 / (d + f_{d+2}),   f = k A(k),

which follows from the three-term recurrence. The expansion alone has a relative error of 1e-9 at
d = 64 and 1e-3 at d = 8; this way it is below 1e-10 at every d >= 8. Everything is carried as
differences between k^2 = q and q + delta, so that nothing large is ever subtracted.
"""

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.polynomial import Polynomial
from numpy.typing import ArrayLike, NDArray

from ebm_wgpu.errors import ConfigError
from ebm_wgpu.sphere import FloatArray, proju, projx

Float64Array = NDArray[np.float64]
Coefficients = tuple[float, ...]

MIN_DIMENSION = 8
_DEBYE_DIMENSION = 128
_SMALLEST_SQUARE = 1e-200
_NEWTON_STEPS = 30
_NEWTON_TOLERANCE = 1e-8
_CDF_PANELS = 64
_CDF_NODES = 16
_CDF_WIDTHS = 16.0


def log_z0(k: ArrayLike, d: int) -> FloatArray:
    """log Z0(k) = log E_uniform[exp(k mu.x)] = log[Gamma(nu+1) (2/k)^nu I_nu(k)], in nats.

    k: (...) >= 0, natural units. Returns (...); exactly 0 at k = 0.
    Raises `ConfigError` for d < 8 or a k that is negative or not finite.
    """
    concentration = _concentration("k", k, d)
    zero = np.zeros_like(concentration)
    return _like(_difference(zero, concentration**2, d).log_z0, k)


def log_z0_ratio(a: ArrayLike, delta: ArrayLike, d: int) -> FloatArray:
    """log Z0(r) - log Z0(a) with r^2 = a^2 + delta, without subtracting the two.

    The tilt of a splat by a context: a is its concentration, r = |a mu + h| and
    delta = 2 a mu.h + |h|^2. Relative error stays at rounding level however small delta is.
    a: (...) >= 0; delta: (...), raised to -a^2 if rounding took it below (then r = 0).
    Raises `ConfigError` for d < 8, or values that are negative (a) or not finite.
    """
    squared = _concentration("a", a, d) ** 2
    change = np.asarray(delta, np.float64)
    if not np.isfinite(change).all():
        raise ConfigError("log_z0_ratio: delta is not finite: check the context vector")
    change = np.maximum(change, -squared)
    # From the smaller end the recurrence damps rounding errors; from the larger it feeds them.
    smaller = squared + np.minimum(change, 0)
    ratio = np.sign(change) * _difference(smaller, np.abs(change), d).log_z0
    return _like(ratio, a, delta)


def mean_cosine(k: ArrayLike, d: int) -> FloatArray:
    """A_d(k) = E[mu.x] = d log Z0 / dk = I_{d/2}(k) / I_{d/2-1}(k), in [0, 1).

    k: (...) >= 0, natural units. Raises `ConfigError` as `log_z0`.
    """
    concentration = _concentration("k", k, d)
    return _like(_mean_cosine(concentration, d)[0], k)


def mean_cosine_derivative(k: ArrayLike, d: int) -> FloatArray:
    """dA_d/dk = 1 - A^2 - (d-1) A/k = Var[mu.x]: 1/d at k = 0, about (d-1)/(2 k^2) for large k.

    k: (...) >= 0. Computed without the cancellation of that formula. Raises as `log_z0`.
    """
    concentration = _concentration("k", k, d)
    return _like(_mean_cosine(concentration, d)[1], k)


def mean_cosine_quick(k: ArrayLike, d: int) -> FloatArray:
    """2b / (1 + sqrt(1 + 4 b^2)), b = k/(d-1): A_d(k) with an error below 0.25/d.

    k: (...) >= 0. The largest error is 3.4e-4 at d = 640 and 0.031 at d = 8, near k = 0.4 d; the
    exact inverse of this form is b = A / (1 - A^2). Raises `ConfigError` as `log_z0`.
    """
    b = _concentration("k", k, d) / (d - 1)
    return _like(2 * b / (1 + np.hypot(1, 2 * b)), k)


def inverse_mean_cosine(cosine: ArrayLike, d: int) -> FloatArray:
    """The k >= 0 with A_d(k) = cosine, by Newton's method from (d-1) A/(1-A^2).

    cosine: (...) in [0, 1). Returns natural units, exact to the conditioning of the problem.
    Raises `ConfigError` for values outside [0, 1).
    """
    _check_dimension(d)
    target = np.asarray(cosine, np.float64)
    if not ((target >= 0) & (target < 1)).all():
        raise ConfigError("inverse_mean_cosine: mean cosines must lie in [0, 1): clip them first")
    k = (d - 1) * target / ((1 - target) * (1 + target))
    for _ in range(_NEWTON_STEPS):
        reached, derivative = _mean_cosine(k, d)
        # Beyond k = 1e15 the derivative is lost to rounding, and the start was already exact.
        useful = derivative > 0
        step = np.divide(reached - target, derivative, out=np.zeros_like(k), where=useful)
        k = np.where(step < k, k - step, k / 2)
        # The error left is the square of the step.
        if (np.abs(step) <= _NEWTON_TOLERANCE * k).all():
            break
    return _like(k, cosine)


def vmf_cosine_cdf(t: ArrayLike, k: float, d: int) -> Float64Array:
    """P(mu.x <= t) for x ~ vMF(k mu): the integral of (1-t^2)^((d-3)/2) exp(k t), normalised.

    t: (...) cosines; k: one concentration >= 0, natural units. Gauss-Legendre panels in the angle
    over 16 standard widths each side of the mode, absolute error below 1e-12: the reference for
    Kolmogorov-Smirnov tests. Raises `ConfigError` as `log_z0`.
    """
    k = float(_concentration("k", k, d))
    # The mode of (d-2) log sin(theta) + k cos(theta): k sin^2 = (d-2) cos.
    mode_cosine = 2 * k / (d - 2 + np.hypot(d - 2, 2 * k))
    mode = np.arccos(mode_cosine)
    width = _CDF_WIDTHS * np.sin(mode) / np.sqrt((d - 2) * (1 + mode_cosine**2))
    edges = np.linspace(max(0.0, mode - width), min(np.pi, mode + width), _CDF_PANELS + 1)
    nodes, weights = np.polynomial.legendre.leggauss(_CDF_NODES)
    nodes, weights = (nodes + 1) / 2, weights / 2

    def integral(start: Float64Array, stop: Float64Array) -> Float64Array:
        angle = start[..., None] + (stop - start)[..., None] * nodes
        sine_ratio = np.sin(angle) / np.sin(mode)
        with np.errstate(divide="ignore"):
            exponent = (d - 2) * np.log(sine_ratio) + k * (np.cos(angle) - mode_cosine)
        result: Float64Array = (np.exp(exponent) @ weights) * (stop - start)
        return result

    upto = np.concatenate([[0.0], np.cumsum(integral(edges[:-1], edges[1:]))])
    angle = np.clip(np.arccos(np.clip(np.asarray(t, np.float64), -1, 1)), edges[0], edges[-1])
    panel = np.clip(np.searchsorted(edges, angle, side="right") - 1, 0, _CDF_PANELS - 1)
    below = upto[panel] + integral(edges[panel], angle)
    return np.asarray(np.clip(1 - below / upto[-1], 0, 1))


def sample_vmf_cosine(k: ArrayLike, d: int, rng: np.random.Generator) -> Float64Array:
    """Cosines mu.x of x ~ vMF(k mu), exact, by Wood's rejection from a beta envelope.

    k: (...) >= 0, natural units. Returns (...) in [-1, 1]. Acceptance is 0.71 to 1 at d = 640.
    Source: Wood, "Simulation of the von Mises Fisher distribution" (1994).
    Raises `ConfigError` as `log_z0`.
    """
    concentration = _concentration("k", k, d)
    flat = concentration.reshape(-1)
    m = d - 1
    b = m / (2 * flat + np.hypot(2 * flat, m))
    centre = (1 - b) / (1 + b)
    # 1 - centre^2 = 4b/(1+b)^2, without the cancellation when b is small.
    bound = flat * centre + m * np.log(4 * b / (1 + b) ** 2)
    cosine = np.empty_like(flat)
    todo = np.arange(flat.size)
    while todo.size:
        beta = rng.beta(m / 2, m / 2, todo.size)
        proposal = (1 - (1 + b[todo]) * beta) / (1 - (1 - b[todo]) * beta)
        # log1p(-u) of a uniform in [0, 1) is a log of (0, 1]: never minus infinity.
        threshold = np.log1p(-rng.random(todo.size))
        score = flat[todo] * proposal + m * np.log1p(-centre[todo] * proposal) - bound[todo]
        accepted = score >= threshold
        cosine[todo[accepted]] = proposal[accepted]
        todo = todo[~accepted]
    return np.clip(cosine, -1, 1).reshape(concentration.shape)


def sample_vmf(eta: ArrayLike, rng: np.random.Generator) -> FloatArray:
    """One exact draw x ~ p(x) = exp(eta.x - log Z0(|eta|)) for each natural parameter eta.

    eta: (..., d), natural units (concentration times mean direction; zero gives the uniform).
    Returns unit vectors of the same shape and type: the cosine by Wood's rejection, the rest a
    uniform tangent direction. Raises `ConfigError` as `log_z0`.
    """
    natural = np.asarray(eta)
    result_type = natural.dtype if natural.dtype == np.float32 else np.float64
    natural = natural.astype(np.float64, copy=False)
    k = np.linalg.norm(natural, axis=-1)
    cosine = sample_vmf_cosine(k, natural.shape[-1], rng)[..., None]
    pole = np.zeros(natural.shape[-1])
    pole[0] = 1
    mean = projx(np.where(k[..., None] > 0, natural, pole))
    across = projx(proju(mean, rng.standard_normal(natural.shape)))
    draw = cosine * mean + np.sqrt((1 - cosine) * (1 + cosine)) * across
    return draw.astype(result_type, copy=False)


class _Difference(NamedTuple):
    """Quantities between squared concentrations q and q + delta >= q, at one dimension."""

    log_z0: Float64Array  # log Z0(sqrt(q+delta)) - log Z0(sqrt(q))
    f_start: Float64Array  # f = k A(k) at q
    f_stop: Float64Array  # f at q + delta
    f_slope: Float64Array  # (f_stop - f_start) / delta, the derivative df/dq where delta = 0


def _difference(q: Float64Array, delta: Float64Array, d: int) -> _Difference:
    """The differences at dimension d, from the Debye expansion and the downward recurrence."""
    steps = max(0, -((d - _DEBYE_DIMENSION) // 2))
    log_ratio, f_start, f_stop, slope = _debye_difference(q, delta, d + 2 * steps)
    for dimension in range(d + 2 * steps - 2, d - 1, -2):
        start, stop = dimension + f_start, dimension + f_stop
        log_ratio = log_ratio + np.log1p(slope * delta / start)
        slope = (start - q * slope) / (start * stop)
        f_start, f_stop = q / start, (q + delta) / stop
    return _Difference(log_ratio, f_start, f_stop, slope)


def _debye_difference(q: Float64Array, delta: Float64Array, d: int) -> _Difference:
    """The differences from log Z0 = nu[s - 1 - log((1+s)/2)] - log(s)/2 + log(U(1/s)/U(1)).

    s = sqrt(1 + q/nu^2), p = 1/s, U(p) = sum_j u_j(p)/nu^j, and
    f = nu (s-1) - (1-p^2) [1/2 + p U'(p)/U(p)].
    """
    nu = d / 2 - 1
    expansion, correction, numerator = _debye_polynomials(d)
    s, t = np.sqrt(1 + q / nu**2), np.sqrt(1 + (q + delta) / nu**2)
    p, r = 1 / s, 1 / t
    s_slope = 1 / (nu**2 * (s + t))
    s_change = s_slope * delta
    p_slope = -s_slope * p * r

    u_start, u_divided = _divided_difference(expansion, p, r)
    n_start, n_divided = _divided_difference(numerator, p, r)
    u_slope, n_slope = u_divided * p_slope, n_divided * p_slope
    u_stop = u_start + u_slope * delta
    log_ratio = (
        nu * (s_change - np.log1p(s_change / (1 + s)))
        - np.log1p(s_change / s) / 2
        + np.log1p(u_slope * delta / u_start)
    )
    slope = (
        nu * s_slope
        + (p + r) * p_slope / 2
        - (n_slope * u_start - n_start * u_slope) / (u_start * u_stop)
    )

    def f(squared: Float64Array, root: Float64Array, u: Float64Array) -> Float64Array:
        square = squared / nu**2
        half, _ = _divided_difference(correction, 1 / root, 1 / root)
        return nu * square / (1 + root) - square / root**2 * (0.5 + half / u)

    return _Difference(log_ratio, f(q, s, u_start), f(q + delta, t, u_stop), slope)


@lru_cache(maxsize=64)
def _debye_polynomials(d: int) -> tuple[Coefficients, Coefficients, Coefficients]:
    """Coefficients, lowest first, of U(p), p U'(p) and (1-p^2) p U'(p) at dimension d."""
    nu = d / 2 - 1
    p = Polynomial([0.0, 1.0])
    square = p**2
    terms = [
        p * Polynomial([3, 0, -5]) / 24,
        square * Polynomial([81, 0, -462, 0, 385]) / 1152,
        p**3 * Polynomial([30375, 0, -369603, 0, 765765, 0, -425425]) / 414720,
        p**4
        * Polynomial([4465125, 0, -94121676, 0, 349922430, 0, -446185740, 0, 185910725])
        / 39813120,
    ]
    expansion = Polynomial([1.0])
    for order, term in enumerate(terms, start=1):
        expansion = expansion + term / nu**order
    correction = p * expansion.deriv()
    numerator = (1 - square) * correction

    def coefficients(polynomial: Polynomial) -> Coefficients:
        return tuple(float(c) for c in polynomial.coef)

    return coefficients(expansion), coefficients(correction), coefficients(numerator)


def _divided_difference(
    coefficients: Coefficients, x: Float64Array, y: Float64Array
) -> tuple[Float64Array, Float64Array]:
    """P(x) and (P(y) - P(x)) / (y - x) by a double Horner scheme, exact at y = x."""
    value = np.full_like(x, coefficients[-1])
    divided = np.zeros_like(x)
    for coefficient in reversed(coefficients[:-1]):
        divided = divided * y + value
        value = value * x + coefficient
    return value, divided


def _mean_cosine(k: Float64Array, d: int) -> tuple[Float64Array, Float64Array]:
    """A and dA/dk, from f = k A: A' = 2 df/dq - f/q, where f/q tends to 1/d at 0."""
    q = k**2
    here = _difference(q, np.zeros_like(q), d)
    ratio = np.divide(here.f_start, q, out=np.full_like(q, 1 / d), where=q > _SMALLEST_SQUARE)
    return k * ratio, 2 * here.f_slope - ratio


def _check_dimension(d: int) -> None:
    if d < MIN_DIMENSION:
        raise ConfigError(f"dimension {d} is below {MIN_DIMENSION}: use d >= {MIN_DIMENSION}")


def _concentration(name: str, value: ArrayLike, d: int) -> Float64Array:
    """The concentration as float64, checked."""
    _check_dimension(d)
    k = np.asarray(value, np.float64)
    if not ((k >= 0) & np.isfinite(k)).all():
        raise ConfigError(f"concentration {name} is negative or not finite: it must be >= 0")
    return k


def _like(result: Float64Array, *inputs: ArrayLike) -> FloatArray:
    """The result as float32 if all inputs are float32 arrays, else as it is."""
    single = all(getattr(array, "dtype", None) == np.float32 for array in inputs)
    converted: NDArray[Any] = np.asarray(result)
    return converted.astype(np.float32) if single else converted
