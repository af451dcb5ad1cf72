// v <- v - kick grad, then half a geodesic drift, the exact thermostat, half a drift.
//!include baoab
//!include chain_row

@compute @workgroup_size(WG)
fn main(inv: Invocation) {
    let row = group_index(inv);
    if (row >= params.B) { return; }
    row_base = row * params.D;
    for (var q = inv.local; q < quads(); q += WG) {
        for (var i = 4u * q; i < quad_end(q); i += 1u) {
            set_v(i, get_v(i) - params.kick * load_grad(row_base + i));
        }
    }
    drift_thermalise_drift(
        params.half_step, params.decay, params.noise, params.step, u32(chain[row]), inv);
}
