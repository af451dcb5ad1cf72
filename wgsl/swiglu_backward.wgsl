// grad_up = grad_out silu(gate), grad_gate = grad_out up silu'(gate); one invocation an entry.
//!include silu

@compute @workgroup_size(WG)
fn main(inv: Invocation) {
    let i = group_index(inv) * WG + inv.local;
    if (i >= params.R * params.N) { return; }
    let z = load_gate(i);
    let back = load_grad_out(i);
    store_grad_up(i, back * z * silu_gate(z));
    store_grad_gate(i, back * load_up(i) * silu_slope(z));
}
