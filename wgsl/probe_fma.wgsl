// out = the result of ITERATIONS dependent multiply-adds on each of eight accumulators: what speed
// mode calls the multiply-add peak. Eight chains hide the latency of one.
@compute @workgroup_size(WG)
fn main(inv: Invocation) {
    let i = group_index(inv) * WG + inv.local;
    if (i >= params.N) { return; }
    let m = x[i];
    var lower = vec4<f32>(0.0, 1.0, 2.0, 3.0);
    var upper = vec4<f32>(4.0, 5.0, 6.0, 7.0);
    for (var n = 0u; n < ITERATIONS; n += 1u) {
        lower = fma(lower, vec4<f32>(m), vec4<f32>(0.5));
        upper = fma(upper, vec4<f32>(m), vec4<f32>(0.5));
    }
    let both = lower + upper;
    out[i] = both.x + both.y + both.z + both.w;
}
