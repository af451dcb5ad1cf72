// GELU in its tanh form, written as z sigmoid(2 y) with y = sqrt(2/pi) (z + 0.044715 z^3): no tanh,
// whose WGSL accuracy is open, and no overflow, since the argument of exp is clamped.
fn gelu_gate(z: f32) -> f32 {
    let y = 0.7978845608 * (z + 0.044715 * z * z * z);
    return 1.0 / (1.0 + exp(clamp(-2.0 * y, -80.0, 80.0)));
}

fn gelu(z: f32) -> f32 { return z * gelu_gate(z); }

fn gelu_slope(z: f32) -> f32 {
    let gate = gelu_gate(z);
    return gate + z * gate * (1.0 - gate) * 1.5957691216 * (1.0 + 0.134145 * z * z);
}
