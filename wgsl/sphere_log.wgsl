// out = theta/sin(theta) (y - cos(theta) x), one workgroup a row. P_x(y - x) and P_x(y + x) are both
// P_x y; the shorter one keeps its digits near y = x and near y = -x.
//!include reduce
//!include math

@compute @workgroup_size(WG)
fn main(inv: Invocation) {
    let row = group_index(inv);
    if (row >= params.B) { return; }
    let begin = row * params.D + inv.local;
    let end = row * params.D + params.D;
    var difference = 0.0;
    var sum = 0.0;
    for (var i = begin; i < end; i += WG) {
        let minus = load_x(i) - load_y(i);
        let plus = load_x(i) + load_y(i);
        difference += minus * minus;
        sum += plus * plus;
    }
    let minus_square = reduce_sum(difference, inv);
    let plus_square = reduce_sum(sum, inv);
    let theta = 2.0 * atan2_accurate(sqrt(minus_square), sqrt(plus_square));
    let sign = select(1.0, -1.0, minus_square <= plus_square);
    var partial = 0.0;
    for (var i = begin; i < end; i += WG) { partial += (load_y(i) + sign * load_x(i)) * load_x(i); }
    let radial = reduce_sum(partial, inv);
    partial = 0.0;
    for (var i = begin; i < end; i += WG) {
        let tangent = (load_y(i) + sign * load_x(i)) - radial * load_x(i);
        partial += tangent * tangent;
    }
    let sine = sqrt(reduce_sum(partial, inv));
    let scale = select(0.0, theta / sine, sine > 0.0);
    for (var i = begin; i < end; i += WG) {
        out[i] = scale * ((load_y(i) + sign * load_x(i)) - radial * load_x(i));
    }
}
