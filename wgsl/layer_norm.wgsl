// out = (x - mean) rstd weight + bias of each row, and mean and rstd; one workgroup a row. The squares
// are those of centred entries, so that a large mean takes no digits.
//!include reduce

@compute @workgroup_size(WG)
fn main(inv: Invocation) {
    let row = group_index(inv);
    if (row >= params.R) { return; }
    let base = row * params.N;
    var partial = 0.0;
    for (var k = inv.local; k < params.N; k += WG) { partial += load_x(base + k); }
    let row_mean = reduce_sum(partial, inv) / f32(params.N);
    partial = 0.0;
    for (var k = inv.local; k < params.N; k += WG) {
        let centred = load_x(base + k) - row_mean;
        partial += centred * centred;
    }
    let row_rstd = inverseSqrt(reduce_sum(partial, inv) / f32(params.N) + params.epsilon);
    if (inv.local == 0u) {
        mean[row] = row_mean;
        rstd[row] = row_rstd;
    }
    for (var k = inv.local; k < params.N; k += WG) {
        store_out(base + k, (load_x(base + k) - row_mean) * row_rstd * load_weight(k) + load_bias(k));
    }
}
