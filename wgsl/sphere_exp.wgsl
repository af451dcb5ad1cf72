// out = cos|v| x + sin|v| v/|v|, one workgroup a row.
//!include reduce
//!include math

@compute @workgroup_size(WG)
fn main(inv: Invocation) {
    let row = group_index(inv);
    if (row >= params.B) { return; }
    let base = row * params.D;
    var partial = 0.0;
    for (var i = base + inv.local; i < base + params.D; i += WG) { partial += load_v(i) * load_v(i); }
    let angle = sqrt(reduce_sum(partial, inv));
    let turn = sincos_accurate(angle);
    // A length that underflows to zero leaves out = x + v, which is right to rounding.
    let ratio = select(1.0, turn.x / angle, angle > 0.0);
    for (var i = base + inv.local; i < base + params.D; i += WG) {
        out[i] = turn.y * load_x(i) + ratio * load_v(i);
    }
}
