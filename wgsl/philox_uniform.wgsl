// out[row, 4 q + lane] = lane of philox_uniform4 at counter (q, step, chain[row], stream): one invocation
// a block of four.
//!include philox

@compute @workgroup_size(WG)
fn main(inv: Invocation) {
    let quads = (params.D + 3u) / 4u;
    let index = group_index(inv) * WG + inv.local;
    if (index >= params.B * quads) { return; }
    let row = index / quads;
    let quad = index % quads;
    let counter = vec4<u32>(quad, params.step, u32(chain[row]), params.stream);
    let values = philox_uniform4(counter, vec2<u32>(params.seed_lo, params.seed_hi));
    for (var lane = 0u; lane < min(4u, params.D - 4u * quad); lane += 1u) {
        out[row * params.D + 4u * quad + lane] = values[lane];
    }
}
