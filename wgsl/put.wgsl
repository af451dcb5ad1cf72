//!family
// out[... + index[...] step] = x[...] on a grid; one invocation an entry. Where several entries have the
// same place, one of them is written.
//!include indexed

@compute @workgroup_size(WG)
fn main(inv: Invocation) {
    let i = group_index(inv) * WG + inv.local;
    if (i >= params.count) { return; }
    let entry = indexed_entry(i);
    if (entry.named) { store_out(entry.out_place + entry.at * params.step, load_x(entry.x_place)); }
}
