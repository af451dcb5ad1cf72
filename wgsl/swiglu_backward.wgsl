// grad_gate = grad_out up silu'(gate), grad_up = grad_out silu(gate) of rows [gate | up]; one invocation an
// entry of grad_out.
//!include silu

@compute @workgroup_size(WG)
fn main(inv: Invocation) {
    let i = group_index(inv) * WG + inv.local;
    if (i >= params.R * params.N) { return; }
    let gate = i + i / params.N * params.N;
    let z = load_x(gate);
    let back = load_grad_out(i);
    store_grad_x(gate, back * load_x(gate + params.N) * silu_slope(z));
    store_grad_x(gate + params.N, back * z * silu_gate(z));
}
