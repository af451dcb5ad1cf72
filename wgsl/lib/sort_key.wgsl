// Keys that order as u32 what values order as numbers: -0 equal to 0, NaN greatest. Those of a rising
// order, and their complements.
fn rising_float(value: f32) -> u32 {
    let bits = bitcast<u32>(value);
    let magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) { return 0xfffffffeu; }
    if (bits == magnitude || magnitude == 0u) { return magnitude | 0x80000000u; }
    return ~bits;
}
fn rising_int(value: i32) -> u32 { return bitcast<u32>(value) ^ 0x80000000u; }

// The same for a search of the least: NaN first there too.
fn falling_float(value: f32) -> u32 {
    let key = rising_float(value);
    return select(~key, key, key == 0xfffffffeu);
}
fn falling_int(value: i32) -> u32 { return ~rising_int(value); }
