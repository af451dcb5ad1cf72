// Von Mises-Fisher functions relative to the uniform probability on S^{d-1}, d >= 8, in f32:
// Z0(k) = E[exp(k mu.x)], A(k) = d log Z0/dk.
// The Debye expansion (Abramowitz and Stegun 9.7.7, in logarithmic form, to order nu^-3) is good to
// 4e-8 from d = 64 on. Smaller dimensions start at 64 or 65 and come down by the recurrence
// f_d = k^2/(d + f_{d+2}), log Z0_d = log Z0_{d+2} + log(1 + f_{d+2}/d), where f = k A(k).
// Twin: ebm_wgpu/kernels/_vmf.py.
//!include math

const VMF_DIMENSION: u32 = 64u;

// The dimension of the same parity, at least d, at which the expansion is used.
fn vmf_start(d: u32) -> u32 {
    return max(d, VMF_DIMENSION + (d & 1u));
}

// One Horner step for a polynomial P (value at p, divided difference between p and r) and p P'.
fn vmf_step(e: vec4<f32>, p: f32, r: f32, c: f32, order: f32) -> vec4<f32> {
    return vec4<f32>(e.x * p + c, e.y * r + e.x, e.z * p + order * c, e.w * r + e.z);
}

// With P = log U, U the Debye series: P(p), (P(r)-P(p))/(r-p), and the same of w(p) = p P'(p).
fn vmf_debye(p: f32, r: f32, nu: f32) -> vec4<f32> {
    let n1 = 1.0 / nu;
    let n2 = n1 * n1;
    let n3 = n1 * n2;
    let top = -1105.0 / 1152.0 * n3;
    var e = vec4<f32>(top, 0.0, 9.0 * top, 0.0);
    e = vmf_step(e, p, r, 0.0, 8.0);
    e = vmf_step(e, p, r, 221.0 / 128.0 * n3, 7.0);
    e = vmf_step(e, p, r, 0.3125 * n2, 6.0);
    e = vmf_step(e, p, r, -531.0 / 640.0 * n3, 5.0);
    e = vmf_step(e, p, r, -0.375 * n2, 4.0);
    e = vmf_step(e, p, r, 25.0 / 384.0 * n3 - 5.0 / 24.0 * n1, 3.0);
    e = vmf_step(e, p, r, 0.0625 * n2, 2.0);
    e = vmf_step(e, p, r, 0.125 * n1, 1.0);
    return vmf_step(e, p, r, 0.0, 0.0);
}

// log Z0(sqrt(a^2 + delta)) - log Z0(a) without subtracting the two; delta < -a^2 counts as -a^2.
fn vmf_log_z0_ratio(a: f32, delta: f32, d: u32) -> f32 {
    let square = a * a;
    let change = abs(max(delta, -square));
    // From the smaller end the recurrence damps rounding errors; from the larger it feeds them.
    let q = max(square + min(delta, 0.0), 0.0);
    var dimension = vmf_start(d);
    let nu = 0.5 * f32(dimension) - 1.0;
    let scale = 1.0 / (nu * nu);
    let s = sqrt(1.0 + q * scale);
    let t = sqrt(1.0 + (q + change) * scale);
    let ds = change * scale / (s + t);
    let p = 1.0 / s;
    let r = 1.0 / t;
    let dp = -ds * p * r;
    let e = vmf_debye(p, r, nu);
    var result = nu * (ds - log1p_accurate(ds / (1.0 + s))) - 0.5 * log1p_accurate(ds * p) + e.y * dp;
    if (dimension > d) {
        let sine = q * scale * p * p;
        var f = nu * q * scale / (1.0 + s) - sine * (0.5 + e.z);
        var df = nu * ds + dp * ((p + r) * (0.5 + e.z + e.w * dp) - sine * e.w);
        while (dimension > d) {
            dimension -= 2u;
            let sum = f32(dimension) + f;
            result += log1p_accurate(df / sum);
            f = q / sum;
            df = (change - f * df) / (sum + df);
        }
    }
    return select(result, -result, delta < 0.0);
}

// log Z0(k) for k >= 0; 0 at k = 0.
fn vmf_log_z0(k: f32, d: u32) -> f32 {
    return vmf_log_z0_ratio(0.0, k * k, d);
}

// (A(k)/k, dA/dk) for k >= 0: (1/d, 1/d) at k = 0. With S = d + f_{d+2} and g = f - k df/dk at d + 2,
// A/k = 1/S and dA/dk = (d + g)/S^2; g_d = -(k/S)^2 (d + g_{d+2}).
fn vmf_mean_ratio_and_slope(k: f32, d: u32) -> vec2<f32> {
    let above = d + 2u;
    var dimension = vmf_start(above);
    let nu = 0.5 * f32(dimension) - 1.0;
    let q = (k / nu) * (k / nu);
    let s = sqrt(1.0 + q);
    let p = 1.0 / s;
    let e = vmf_debye(p, p, nu);
    let sine = q * p * p;
    let half_w = 0.5 + e.z;
    var f = nu * q / (1.0 + s) - sine * half_w;
    var g = -nu * q * p / (1.0 + s) - sine * (half_w * (1.0 - 2.0 * p * p) + sine * p * e.w);
    while (dimension > above) {
        dimension -= 2u;
        let sum = f32(dimension) + f;
        let cosine = k / sum;
        g = -cosine * cosine * (f32(dimension) + g);
        f = k * cosine;
    }
    let sum = f32(d) + f;
    return vec2<f32>(1.0 / sum, (f32(d) + g) / sum / sum);
}

// A(k)/k, finite at k = 0.
fn vmf_mean_ratio(k: f32, d: u32) -> f32 {
    return vmf_mean_ratio_and_slope(k, d).x;
}

// A(k) = E[mu.x], in [0, 1).
fn vmf_mean_cosine(k: f32, d: u32) -> f32 {
    return k * vmf_mean_ratio_and_slope(k, d).x;
}

// dA/dk = Var[mu.x], without the cancellation of 1 - A^2 - (d-1) A/k.
fn vmf_mean_cosine_slope(k: f32, d: u32) -> f32 {
    return vmf_mean_ratio_and_slope(k, d).y;
}

// k - log Z0(k) for k >= 0, the log density at the mode; a sum of positive terms from d = 64 on.
fn vmf_log_peak(k: f32, d: u32) -> f32 {
    var dimension = vmf_start(d);
    let nu = 0.5 * f32(dimension) - 1.0;
    let z = k / nu;
    let q = z * z;
    let s = sqrt(1.0 + q);
    let p = 1.0 / s;
    let ds = q / (1.0 + s);
    let e = vmf_debye(1.0, p, nu);
    var result = nu * (z * (1.0 + 1.0 / (s + z)) / (1.0 + s) + log1p_accurate(0.5 * ds));
    result += 0.5 * log1p_accurate(ds) + e.y * ds * p;
    if (dimension > d) {
        let at = vmf_debye(p, p, nu);
        var f = nu * ds - q * p * p * (0.5 + at.z);
        while (dimension > d) {
            dimension -= 2u;
            let sum = f32(dimension) + f;
            result -= log1p_accurate(f / f32(dimension));
            f = k * (k / sum);
        }
    }
    return result;
}

// 1 - A(k) for k >= 0, without subtracting the two. With b = k - f at d + 2, it is
// (d - b)/(d + k - b); b_d = k (d - b_{d+2})/(d + k - b_{d+2}).
fn vmf_mean_cosine_gap(k: f32, d: u32) -> f32 {
    let above = d + 2u;
    var dimension = vmf_start(above);
    let nu = 0.5 * f32(dimension) - 1.0;
    let z = k / nu;
    let q = z * z;
    let s = sqrt(1.0 + q);
    let p = 1.0 / s;
    let e = vmf_debye(p, p, nu);
    var b = nu * z * (1.0 + 1.0 / (s + z)) / (1.0 + s) + q * p * p * (0.5 + e.z);
    while (dimension > above) {
        dimension -= 2u;
        let left = f32(dimension) - b;
        b = k * (left / (left + k));
    }
    let left = f32(d) - b;
    return left / (left + k);
}
