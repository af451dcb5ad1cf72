//!include math
// Phi(x) = erfc(-x / sqrt 2) / 2, relative error below 4e-7 (1 + x^2 / 2) at every x. With
// t = 1 / (1 + z / 2), erfc(z) exp(z^2) / t is a polynomial in t to 4.5e-8 (fitted for z in [0, 14]).
fn normal_cdf(x: f32) -> f32 {
    let t = 1.0 / fma(0.35355339, abs(x), 1.0);
    var p = -0.0593866259;
    p = fma(p, t, 0.286124706);
    p = fma(p, t, -0.490407765);
    p = fma(p, t, 0.281734705);
    p = fma(p, t, -0.0291493833);
    p = fma(p, t, 0.203752831);
    p = fma(p, t, 0.24283506);
    p = fma(p, t, 0.282412112);
    p = fma(p, t, 0.282084346);
    let tail = 0.5 * t * p * exp_accurate(-0.5 * x * x);
    return select(1.0 - tail, tail, x < 0.0);
}
