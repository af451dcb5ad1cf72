// out = a + softplus(gate + b - a) - softplus(gate), one invocation an entry.
//!include math

fn softplus(z: f32) -> f32 {
    return max(z, 0.0) + log1p_accurate(exp_accurate(-min(abs(z), 80.0)));
}

@compute @workgroup_size(WG)
fn main(inv: Invocation) {
    let i = group_index(inv) * WG + inv.local;
    if (i >= params.N) { return; }
    let a = load_a(i);
    let gate = load_gate(i);
    out[i] = a + (softplus(gate + (load_b(i) - a)) - softplus(gate));
}
