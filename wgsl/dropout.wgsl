// out = x / (1 - probability) where Philox keeps the entry, else 0; one invocation four entries, the lanes
// of block i / 4. The backward is the same kernel on the gradient.
//!include philox

@compute @workgroup_size(WG)
fn main(inv: Invocation) {
    let quad = group_index(inv) * WG + inv.local;
    if (4u * quad >= params.N) { return; }
    let counter = vec4<u32>(quad, params.step, params.site, STREAM_DROPOUT);
    let u = philox_uniform4(counter, vec2<u32>(params.seed_lo, params.seed_hi));
    for (var lane = 0u; lane < min(4u, params.N - 4u * quad); lane += 1u) {
        let i = 4u * quad + lane;
        store_out(i, select(0.0, load_x(i) * params.scale, u[lane] >= params.probability));
    }
}
