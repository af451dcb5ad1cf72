// The energy and Riemannian gradient of splat_energy with the sum taken over each row's own list of
// splats; entries outside 0..N-1 are empty. One workgroup a row.
//!include splat_energy

fn splat_at(row: u32, j: u32) -> i32 {
    let k = idx[row * params.M + j];
    return select(k, -1, k >= i32(params.N));
}

@compute @workgroup_size(WG)
fn main(inv: Invocation) {
    let row = group_index(inv);
    if (row >= params.B) { return; }
    energy_row(row, params.M, inv);
}
