// out = silu(gate) up of rows [gate | up]; one invocation an entry of out.
//!include silu

@compute @workgroup_size(WG)
fn main(inv: Invocation) {
    let i = group_index(inv) * WG + inv.local;
    if (i >= params.R * params.N) { return; }
    let gate = i + i / params.N * params.N;
    let z = load_x(gate);
    store_out(i, z * silu_gate(z) * load_x(gate + params.N));
}
