// mean = sum_k p_k F_k (a_k mu_k + h) and log_z = log sum_k exp(log_W_k) straight from mu and h,
// without anything of size rows x splats; one workgroup a row.
//!include splat_stream
//!include mixture
//!include vmf

var<workgroup> row_h2: f32;

fn query(i: u32) -> f32 { return load_h(i); }
fn splat_at(row: u32, j: u32) -> i32 { return i32(j); }
fn sum_get(i: u32) -> f32 { return mean[i]; }
fn sum_put(i: u32, value: f32) { mean[i] = value; }

fn splat_terms(row: u32, k: u32, dot: f32) -> vec3<f32> {
    let a = load_a(k);
    let delta = 2.0 * a * dot + row_h2;
    let f = tilt_slope(tilted_square(a, dot, row_h2), params.D).x;
    return vec3<f32>(load_log_pi(k) + vmf_log_z0_ratio(a, delta, params.D), a * f, f);
}

@compute @workgroup_size(WG)
fn main(inv: Invocation) {
    let row = group_index(inv);
    if (row >= params.B) { return; }
    let base = row * params.D;
    var partial = 0.0;
    for (var i = inv.local; i < params.D; i += WG) { partial += load_h(base + i) * load_h(base + i); }
    let squared = reduce_sum(partial, inv);
    if (inv.local == 0u) { row_h2 = squared; }
    workgroupBarrier();
    let streamed = stream(row, params.N, inv);
    for (var i = inv.local; i < params.D; i += WG) {
        mean[base + i] = mean[base + i] * streamed.scale + streamed.mean * load_h(base + i);
    }
    if (inv.local == 0u) { log_z[row] = streamed.log_sum; }
}
