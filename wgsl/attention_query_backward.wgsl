// grad_q = scale sum over keys of p (grad_p - delta) k, and delta = out.grad_out, with p from the
// log-sum-exp and grad_p = grad_out.v; SIDE queries of one head a workgroup.
//!include attention_backward

@compute @workgroup_size(WG)
fn main(inv: Invocation) {
    let tiles = (params.T + SIDE - 1u) / SIDE;
    let head = group_index(inv) / tiles;
    if (head >= params.G) { return; }
    let queries = Rows(head * params.T, group_index(inv) % tiles * SIDE, params.T);
    let kv_head = head / (params.G / params.KV) * params.S;
    let own_query = queries.start + inv.local / BLOCKS * 4u;
    let own_column = inv.local % BLOCKS * 4u;
    var row_delta = vec4<f32>();
    var row_lse = vec4<f32>();
//!unroll i 4
    if (own_query + $iu < params.T) {
        let row = queries.head + own_query + $iu;
        row_lse[$i] = load_lse(row);
        for (var c = inv.local % BLOCKS; c < params.D; c += BLOCKS) {
            row_delta[$i] += load_out(row * params.D + c) * load_grad_out(row * params.D + c);
        }
    }
//!end
    row_delta = row_sum(row_delta, inv);
//!unroll j COLUMN_TILES
    var sum$j = mat4x4<f32>();
//!end
    let end = keys_seen(queries.start + SIDE - 1u);
    for (var start = 0u; start < end; start += SIDE) {
        let keys = Rows(kv_head, start, params.S);
        var block = products(Q, queries, K, keys, inv);
        let pull = products(GRAD, queries, V, keys, inv);
        let key = start + own_column;
//!unroll i 4
        block[$i] = scores(block[$i], head, own_query + $iu, key);
        block[$i] = share(block[$i], vec4(row_lse[$i])) * params.scale
            * (pull[$i] * kept(head, own_query + $iu, key) - vec4(row_delta[$i]));
//!end
        put_left(transpose(block), inv);
//!unroll j COLUMN_TILES
        if ($ju * SIDE < params.D) { sum$j = add_rows(sum$j, K, keys, $ju * SIDE, inv); }
//!end
    }
//!unroll i 4
    if (own_query + $iu < params.T) {
        let row = queries.head + own_query + $iu;
        if (own_column == 0u) { delta[row] = row_delta[$i]; }
        for (var c = 0u; c < 4u; c += 1u) {
//!unroll j COLUMN_TILES
            if ($ju * SIDE + own_column + c < params.D) {
                store_grad_q(row * params.D + $ju * SIDE + own_column + c, sum$j[$i][c]);
            }
//!end
        }
    }
//!end
}
