// log softmax(logits + bias) of one target a row, and the row's log-sum-exp; one workgroup a row.
//!include reduce
//!include math

@compute @workgroup_size(WG)
fn main(inv: Invocation) {
    let row = group_index(inv);
    if (row >= params.B) { return; }
    let base = row * params.N;
    var highest = -3.4e38;
    for (var k = inv.local; k < params.N; k += WG) {
        highest = max(highest, load_logits(base + k) + load_bias(k));
    }
    let peak = reduce_max(highest, inv);
    var partial = 0.0;
    for (var k = inv.local; k < params.N; k += WG) {
        partial += exp_accurate(load_logits(base + k) + load_bias(k) - peak);
    }
    let total = reduce_sum(partial, inv);
    if (inv.local == 0u) {
        let row_lse = peak + log_accurate(total);
        let chosen = u32(target_index[row]);
        lse[row] = row_lse;
        log_p[row] = load_logits(base + chosen) + load_bias(chosen) - row_lse;
    }
}
