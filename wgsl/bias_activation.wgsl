// out = f(x + bias), f the activation of that number; one invocation an entry.
//!include activation

@compute @workgroup_size(WG)
fn main(inv: Invocation) {
    let i = group_index(inv) * WG + inv.local;
    if (i >= params.R * params.N) { return; }
    store_out(i, activate(load_x(i) + load_bias(i % params.N), params.activation));
}
