// out[row, 2 q + lane] = low + floor(w span / 2^64), w the 64-bit word of lanes 2 lane, 2 lane + 1 of Philox
// at counter (q, step, chain[row], stream); span 0 stands for 2^32. One invocation a block of two.
//!include philox

@compute @workgroup_size(WG)
fn main(inv: Invocation) {
    let pairs = (params.D + 1u) / 2u;
    let index = group_index(inv) * WG + inv.local;
    if (index >= params.B * pairs) { return; }
    let row = index / pairs;
    let pair = index % pairs;
    let counter = vec4<u32>(pair, params.step, u32(chain[row]), params.stream);
    let words = philox4x32(counter, vec2<u32>(params.seed_lo, params.seed_hi));
    for (var lane = 0u; lane < min(2u, params.D - 2u * pair); lane += 1u) {
        let upper = words[2u * lane];
        let carry = philox_mul_high(words[2u * lane + 1u], params.span);
        let product = upper * params.span;
        let above = philox_mul_high(upper, params.span) + select(0u, 1u, product + carry < product);
        let value = select(above, upper, params.span == 0u);
        out[row * params.D + 2u * pair + lane] = params.low + i32(value);
    }
}
