// log_W = log_pi + log Z0(|a mu + h|) - log Z0(a) from s = mu.h and h2 = |h|^2; one invocation an
// entry.
//!include vmf

@compute @workgroup_size(WG)
fn main(inv: Invocation) {
    let i = group_index(inv) * WG + inv.local;
    if (i >= params.B * params.N) { return; }
    let k = i % params.N;
    let a = load_a(k);
    let delta = 2.0 * a * load_s(i) + load_h2(i / params.N);
    log_W[i] = load_log_pi(k) + vmf_log_z0_ratio(a, delta, params.dimension);
}
