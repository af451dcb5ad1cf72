// grad_logits = grad_log_p ([k = target] - softmax), grad_bias its sum over rows. A workgroup takes WG
// columns and goes through all rows in order.
//!include math

@compute @workgroup_size(WG)
fn main(inv: Invocation) {
    let k = group_index(inv) * WG + inv.local;
    if (k >= params.N) { return; }
    let own_bias = load_bias(k);
    var sum = 0.0;
    for (var row = 0u; row < params.B; row += 1u) {
        let i = row * params.N + k;
        let p = exp_accurate(load_logits(i) + own_bias - load_lse(row));
        let hit = select(0.0, 1.0, u32(target_index[row]) == k);
        let gradient = load_grad_log_p(row) * (hit - p);
        grad_logits[i] = gradient;
        sum += gradient;
    }
    grad_bias[k] = sum;
}
