// weight = p F a and tilt = sum_k p F with F = A(|eta|)/|eta|, so that the mean of the mixture is
// weight @ mu + tilt h; one workgroup a row.
//!include reduce
//!include mixture

@compute @workgroup_size(WG)
fn main(inv: Invocation) {
    let row = group_index(inv);
    if (row >= params.B) { return; }
    let base = row * params.N;
    let h2 = load_h2(row);
    var partial = 0.0;
    for (var k = inv.local; k < params.N; k += WG) {
        let a = load_a(k);
        let q = tilted_square(a, load_s(base + k), h2);
        let share = load_p(base + k) * tilt_slope(q, params.dimension).x;
        weight[base + k] = share * a;
        partial += share;
    }
    let total = reduce_sum(partial, inv);
    if (inv.local == 0u) { tilt[row] = total; }
}
