// The activations by number, in the order of ACTIVATIONS in ebm_wgpu/kernels/_activation.py.
//!include gelu
//!include normal_cdf
//!include silu
fn activate(x: f32, kind: u32) -> f32 {
    switch kind {
        case 1u: { return select(x, 0.0, x < 0.0); }
        case 2u: { return x * normal_cdf(x); }
        case 3u: { return gelu(x); }
        case 4u: { return x * silu_gate(x); }
        default: { return x; }
    }
}
