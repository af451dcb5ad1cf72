// energy = -logsumexp_k (log_w_k + a_k (s_k - 1)) by rows of cosines s; one workgroup a row.
//!include reduce
//!include math

@compute @workgroup_size(WG)
fn main(inv: Invocation) {
    let row = group_index(inv);
    if (row >= params.B) { return; }
    let base = row * params.N;
    var highest = -3.4e38;
    for (var k = inv.local; k < params.N; k += WG) {
        highest = max(highest, load_log_w(k) + load_a(k) * (load_s(base + k) - 1.0));
    }
    let peak = reduce_max(highest, inv);
    var partial = 0.0;
    for (var k = inv.local; k < params.N; k += WG) {
        partial += exp_accurate(load_log_w(k) + load_a(k) * (load_s(base + k) - 1.0) - peak);
    }
    let total = reduce_sum(partial, inv);
    if (inv.local == 0u) { energy[row] = -peak - log_accurate(total); }
}
