// grad_x = rstd (g - y mean(g y)) of each row, with g = grad_out weight and y = x rstd; one workgroup a
// row.
//!include reduce

@compute @workgroup_size(WG)
fn main(inv: Invocation) {
    let row = group_index(inv);
    if (row >= params.R) { return; }
    let base = row * params.N;
    let row_rstd = load_rstd(row);
    var partial = 0.0;
    for (var k = inv.local; k < params.N; k += WG) {
        partial += load_grad_out(base + k) * load_weight(k) * load_x(base + k) * row_rstd;
    }
    let along = reduce_sum(partial, inv) / f32(params.N);
    for (var k = inv.local; k < params.N; k += WG) {
        let g = load_grad_out(base + k) * load_weight(k);
        store_grad_x(base + k, row_rstd * (g - load_x(base + k) * row_rstd * along));
    }
}
