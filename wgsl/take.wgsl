//!family
// out[...] = x[... + index[...] step] on a grid; one invocation an entry.
//!include indexed

@compute @workgroup_size(WG)
fn main(inv: Invocation) {
    let i = group_index(inv) * WG + inv.local;
    if (i >= params.count) { return; }
    let entry = indexed_entry(i);
    if (entry.named) {
        store_out(entry.out_place, load_x(entry.x_place + entry.at * params.step));
    } else {
        store_out(entry.out_place, $NOTHING);
    }
}
