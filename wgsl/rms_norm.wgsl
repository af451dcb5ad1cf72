// out = x rstd weight with rstd = 1 / sqrt(mean x^2 + epsilon) of each row; one workgroup a row.
//!include reduce

@compute @workgroup_size(WG)
fn main(inv: Invocation) {
    let row = group_index(inv);
    if (row >= params.R) { return; }
    let base = row * params.N;
    var partial = 0.0;
    for (var k = inv.local; k < params.N; k += WG) {
        let value = load_x(base + k);
        partial += value * value;
    }
    let row_rstd = inverseSqrt(reduce_sum(partial, inv) / f32(params.N) + params.epsilon);
    if (inv.local == 0u) { rstd[row] = row_rstd; }
    for (var k = inv.local; k < params.N; k += WG) {
        store_out(base + k, load_x(base + k) * row_rstd * load_weight(k));
    }
}
