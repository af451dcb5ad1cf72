// Pairs of coordinates of the heads of attention: where they stand, and how positions turn them.

// Pair `pair` of a head of the queries: first entry in a row [q | k | v] of its token and among heads
// side by side, and cosine and sine of its turn. Keys and values stand `part` entries further on each.
struct Pair { in_row: u32, in_heads: u32, part: u32, c: f32, s: f32 }

fn pair_of(index: u32) -> Pair {
    let pair = index % params.C;
    let head = index / params.C % params.H;
    let token = index / (params.C * params.H);
    let time = token % params.T;
    let batch = token / params.T;
    let turn = (select(0u, batch, params.P > 1u) * params.T + time) * params.C + pair;
    return Pair(
        token * params.W + head * params.D + pair,
        ((batch * params.H + head) * params.T + time) * params.D + pair,
        params.H * params.D, load_cos(turn), load_sin(turn));
}
