// Each pair of coordinates of a head turned by the angle of its position; one invocation a pair.
@compute @workgroup_size(WG)
fn main(inv: Invocation) {
    let index = group_index(inv) * WG + inv.local;
    if (index >= params.B * params.H * params.T * params.C) { return; }
    let pair = index % params.C;
    let place = index / params.C;
    let time = place % params.T;
    let head = place / params.T % params.H;
    let batch = place / (params.T * params.H);
    let first = params.x_at + batch * params.x_batch + head * params.x_head + time * params.x_time + pair;
    let turn = (select(0u, batch, params.P > 1u) * params.T + time) * params.C + pair;
    let c = load_cos(turn);
    let s = select(load_sin(turn), -load_sin(turn), params.inverse != 0u);
    let x = load_x(first);
    let y = load_x(first + params.C);
    let out_first = place * params.D + pair;
    store_out(out_first, x * c - y * s);
    store_out(out_first + params.C, x * s + y * c);
}
