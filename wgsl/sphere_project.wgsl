// out = g - (x.g) x, one workgroup a row.
//!include reduce

@compute @workgroup_size(WG)
fn main(inv: Invocation) {
    let row = group_index(inv);
    if (row >= params.B) { return; }
    let base = row * params.D;
    var partial = 0.0;
    for (var i = base + inv.local; i < base + params.D; i += WG) { partial += load_x(i) * load_g(i); }
    let radial = reduce_sum(partial, inv);
    for (var i = base + inv.local; i < base + params.D; i += WG) {
        out[i] = load_g(i) - radial * load_x(i);
    }
}
