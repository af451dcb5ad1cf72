// loss = lse - (1 - smoothing) logit of the target - smoothing mean logit, and lse, of each row; one
// workgroup a row, which reads the row once.
//!include logsumexp

@compute @workgroup_size(WG)
fn main(inv: Invocation) {
    let row = group_index(inv);
    if (row >= params.R) { return; }
    let base = row * params.V;
    var state = LOGSUMEXP_EMPTY;
    var partial = 0.0;
    for (var k = inv.local; k < params.V; k += WG) {
        let logit = load_logits(base + k);
        state = logsumexp_fold(state, logit);
        partial += logit;
    }
    let joined = logsumexp_join(state, inv);
    let mean = reduce_sum(partial, inv) / f32(params.V);
    if (inv.local == 0u) {
        let row_lse = joined.x + log_accurate(joined.y);
        lse[row] = row_lse;
        let chosen = targets[row];
        if (chosen == params.ignore_index) {
            loss[row] = 0.0;
        } else if (u32(chosen) >= params.V) {
            loss[row] = bitcast<f32>(NAN_BITS);
        } else {
            // Terms without a weight are left out, since they may be infinite.
            let pull = load_logits(base + u32(chosen));
            let smooth_part = select(0.0, params.smoothing * (mean - pull), params.smoothing != 0.0);
            loss[row] = row_lse - pull - smooth_part;
        }
    }
}
