//!family
// out[id, c] += the partial sums of all runs of this id, in their order; one invocation a place and a
// column, of which the first place of an id works. Nothing for ids outside.
@compute @workgroup_size(WG)
fn main(inv: Invocation) {
    let at = group_index(inv) * WG + inv.local;
    if (at >= params.B * params.D) { return; }
    let i = at / params.D;
    let column = at % params.D;
    let own = sorted_ids[i];
    if (own < 0 || u32(own) >= params.V) { return; }
    if (i > 0u && sorted_ids[max(i, 1u) - 1u] == own) { return; }
    var sum = partial_sums[at];
    for (var j = (i / SPAN + 1u) * SPAN; j < params.B; j += SPAN) {
        if (sorted_ids[j] != own) { break; }
        sum += partial_sums[j * params.D + column];
    }
    out[u32(own) * params.D + column] += sum;
}
