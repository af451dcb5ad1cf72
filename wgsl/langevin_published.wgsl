// v <- decay v - kick grad, then x moves along the geodesic of v while v stays as it is: the
// published scheme has no parallel transport, and so no seed either.
//!include reduce
//!include math

@compute @workgroup_size(WG)
fn main(inv: Invocation) {
    let row = group_index(inv);
    if (row >= params.B) { return; }
    let base = row * params.D;
    var partial = 0.0;
    for (var i = inv.local; i < params.D; i += WG) {
        let kicked = params.decay * v[base + i] - params.kick * load_grad(base + i);
        v[base + i] = kicked;
        partial += kicked * kicked;
    }
    let speed = sqrt(reduce_sum(partial, inv));
    let turn = sincos_accurate(speed * params.dt);
    let along = select(turn.x / speed, params.dt, speed < 1e-20);
    for (var i = inv.local; i < params.D; i += WG) {
        x[base + i] = turn.y * x[base + i] + along * v[base + i];
    }
}
