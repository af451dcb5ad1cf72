// out = 2 atan2(|x - y|, |x + y|), one workgroup a row.
//!include reduce
//!include math

@compute @workgroup_size(WG)
fn main(inv: Invocation) {
    let row = group_index(inv);
    if (row >= params.B) { return; }
    let end = row * params.D + params.D;
    var difference = 0.0;
    var sum = 0.0;
    for (var i = row * params.D + inv.local; i < end; i += WG) {
        let minus = load_x(i) - load_y(i);
        let plus = load_x(i) + load_y(i);
        difference += minus * minus;
        sum += plus * plus;
    }
    let minus_square = reduce_sum(difference, inv);
    let plus_square = reduce_sum(sum, inv);
    if (inv.local == 0u) {
        out[row] = 2.0 * atan2_accurate(sqrt(minus_square), sqrt(plus_square));
    }
}
