// Gradients of heads to [q | k | v] of each token, those of q and k turned back; one invocation a pair of
// coordinates of all three.
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
    var x = load_grad_q(place);
    var y = load_grad_q(place + params.C);
    store_grad_x(first, x * c + y * s);
    store_grad_x(first + params.C, y * c - x * s);
    x = load_grad_k(place);
    y = load_grad_k(place + params.C);
    store_grad_x(first + part, x * c + y * s);
    store_grad_x(first + part + params.C, y * c - x * s);
    store_grad_x(first + 2u * part, load_grad_v(place));
    store_grad_x(first + 2u * part + params.C, load_grad_v(place + params.C));
}
