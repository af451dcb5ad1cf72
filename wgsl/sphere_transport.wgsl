// out = v - (v.m) / (|m|^2/2) m with m = x + y, one workgroup a row. |m|^2/2 is 1 + x.y without its
// cancellation near the antipode.
//!include reduce

@compute @workgroup_size(WG)
fn main(inv: Invocation) {
    let row = group_index(inv);
    if (row >= params.B) { return; }
    let begin = row * params.D + inv.local;
    let end = row * params.D + params.D;
    var product = 0.0;
    var square = 0.0;
    for (var i = begin; i < end; i += WG) {
        let middle = load_x(i) + load_y(i);
        product += load_v(i) * middle;
        square += middle * middle;
    }
    let along = reduce_sum(product, inv);
    let length_square = reduce_sum(square, inv);
    let factor = select(0.0, 2.0 * along / length_square, length_square > 0.0);
    for (var i = begin; i < end; i += WG) {
        out[i] = load_v(i) - factor * (load_x(i) + load_y(i));
    }
}
