// grad_x = grad_out - exp(y) sum grad_out of each row, y the log-softmax; one workgroup a row.
//!include reduce
//!include math

@compute @workgroup_size(WG)
fn main(inv: Invocation) {
    let row = group_index(inv);
    if (row >= params.R) { return; }
    let base = row * params.N;
    var partial = 0.0;
    for (var k = inv.local; k < params.N; k += WG) { partial += load_grad_out(base + k); }
    let total = reduce_sum(partial, inv);
    for (var k = inv.local; k < params.N; k += WG) {
        store_grad_x(base + k, load_grad_out(base + k) - exp_accurate(load_y(base + k)) * total);
    }
}
