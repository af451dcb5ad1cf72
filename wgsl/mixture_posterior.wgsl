// p = softmax of each row of log_W and log_z = its log-sum-exp; one workgroup a row. Every invocation
// keeps its own running maximum and sum, so the row is read twice and written once.
//!include reduce

const LOWEST: f32 = -3.0e38; // stands for the maximum of nothing

@compute @workgroup_size(WG)
fn main(inv: Invocation) {
    let row = group_index(inv);
    if (row >= params.B) { return; }
    let base = row * params.N;
    var peak = LOWEST;
    var total = 0.0;
    for (var k = inv.local; k < params.N; k += WG) {
        let value = load_log_W(base + k);
        if (value > peak) {
            total = total * exp(peak - value) + 1.0;
            peak = value;
        } else if (value > LOWEST) {
            total += exp(value - peak);
        }
    }
    let highest = reduce_max(peak, inv);
    let mass = reduce_sum(total * exp(peak - highest), inv);
    if (mass == 0.0) {
        for (var k = inv.local; k < params.N; k += WG) { p[base + k] = 0.0; }
        if (inv.local == 0u) {
            log_z[row] = bitcast<f32>(0xff800000u + (row & 0u)); // infinity is no WGSL constant
        }
        return;
    }
    let scale = 1.0 / mass;
    for (var k = inv.local; k < params.N; k += WG) {
        let value = load_log_W(base + k);
        var share = 0.0;
        if (value > LOWEST) { share = exp(value - highest) * scale; }
        p[base + k] = share;
    }
    if (inv.local == 0u) { log_z[row] = highest + log(mass); }
}
