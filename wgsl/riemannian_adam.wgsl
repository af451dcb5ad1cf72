// One step of Adam along the geodesic of its momentum, one workgroup a row. An invocation reads only
// entries that it has written itself.
//!include reduce
//!include math

@compute @workgroup_size(WG)
fn main(inv: Invocation) {
    let row = group_index(inv);
    if (row >= params.B) { return; }
    let begin = row * params.D + inv.local;
    let end = row * params.D + params.D;

    var product = 0.0;
    for (var i = begin; i < end; i += WG) { product += x[i] * load_grad(i); }
    let across = reduce_sum(product, inv);

    var rise = 0.0;
    var length = 0.0;
    for (var i = begin; i < end; i += WG) {
        let tangent = load_grad(i) - across * x[i];
        let next = mean[i] + params.mean_rate * (tangent - mean[i]);
        mean[i] = next;
        rise += tangent * tangent;
        length += next * next;
    }
    let moment = params.square_keep * square[row] + params.square_rate * reduce_sum(rise, inv);
    let rate = -params.step_size / (sqrt(moment) * params.square_correction + params.epsilon);
    let angle = abs(rate) * sqrt(reduce_sum(length, inv));
    let turn = sincos_accurate(angle);
    let ratio = rate * select(1.0, turn.x / angle, angle > 0.0);

    var partial = 0.0;
    for (var i = begin; i < end; i += WG) {
        let y = turn.y * x[i] + ratio * mean[i];
        partial += y * y;
    }
    let scale = 1.0 / sqrt(reduce_sum(partial, inv));

    // Transport is m - (m.z) / (|z|^2/2) z with z = x + y.
    var along = 0.0;
    var total = 0.0;
    for (var i = begin; i < end; i += WG) {
        let middle = x[i] + scale * (turn.y * x[i] + ratio * mean[i]);
        along += mean[i] * middle;
        total += middle * middle;
    }
    let carried = reduce_sum(along, inv);
    let middle_square = reduce_sum(total, inv);
    let factor = select(0.0, 2.0 * carried / middle_square, middle_square > 0.0);
    for (var i = begin; i < end; i += WG) {
        let y = scale * (turn.y * x[i] + ratio * mean[i]);
        mean[i] -= factor * (x[i] + y);
        x[i] = y;
    }
    if (inv.local == 0u) { square[row] = moment; }
}
