// out = log Z0(k), one invocation an entry.
//!include vmf

@compute @workgroup_size(WG)
fn main(inv: Invocation) {
    let i = group_index(inv) * WG + inv.local;
    if (i >= params.N) { return; }
    out[i] = vmf_log_z0(load_k(i), params.dimension);
}
