// out = x - logsumexp of each row of x; one workgroup a row.
//!include logsumexp

@compute @workgroup_size(WG)
fn main(inv: Invocation) {
    let row = group_index(inv);
    if (row >= params.R) { return; }
    let base = row * params.N;
    var state = LOGSUMEXP_EMPTY;
    for (var k = inv.local; k < params.N; k += WG) {
        state = logsumexp_fold(state, load_x(base + k));
    }
    let joined = logsumexp_join(state, inv);
    let log_total = log_accurate(joined.y);
    for (var k = inv.local; k < params.N; k += WG) {
        store_out(base + k, (load_x(base + k) - joined.x) - log_total);
    }
}
