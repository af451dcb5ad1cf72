// What a division of floats leaves, exactly and with the sign of the dividend, as fmod of C does: the
// significands are divided as whole numbers, eight bits of the quotient a turn. NaN where the dividend is
// infinite or the divisor zero.
fn fmod_exact(a: f32, b: f32) -> f32 {
    let sign = bitcast<u32>(a) & 0x80000000u;
    let x = bitcast<u32>(a) & 0x7fffffffu;
    let y = bitcast<u32>(b) & 0x7fffffffu;
    if (x >= 0x7f800000u || y == 0u || y > 0x7f800000u) { return bitcast<f32>(0x7fc00000u | sign); }
    if (x < y) { return a; }
    // Both are significands times powers of two; those without a leading one have the exponent of 1.
    let exponent = max(y >> 23u, 1u);
    let divisor = (y & 0x7fffffu) | select(0u, 0x800000u, y >= 0x800000u);
    var rest = ((x & 0x7fffffu) | select(0u, 0x800000u, x >= 0x800000u)) % divisor;
    var left = max(x >> 23u, 1u) - exponent;
    while (left > 0u) {
        let turn = min(left, 8u);
        rest = (rest << turn) % divisor;
        left -= turn;
    }
    if (rest == 0u) { return bitcast<f32>(sign); }
    let up = countLeadingZeros(rest) - 8u;
    let normal = ((exponent - up) << 23u) | ((rest << up) & 0x7fffffu);
    return bitcast<f32>(sign | select(rest << (exponent - 1u), normal, exponent > up));
}
