// [q | k | v] of each token to heads side by side, those of q and k turned by the angle of the position; one
// invocation a pair of coordinates of all three.
//!include head_pairs

@compute @workgroup_size(WG)
fn main(inv: Invocation) {
    let index = group_index(inv) * WG + inv.local;
    if (index >= params.B * params.T * params.H * params.C) { return; }
    let at = pair_of(index);
    let there = at.in_heads;
    var source = at.in_row;
    var x = load_x(source);
    var y = load_x(source + params.C);
    store_q(there, x * at.c - y * at.s);
    store_q(there + params.C, x * at.s + y * at.c);
    source += at.part;
    x = load_x(source);
    y = load_x(source + params.C);
    store_k(there, x * at.c - y * at.s);
    store_k(there + params.C, x * at.s + y * at.c);
    source += at.part;
    store_v(there, load_x(source));
    store_v(there + params.C, load_x(source + params.C));
}
