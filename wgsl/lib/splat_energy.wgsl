// Energy and Riemannian gradient of one row from the entries that `splat_at` names. A row without
// entries has infinite energy, and the gradient of the tilt alone.
//!include splat_stream

fn query(i: u32) -> f32 { return load_x(i); }
fn sum_get(i: u32) -> f32 { return grad[i]; }
fn sum_put(i: u32, value: f32) { grad[i] = value; }

fn splat_terms(row: u32, k: u32, dot: f32) -> vec3<f32> {
    let a = load_a(k);
    return vec3<f32>(load_log_w(k) + a * (dot - 1.0), a, 0.0);
}

fn energy_row(row: u32, count: u32, inv: Invocation) {
    let base = row * params.D;
    let streamed = stream(row, count, inv);
    var tilt = 0.0;
    var radial = 0.0;
    for (var i = inv.local; i < params.D; i += WG) {
        let x_i = load_x(base + i);
        let g = -grad[base + i] * streamed.scale - load_h(base + i);
        grad[base + i] = g;
        tilt += load_h(base + i) * x_i;
        radial += g * x_i;
    }
    let tilted = reduce_sum(tilt, inv);
    let outward = reduce_sum(radial, inv);
    for (var i = inv.local; i < params.D; i += WG) {
        grad[base + i] -= outward * load_x(base + i);
    }
    if (inv.local == 0u) { energy[row] = -streamed.log_sum - tilted; }
}
