//!family
// partial[i, c] = sum of x[order[j], c] over the run of equal ids that holds place i, within its block of
// SPAN places, at the first place of that run; one invocation a place and a column.
@compute @workgroup_size(WG)
fn main(inv: Invocation) {
    let at = group_index(inv) * WG + inv.local;
    if (at >= params.B * params.D) { return; }
    let i = at / params.D;
    let column = at % params.D;
    let own = sorted_ids[i];
    if (i % SPAN != 0u && sorted_ids[max(i, 1u) - 1u] == own) { return; }
    let end = min((i / SPAN + 1u) * SPAN, params.B);
    var sum = $TYPE(0);
    for (var j = i; j < end; j += 1u) {
        if (sorted_ids[j] != own) { break; }
        sum += load_x(u32(order[j]) * params.D + column);
    }
    partial_sums[at] = sum;
}
