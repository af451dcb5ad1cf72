// out = x / |x|, one workgroup a row. The row is scaled by its largest entry first, so that |x|^2
// neither overflows nor underflows; a zero row gives zeros.
//!include reduce

@compute @workgroup_size(WG)
fn main(inv: Invocation) {
    let row = group_index(inv);
    if (row >= params.B) { return; }
    let base = row * params.D;
    var largest = 0.0;
    for (var i = inv.local; i < params.D; i += WG) { largest = max(largest, abs(load_x(base + i))); }
    let peak = reduce_max(largest, inv);
    let scale = select(1.0 / peak, 0.0, peak == 0.0);
    var partial = 0.0;
    for (var i = inv.local; i < params.D; i += WG) {
        let value = load_x(base + i) * scale;
        partial += value * value;
    }
    let norm = sqrt(reduce_sum(partial, inv));
    let factor = select(1.0 / norm, 0.0, peak == 0.0);
    for (var i = inv.local; i < params.D; i += WG) {
        out[base + i] = load_x(base + i) * scale * factor;
    }
}
