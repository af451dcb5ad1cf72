// Derivatives of the activations of lib/activation, by number.
//!include activation
//!include silu
fn activation_slope(x: f32, kind: u32) -> f32 {
    switch kind {
        case 1u: { return select(0.0, 1.0, x > 0.0); }
        case 2u: { return normal_cdf(x) + 0.3989422804 * x * exp_accurate(-0.5 * x * x); }
        case 3u: { return gelu_slope(x); }
        case 4u: { return silu_slope(x); }
        default: { return 1.0; }
    }
}
