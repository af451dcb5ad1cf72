// grad_x = y (grad_out - y.grad_out) of each row, y the softmax; one workgroup a row.
//!include reduce

@compute @workgroup_size(WG)
fn main(inv: Invocation) {
    let row = group_index(inv);
    if (row >= params.R) { return; }
    let base = row * params.N;
    var partial = 0.0;
    for (var k = inv.local; k < params.N; k += WG) {
        partial += load_y(base + k) * load_grad_out(base + k);
    }
    let mean = reduce_sum(partial, inv);
    for (var k = inv.local; k < params.N; k += WG) {
        store_grad_x(base + k, load_y(base + k) * (load_grad_out(base + k) - mean));
    }
}
