// energy = -log sum_k exp(log_w_k + a_k (mu_k.x - 1)) - h.x over all splats, and its Riemannian
// gradient; one workgroup a row.
//!include splat_energy

fn splat_at(row: u32, j: u32) -> i32 { return i32(j); }

@compute @workgroup_size(WG)
fn main(inv: Invocation) {
    let row = group_index(inv);
    if (row >= params.B) { return; }
    energy_row(row, params.N, inv);
}
