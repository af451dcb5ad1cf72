// grad_x = rstd (g - mean g - y mean(g y)) of each row, with g = grad_out weight and y = (x - mean) rstd;
// one workgroup a row.
//!include reduce

@compute @workgroup_size(WG)
fn main(inv: Invocation) {
    let row = group_index(inv);
    if (row >= params.R) { return; }
    let base = row * params.N;
    let row_mean = load_mean(row);
    let row_rstd = load_rstd(row);
    var partial = 0.0;
    var partial_along = 0.0;
    for (var k = inv.local; k < params.N; k += WG) {
        let g = load_grad_out(base + k) * load_weight(k);
        partial += g;
        partial_along += g * (load_x(base + k) - row_mean) * row_rstd;
    }
    let shift = reduce_sum(partial, inv) / f32(params.N);
    let along = reduce_sum(partial_along, inv) / f32(params.N);
    for (var k = inv.local; k < params.N; k += WG) {
        let g = load_grad_out(base + k) * load_weight(k);
        let y = (load_x(base + k) - row_mean) * row_rstd;
        store_grad_x(base + k, row_rstd * (g - shift - y * along));
    }
}
