// x ~ p(x) = exp(eta.x - log Z0(|eta|)), one workgroup a row: the cosine by rejection, which all
// invocations carry out alike, the rest a uniform tangent direction. See ebm_wgpu/kernels/vmf_sample.py.
//!include reduce
//!include philox

const ATTEMPTS: u32 = 256u;
const NEGLIGIBLE: f32 = 1e-18;

// (cosine, sine) of the angle to the mean direction, for k = |eta|.
fn draw_angle(k: f32, chain_number: u32) -> vec2<f32> {
    let m = f32(params.D) - 1.0;
    let root = sqrt(1.0 + (2.0 * k / m) * (2.0 * k / m));
    let x0 = 2.0 * k / m / (1.0 + root);
    var r = 0.0;
    var q = 0.0;
    for (var attempt = 0u; attempt < ATTEMPTS; attempt += 1u) {
        let u = philox_uniform4(
            vec4<u32>(attempt, params.step, chain_number, STREAM_COSINE),
            vec2<u32>(params.seed_lo, params.seed_hi));
        r = sqrt(-expm1_accurate(2.0 / (m - 1.0) * log_accurate(u.x))) * sincos_turns(u.y).y;
        q = x0 * r;
        if (m * (q / (1.0 + q) - log1p_accurate(q)) >= log_accurate(u.z)) { break; }
    }
    let sine = sqrt(2.0 / (1.0 + root) * (1.0 - r) * (1.0 + r));
    return vec2<f32>(x0 + r, sine) / (1.0 + q);
}

// Coordinate i of the mean direction; the first axis where there is none.
fn mean_direction(row: u32, i: u32, k: f32) -> f32 {
    let pole = select(0.0, 1.0, i == 0u);
    return select(load_eta(row * params.D + i) / k, pole, k == 0.0);
}

@compute @workgroup_size(WG)
fn main(inv: Invocation) {
    let row = group_index(inv);
    if (row >= params.B) { return; }
    let base = row * params.D;
    let chain_number = u32(chain[row]);
    let quads = (params.D + 3u) / 4u;

    var partial = 0.0;
    for (var i = inv.local; i < params.D; i += WG) {
        partial += load_eta(base + i) * load_eta(base + i);
    }
    let norm = sqrt(reduce_sum(partial, inv));
    let k = select(norm, 0.0, norm < NEGLIGIBLE);

    partial = 0.0;
    for (var quad = inv.local; quad < quads; quad += WG) {
        let z = philox_normal4(
            vec4<u32>(quad, params.step, chain_number, STREAM_DIRECTION),
            vec2<u32>(params.seed_lo, params.seed_hi));
        for (var i = 4u * quad; i < min(4u * quad + 4u, params.D); i += 1u) {
            out[base + i] = z[i % 4u];
            partial += z[i % 4u] * mean_direction(row, i, k);
        }
    }
    let radial = reduce_sum(partial, inv);

    partial = 0.0;
    for (var quad = inv.local; quad < quads; quad += WG) {
        for (var i = 4u * quad; i < min(4u * quad + 4u, params.D); i += 1u) {
            let across = out[base + i] - radial * mean_direction(row, i, k);
            out[base + i] = across;
            partial += across * across;
        }
    }
    let length = sqrt(reduce_sum(partial, inv));

    let angle = draw_angle(k, chain_number);
    let scale = angle.y / length;
    for (var quad = inv.local; quad < quads; quad += WG) {
        for (var i = 4u * quad; i < min(4u * quad + 4u, params.D); i += 1u) {
            out[base + i] = angle.x * mean_direction(row, i, k) + scale * out[base + i];
        }
    }
}
