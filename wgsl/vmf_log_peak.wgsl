// out = k - log Z0(k) and slope = 1 - A(k), one invocation an entry.
//!include vmf

@compute @workgroup_size(WG)
fn main(inv: Invocation) {
    let i = group_index(inv) * WG + inv.local;
    if (i >= params.N) { return; }
    let k = load_k(i);
    out[i] = vmf_log_peak(k, params.dimension);
    slope[i] = vmf_mean_cosine_gap(k, params.dimension);
}
