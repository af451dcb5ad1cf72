// grad_x = (g - (g.n) n) / |x| with n = x/|x| and g the gradient of n, one workgroup a row. The row is
// scaled by its largest entry first, as in sphere_normalize; a zero row gives zeros.
//!include reduce

@compute @workgroup_size(WG)
fn main(inv: Invocation) {
    let row = group_index(inv);
    if (row >= params.B) { return; }
    let begin = row * params.D + inv.local;
    let end = row * params.D + params.D;
    var largest = 0.0;
    for (var i = begin; i < end; i += WG) { largest = max(largest, abs(load_x(i))); }
    let peak = reduce_max(largest, inv);
    let scale = select(1.0 / peak, 0.0, peak == 0.0);
    var square = 0.0;
    var product = 0.0;
    for (var i = begin; i < end; i += WG) {
        let value = load_x(i) * scale;
        square += value * value;
        product += value * load_grad_out(i);
    }
    let norm_square = reduce_sum(square, inv);
    let along = reduce_sum(product, inv);
    let inverse = select(inverseSqrt(norm_square), 0.0, peak == 0.0);
    let radial = along * inverse * inverse;
    for (var i = begin; i < end; i += WG) {
        grad_x[i] = (load_grad_out(i) - radial * (load_x(i) * scale)) * inverse * scale;
    }
}
