// mu[slots[b]] = rows[b] and ids[slots[b]] = row_ids[b] where there is such a slot; one invocation an
// entry.
@compute @workgroup_size(WG)
fn main(inv: Invocation) {
    let i = group_index(inv) * WG + inv.local;
    if (i >= params.B * params.D) { return; }
    let row = i / params.D;
    let column = i % params.D;
    let slot = u32(slots[row]);
    if (slot >= params.M) { return; }
    store_mu(slot * params.D + column, load_rows(i));
    if (column == 0u) { ids[slot] = row_ids[row]; }
}
