// Gradients of heads to [q | k | v] of each token, those of q and k turned back; one invocation a pair of
// coordinates of all three.
//!include head_pairs

@compute @workgroup_size(WG)
fn main(inv: Invocation) {
    let index = group_index(inv) * WG + inv.local;
    if (index >= params.B * params.T * params.H * params.C) { return; }
    let at = pair_of(index);
    let there = at.in_heads;
    var target_row = at.in_row;
    var x = load_grad_q(there);
    var y = load_grad_q(there + params.C);
    store_grad_x(target_row, x * at.c + y * at.s);
    store_grad_x(target_row + params.C, y * at.c - x * at.s);
    target_row += at.part;
    x = load_grad_k(there);
    y = load_grad_k(there + params.C);
    store_grad_x(target_row, x * at.c + y * at.s);
    store_grad_x(target_row + params.C, y * at.c - x * at.s);
    target_row += at.part;
    store_grad_x(target_row, load_grad_v(there));
    store_grad_x(target_row + params.C, load_grad_v(there + params.C));
}
