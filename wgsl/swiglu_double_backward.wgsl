// The backward of swiglu_backward, where `pull` comes to [grad_gate | grad_up]; one invocation an entry of
// grad_out.
//!include silu

@compute @workgroup_size(WG)
fn main(inv: Invocation) {
    let i = group_index(inv) * WG + inv.local;
    if (i >= params.R * params.N) { return; }
    let gate = i + i / params.N * params.N;
    let z = load_x(gate);
    let up = load_x(gate + params.N);
    let back = load_grad_out(i);
    let to_gate = load_pull(gate);
    let to_up = load_pull(gate + params.N);
    let slope = silu_slope(z);
    store_grad_x(gate, back * (to_gate * up * silu_bend(z) + to_up * slope));
    store_grad_x(gate + params.N, back * to_gate * slope);
    store_grad_grad(i, to_gate * up * slope + to_up * z * silu_gate(z));
}
