// v <- P_x(decay v - kick grad + noise g), x <- x / |x|: the closing half of a step.
//!include baoab
//!include chain_row

@compute @workgroup_size(WG)
fn main(inv: Invocation) {
    let row = group_index(inv);
    if (row >= params.B) { return; }
    row_base = row * params.D;
    if (params.noise != 0.0) {
        thermalise(params.decay, params.noise, params.step, u32(chain[row]), inv);
    } else {
        for (var q = inv.local; q < quads(); q += WG) {
            for (var i = 4u * q; i < quad_end(q); i += 1u) { set_v(i, params.decay * get_v(i)); }
        }
    }
    for (var q = inv.local; q < quads(); q += WG) {
        for (var i = 4u * q; i < quad_end(q); i += 1u) {
            set_v(i, get_v(i) - params.kick * load_grad(row_base + i));
        }
    }
    reproject(inv);
}
