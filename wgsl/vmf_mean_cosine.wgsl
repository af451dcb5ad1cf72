// out = A(k) and slope = dA/dk, one invocation an entry.
//!include vmf

@compute @workgroup_size(WG)
fn main(inv: Invocation) {
    let i = group_index(inv) * WG + inv.local;
    if (i >= params.N) { return; }
    let k = load_k(i);
    let ratio_and_slope = vmf_mean_ratio_and_slope(k, params.dimension);
    out[i] = k * ratio_and_slope.x;
    slope[i] = ratio_and_slope.y;
}
