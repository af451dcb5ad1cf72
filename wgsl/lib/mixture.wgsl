// The tilt of a splat: |eta|^2 = a^2 + 2 a s + |h|^2 with s = mu.h, and F(q) = A(sqrt q)/sqrt q with
// its derivative, both finite at q = 0. In terms of F
//     d log Z0(|eta|) = F/2 dq,   d log Z0(a) = a F(a^2) da,   eta/|eta| A = F eta.
// Debye expansion from d = 64 on, to order nu^-3 in log U (see lib/vmf.wgsl); below, the recurrence
// F_d = 1/(d + q F_{d+2}) from 64 or 65. Twin: ebm_wgpu/kernels/_mixture.py.

const COLUMNS: u32 = 32u;
const ROW_LANES: u32 = WG / COLUMNS;
var<workgroup> column_partials: array<vec2<f32>, WG>;

fn tilted_square(a: f32, s: f32, h2: f32) -> f32 {
    return max(a * a + (2.0 * a * s + h2), 0.0);
}

// The dimension of the same parity, at least d, at which the expansion is used.
fn tilt_start(d: u32) -> u32 {
    return max(d, 64u + (d & 1u));
}

// C = (p d/dp) log U, and the same plus half of (p d/dp)^2 log U.
fn tilt_series(p: f32, n1: f32) -> vec2<f32> {
    let n2 = n1 * n1;
    let n3 = n1 * n2;
    var e = vec2<f32>(9.0, 49.5) * (-1105.0 / 1152.0 * n3);
    e = e * p * p + vec2<f32>(7.0, 31.5) * (221.0 / 128.0 * n3);
    e = e * p + vec2<f32>(6.0, 24.0) * (0.3125 * n2);
    e = e * p + vec2<f32>(5.0, 17.5) * (-531.0 / 640.0 * n3);
    e = e * p + vec2<f32>(4.0, 12.0) * (-0.375 * n2);
    e = e * p + vec2<f32>(3.0, 7.5) * (25.0 / 384.0 * n3 - 5.0 / 24.0 * n1);
    e = e * p + vec2<f32>(2.0, 4.0) * (0.0625 * n2);
    e = e * p + vec2<f32>(1.0, 1.5) * (0.125 * n1);
    return e * p;
}

// (F, dF/dq) at q >= 0 in dimension d.
fn tilt_slope(q: f32, d: u32) -> vec2<f32> {
    var dimension = tilt_start(d);
    let n1 = 1.0 / (0.5 * f32(dimension) - 1.0);
    let p = 1.0 / sqrt(1.0 + q * n1 * n1);
    let e = 0.5 + tilt_series(p, n1);
    let pn = p * n1;
    let share = 1.0 / (1.0 + p);
    var f = pn * (share - pn * e.x);
    var slope = pn * pn * pn * (pn * e.y - 0.5 * share * share);
    while (dimension > d) {
        dimension -= 2u;
        let next = 1.0 / (f32(dimension) + q * f);
        slope = -next * next * (f + q * slope);
        f = next;
    }
    return vec2<f32>(f, slope);
}

// (F(q), F(q) - F(a^2)) with q = a^2 + delta, never subtracting the two; delta < -a^2 counts as -a^2.
fn tilt_change(a: f32, delta: f32, d: u32) -> vec2<f32> {
    let square = a * a;
    let dq = max(delta, -square);
    var dimension = tilt_start(d);
    let n1 = 1.0 / (0.5 * f32(dimension) - 1.0);
    let n2 = n1 * n1;
    let p = 1.0 / sqrt(max(1.0 + (square + dq) * n2, 1.0));
    let start = 1.0 / sqrt(1.0 + square * n2);
    let c = tilt_series(p, n1).x;
    var f = p * n1 * (1.0 / (1.0 + p) - p * n1 * (0.5 + c));
    let both = p * start;
    let fall = 1.0 / ((p + start) * (1.0 + p) * (1.0 + start)) - n1 * (0.5 + c);
    let bend = n2 * start * start * (c - tilt_series(start, n1).x);
    var change = -n1 * (dq * n2 * both * both * fall) - bend;
    var untilted = f - change;
    while (dimension > d) {
        dimension -= 2u;
        let slope = dq * f + square * change;
        f = 1.0 / (f32(dimension) + (square + dq) * f);
        untilted = 1.0 / (f32(dimension) + square * untilted);
        change = -f * untilted * slope;
    }
    return vec2<f32>(f, change);
}

// Sum over the rows that the workgroup's lanes went through, for each of its COLUMNS columns; lane 0
// of a column (local / COLUMNS == 0) gets it.
fn sum_column(value: vec2<f32>, inv: Invocation) -> vec2<f32> {
    column_partials[inv.local] = value;
    workgroupBarrier();
    var total = column_partials[inv.local % COLUMNS];
    for (var lane = 1u; lane < ROW_LANES; lane += 1u) {
        total += column_partials[inv.local % COLUMNS + lane * COLUMNS];
    }
    return total;
}
