// grad_log_W = p (grad_p - sum_k grad_p_k p_k + grad_log_z); one workgroup a row.
//!include reduce

@compute @workgroup_size(WG)
fn main(inv: Invocation) {
    let row = group_index(inv);
    if (row >= params.B) { return; }
    let base = row * params.N;
    var partial = 0.0;
    for (var k = inv.local; k < params.N; k += WG) {
        partial += load_p(base + k) * load_grad_p(base + k);
    }
    let shift = load_grad_log_z(row) - reduce_sum(partial, inv);
    for (var k = inv.local; k < params.N; k += WG) {
        grad_log_W[base + k] = load_p(base + k) * (load_grad_p(base + k) + shift);
    }
}
