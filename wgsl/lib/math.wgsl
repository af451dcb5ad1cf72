// Elementary functions to a few units in the last place. The built-in ones may err by 4096 ULP
// (atan2), 2^-11 (sin, cos) or 2^-21 (log near 1). Polynomials are those of Cephes (Moshier 1989);
// reductions avoid compensated sums, which a compiler with fast arithmetic would undo.
// Twin: ebm_wgpu/kernels/_math.py.

const MATH_TINY: f32 = 1.17549435e-38;
const MATH_HUGE: f32 = 3.4028234e38;
const MATH_PI: f32 = 3.14159265;
const MATH_HALF_PI: f32 = 1.57079633;
const MATH_QUARTER_PI: f32 = 0.785398163;

// log(1 + f) + exponent log 2, for 1 + f in [sqrt(1/2), sqrt(2)].
fn math_log_core(f: f32, exponent: f32) -> f32 {
    let z = f * f;
    var p = 7.0376836292e-2;
    p = p * f - 1.1514610310e-1;
    p = p * f + 1.1676998740e-1;
    p = p * f - 1.2420140846e-1;
    p = p * f + 1.4249322787e-1;
    p = p * f - 1.6668057665e-1;
    p = p * f + 2.0000714765e-1;
    p = p * f - 2.4999993993e-1;
    p = p * f + 3.3333331174e-1;
    // log 2 = 0.693359375 - 2.12194440e-4, the first part exact in few bits.
    let tail = f * z * p - 2.12194440e-4 * exponent - 0.5 * z;
    return f + tail + 0.693359375 * exponent;
}

// The power of two that brings a positive normal x into [sqrt(1/2), sqrt(2)).
fn math_exponent(x: f32) -> i32 {
    return (bitcast<i32>(x) - 0x3f3504f3) >> 23u;
}

fn math_mantissa(x: f32, exponent: i32) -> f32 {
    return bitcast<f32>(bitcast<i32>(x) - (exponent << 23u));
}

// log x, for zero or a positive normal x.
fn log_accurate(x: f32) -> f32 {
    let exponent = math_exponent(x);
    let result = math_log_core(math_mantissa(x, exponent) - 1.0, f32(exponent));
    return select(log(x), result, x >= MATH_TINY && x <= MATH_HUGE);
}

// log(1 + x), relative accuracy at every x > -1.
fn log1p_accurate(x: f32) -> f32 {
    let u = 1.0 + x;
    let exponent = math_exponent(u);
    let f = select(math_mantissa(u, exponent) - 1.0, x, exponent == 0);
    let result = math_log_core(f, f32(exponent));
    return select(log(u), result, u >= MATH_TINY && u <= MATH_HUGE);
}

// exp(x) = 2^n (1 + m): (2^n, m), for x in [-87, 88].
fn math_exp_parts(x: f32) -> vec2<f32> {
    let n = round(x * 1.44269504);
    let r = (x - n * 0.693359375) + n * 2.12194440e-4;
    var p = 1.9875691500e-4;
    p = p * r + 1.3981999507e-3;
    p = p * r + 8.3334519073e-3;
    p = p * r + 4.1665795894e-2;
    p = p * r + 1.6666665459e-1;
    p = p * r + 5.0000001201e-1;
    return vec2<f32>(bitcast<f32>((i32(n) + 127) << 23u), r * r * p + r);
}

// exp x; 0 below -87 and infinity above 88, a little before f32 ends.
fn exp_accurate(x: f32) -> f32 {
    let parts = math_exp_parts(clamp(x, -87.0, 88.0));
    let result = (parts.x + parts.x * parts.y) * select(1.0, MATH_HUGE, x > 88.0);
    return select(x, select(result, 0.0, x < -87.0), x == x);
}

// exp(x) - 1, relative accuracy at every x; infinity above 88.
fn expm1_accurate(x: f32) -> f32 {
    let parts = math_exp_parts(clamp(x, -87.0, 88.0));
    let result = (parts.x * parts.y + (parts.x - 1.0)) * select(1.0, MATH_HUGE, x > 88.0);
    return select(x, select(result, -1.0, x < -87.0), x == x);
}

// (sin, cos) of angle + quadrant pi/2, for |angle| <= pi/4.
fn math_sincos_core(angle: f32, quadrant: i32) -> vec2<f32> {
    let z = angle * angle;
    let sine = ((-1.9515295891e-4 * z + 8.3321608736e-3) * z - 1.6666654611e-1) * z * angle + angle;
    let cosine = ((2.443315711809948e-5 * z - 1.388731625493765e-3) * z + 4.166664568298827e-2)
        * z * z - 0.5 * z + 1.0;
    let odd = (quadrant & 1) != 0;
    let s = select(sine, cosine, odd);
    let c = select(cosine, sine, odd);
    return vec2<f32>(
        select(s, -s, (quadrant & 2) != 0),
        select(c, -c, ((quadrant + 1) & 2) != 0),
    );
}

// (sin, cos) of 2 pi u, |u| < 2^20; exact at multiples of a quarter turn.
fn sincos_turns(u: f32) -> vec2<f32> {
    let quadrant = round(4.0 * u);
    return math_sincos_core(6.28318531 * (u - 0.25 * quadrant), i32(quadrant));
}

// (sin, cos) of an angle in radians, |x| <= 8192.
fn sincos_accurate(x: f32) -> vec2<f32> {
    let quadrant = round(x * 0.636619772);
    // pi/2 in three parts; products of the first two with the quadrant are exact.
    let reduced = ((x - quadrant * 1.5703125) - quadrant * 4.83751297e-4) - quadrant * 7.54978995e-8;
    return math_sincos_core(reduced, i32(quadrant));
}

// The angle of (x, y) in (-pi, pi]; 0 at the origin. The sign of a zero is not looked at.
fn atan2_accurate(y: f32, x: f32) -> f32 {
    let large = max(abs(x), abs(y));
    let small = min(abs(x), abs(y));
    let steep = small > 0.414213562 * large;
    let numerator = select(small, small - large, steep);
    let denominator = select(large, small + large, steep);
    let t = select(numerator / denominator, 0.0, large == 0.0);
    let z = t * t;
    let series = (((8.05374449538e-2 * z - 1.38776856032e-1) * z + 1.99777106478e-1) * z
        - 3.33329491539e-1) * z * t + t;
    var angle = select(series, MATH_QUARTER_PI + series, steep);
    angle = select(angle, MATH_HALF_PI - angle, abs(y) > abs(x));
    angle = select(angle, MATH_PI - angle, x < 0.0);
    return select(angle, -angle, y < 0.0);
}
