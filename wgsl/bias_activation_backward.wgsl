// grad_x = grad_out f'(x + bias), f the activation of that number; one invocation an entry.
//!include activation_slope

@compute @workgroup_size(WG)
fn main(inv: Invocation) {
    let i = group_index(inv) * WG + inv.local;
    if (i >= params.R * params.N) { return; }
    let slope = activation_slope(load_x(i) + load_bias(i % params.N), params.activation);
    store_grad_x(i, load_grad_out(i) * slope);
}
