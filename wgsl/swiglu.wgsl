// out = silu(gate) up; one invocation an entry.
//!include silu

@compute @workgroup_size(WG)
fn main(inv: Invocation) {
    let i = group_index(inv) * WG + inv.local;
    if (i >= params.R * params.N) { return; }
    let z = load_gate(i);
    store_out(i, z * silu_gate(z) * load_up(i));
}
