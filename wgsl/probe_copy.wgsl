// out = x, four values an invocation: what speed mode calls the copy bandwidth.
@compute @workgroup_size(WG)
fn main(inv: Invocation) {
    let group = group_index(inv);
    for (var j = 0u; j < 4u; j += 1u) {
        let i = (group * 4u + j) * WG + inv.local;
        if (i < params.N) { out[i] = x[i]; }
    }
}
