// The gate of SiLU, sigmoid(z), and the first and second derivative of z sigmoid(z); the argument of exp is
// clamped so that nothing overflows.
fn silu_gate(z: f32) -> f32 { return 1.0 / (1.0 + exp(clamp(-z, -80.0, 80.0))); }

fn silu_slope(z: f32) -> f32 {
    let open = silu_gate(z);
    return open * (1.0 + z * (1.0 - open));
}

fn silu_bend(z: f32) -> f32 {
    let open = silu_gate(z);
    return open * (1.0 - open) * (2.0 + z * (1.0 - 2.0 * open));
}
