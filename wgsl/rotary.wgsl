// Each pair of coordinates of a head turned by the angle of its position; one invocation a pair.
@compute @workgroup_size(WG)
fn main(inv: Invocation) {
    let index = group_index(inv) * WG + inv.local;
    if (index >= params.R * params.H * params.C) { return; }
    let pair = index % params.C;
    let head = index / params.C;
    let position = params.offset + head / params.H % params.period;
    let interleaved = params.interleaved != 0u;
    let first = head * params.D + select(pair, 2u * pair, interleaved);
    let second = first + select(params.C, 1u, interleaved);
    let turn = position * params.C + pair;
    let c = load_cos(turn);
    let s = select(load_sin(turn), -load_sin(turn), params.inverse != 0u);
    let x = load_x(first);
    let y = load_x(second);
    store_out(first, x * c - y * s);
    store_out(second, x * s + y * c);
}
