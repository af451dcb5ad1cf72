// [q | k | v] of each token to heads side by side, those of q and k turned by the angle of the position; one
// invocation a pair of coordinates of all three.
@compute @workgroup_size(WG)
fn main(inv: Invocation) {
    let index = group_index(inv) * WG + inv.local;
    if (index >= params.B * params.T * params.H * params.C) { return; }
    let pair = index % params.C;
    let head = index / params.C % params.H;
    let token = index / (params.C * params.H);
    let time = token % params.T;
    let batch = token / params.T;
    let turn = (select(0u, batch, params.P > 1u) * params.T + time) * params.C + pair;
    let c = load_cos(turn);
    let s = load_sin(turn);
    let part = params.H * params.D;
    let first = token * params.W + head * params.D + pair;
    let place = ((batch * params.H + head) * params.T + time) * params.D + pair;
    var x = load_x(first);
    var y = load_x(first + params.C);
    store_q(place, x * c - y * s);
    store_q(place + params.C, x * s + y * c);
    x = load_x(first + part);
    y = load_x(first + part + params.C);
    store_k(place, x * c - y * s);
    store_k(place + params.C, x * s + y * c);
    store_v(place, load_x(first + 2u * part));
    store_v(place + params.C, load_x(first + 2u * part + params.C));
}
