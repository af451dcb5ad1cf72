// out = row ids[b] of the weight, NaN where there is no such row; one invocation an entry.
@compute @workgroup_size(WG)
fn main(inv: Invocation) {
    let i = group_index(inv) * WG + inv.local;
    if (i >= params.B * params.D) { return; }
    let id = u32(ids[i / params.D]);
    if (id < params.V) {
        store_out(i, load_weight(id * params.D + i % params.D));
    } else {
        store_out(i, bitcast<f32>(NAN_BITS));
    }
}
