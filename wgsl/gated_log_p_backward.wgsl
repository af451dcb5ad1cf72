// Gradients of gated_log_p, one invocation an entry.
//!include silu

@compute @workgroup_size(WG)
fn main(inv: Invocation) {
    let i = group_index(inv) * WG + inv.local;
    if (i >= params.N) { return; }
    let gate = load_gate(i);
    let ahead = gate + (load_b(i) - load_a(i));
    // The gradient of a predictor that is mute is 0 and not merely small.
    let share = select(0.0, silu_gate(ahead), ahead > -80.0);
    let back = load_grad_out(i);
    grad_a[i] = silu_gate(-ahead) * back;
    grad_b[i] = share * back;
    grad_gate[i] = (share - silu_gate(gate)) * back;
}
