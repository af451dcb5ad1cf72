// Functions made of those of lib/math. erf and erfc follow Cephes' ndtrf.c (Moshier 1989).
//!include math
//!include floats

// erfc |x| for |x| >= 1.
fn special_erfc_tail(x: f32) -> f32 {
    let q = 1.0 / x;
    let y = q * q;
    var near = 2.326819970068386e-2;
    near = near * y - 1.387039388740657e-1;
    near = near * y + 3.687424674597105e-1;
    near = near * y - 5.824733027278666e-1;
    near = near * y + 6.210004621745983e-1;
    near = near * y - 4.944515323274145e-1;
    near = near * y + 3.404879937665872e-1;
    near = near * y - 2.741127028184656e-1;
    near = near * y + 5.638259427386472e-1;
    var far = -1.047766399936249e1;
    far = far * y + 1.297719955372516e1;
    far = far * y - 7.495518717768503;
    far = far * y + 2.921019019210786;
    far = far * y - 1.015265279202700;
    far = far * y + 4.218463358204948e-1;
    far = far * y - 2.820767439740514e-1;
    far = far * y + 5.641895067754075e-1;
    // x^2 in two parts, since exp turns an absolute error of its argument into a relative one.
    let head = bitcast<f32>(bitcast<u32>(x) & 0xfffff000u);
    let tail = (x - head) * (x + head);
    return exp_accurate(-head * head) * exp_accurate(-tail) * q * select(near, far, x >= 2.0);
}

fn special_erf_core(x: f32) -> f32 {
    let z = x * x;
    var p = 7.853861353153693e-5;
    p = p * z - 8.010193625184903e-4;
    p = p * z + 5.188327685732524e-3;
    p = p * z - 2.685381193529856e-2;
    p = p * z + 1.128358514861418e-1;
    p = p * z - 3.761262582423300e-1;
    p = p * z + 1.128379165726710;
    return x * p;
}

fn erf_accurate(x: f32) -> f32 {
    let size = abs(x);
    let far = sign(x) * (1.0 - special_erfc_tail(clamp(size, 1.0, 9.0)));
    return select(far, special_erf_core(x), size < 1.0 || is_nan(x));
}

fn erfc_accurate(x: f32) -> f32 {
    let tail = special_erfc_tail(clamp(abs(x), 1.0, 13.0));
    let far = select(2.0 - tail, tail, x > 0.0);
    return select(far, 1.0 - special_erf_core(x), abs(x) < 1.0 || is_nan(x));
}

fn tanh_accurate(x: f32) -> f32 {
    let t = expm1_accurate(-2.0 * abs(x));
    return select(sign(x) * (-t / (2.0 + t)), x, is_nan(x));
}

fn sigmoid(x: f32) -> f32 { return 1.0 / (1.0 + exp_accurate(-x)); }

// base^exponent as on the processor: signs of odd powers, NaN for roots of negative numbers.
fn pow_accurate(base: f32, exponent: f32) -> f32 {
    if (exponent == 0.0 || base == 1.0) { return 1.0; }
    let whole = exponent == trunc(exponent) && !is_nan(exponent);
    if (whole && abs(exponent) <= 64.0) {
        var result = 1.0;
        var square = base;
        var left = u32(abs(exponent));
        for (var bit = 0u; bit < 7u; bit += 1u) {
            if ((left & 1u) == 1u) { result *= square; }
            left >>= 1u;
            if (left != 0u) { square *= square; }
        }
        return select(result, 1.0 / result, exponent < 0.0);
    }
    if (base < 0.0 && !whole) { return bitcast<f32>(0x7fc00000u | (bitcast<u32>(base) & 1u)); }
    // log |base| = exponent_2 log 2 + log1p, the first part times `exponent` kept in two pieces.
    let size = abs(base);
    if (size == 0.0 || size > MATH_HUGE || is_nan(size) || is_nan(exponent)) {
        let value = pow(size, exponent);
        return select(value, size + exponent, is_nan(size) || is_nan(exponent));
    }
    let log_size = log_accurate(size);
    let head = bitcast<f32>(bitcast<u32>(exponent) & 0xfffff000u);
    let log_head = bitcast<f32>(bitcast<u32>(log_size) & 0xfffff000u);
    let product = head * log_head;
    let rest = (exponent - head) * log_size + head * (log_size - log_head);
    let value = exp_accurate(product) * exp_accurate(rest);
    let odd = whole && abs(exponent) < 16777216.0 && (i32(exponent) & 1) == 1;
    return select(value, -value, base < 0.0 && odd);
}
