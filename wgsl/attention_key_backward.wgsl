// grad_v = sum over queries of p grad_out and grad_k = scale sum of p (grad_p - delta) q, over the queries
// of all heads that share a key head; SIDE keys a workgroup.
//!include attention_backward

@compute @workgroup_size(WG)
fn main(inv: Invocation) {
    let tiles = (params.S + SIDE - 1u) / SIDE;
    let kv_head = group_index(inv) / tiles;
    if (kv_head >= params.KV) { return; }
    let keys = Rows(kv_head * params.S, group_index(inv) % tiles * SIDE, params.S);
    let own_key = keys.start + inv.local / BLOCKS * 4u;
    let own_column = inv.local % BLOCKS * 4u;
//!unroll j COLUMN_TILES
    var key_sum$j = mat4x4<f32>();
    var value_sum$j = mat4x4<f32>();
//!end
    let sharing = params.G / params.KV;
    var first = 0u;
    if (params.causal != 0u) {
        first = u32(max(i32(keys.start) - params.offset, 0)) / SIDE * SIDE;
    }
    for (var turn = 0u; turn < sharing; turn += 1u) {
        let head = kv_head * sharing + turn;
        for (var start = first; start < params.T; start += SIDE) {
            let queries = Rows(head * params.T, start, params.T);
            // Turned over: block[j] holds the invocation's four keys for its j-th query.
            var block = transpose(products(K, keys, Q, queries, inv));
            let query = start + own_column;
            var row_delta = vec4<f32>();
            var keep = mat4x4<f32>();
            var weighted = mat4x4<f32>();
//!unroll j 4
            block[$j] = scores(block[$j], head, query + $ju, own_key);
            if (query + $ju < params.T) {
                block[$j] = share(block[$j], vec4(load_lse(queries.head + query + $ju)));
                row_delta[$j] = load_delta(queries.head + query + $ju);
            } else {
                block[$j] = vec4<f32>();
            }
            keep[$j] = kept(head, query + $ju, own_key);
            weighted[$j] = block[$j] * keep[$j];
//!end
            put_left(weighted, inv);
//!unroll j COLUMN_TILES
            if ($ju * SIDE < params.D) {
                value_sum$j = add_rows(value_sum$j, GRAD, queries, $ju * SIDE, inv);
            }
//!end
            let pull = transpose(products(V, keys, GRAD, queries, inv));
//!unroll j 4
            block[$j] *= params.scale * (pull[$j] * keep[$j] - vec4(row_delta[$j]));
//!end
            put_left(block, inv);
//!unroll j COLUMN_TILES
            if ($ju * SIDE < params.D) {
                key_sum$j = add_rows(key_sum$j, Q, queries, $ju * SIDE, inv);
            }
//!end
        }
    }
//!unroll i 4
    if (own_key + $iu < params.S) {
        let row = keys.head + own_key + $iu;
        for (var c = 0u; c < 4u; c += 1u) {
//!unroll j COLUMN_TILES
            if ($ju * SIDE + own_column + c < params.D) {
                let at = row * params.D + $ju * SIDE + own_column + c;
                store_grad_k(at, key_sum$j[$i][c]);
                store_grad_v(at, value_sum$j[$i][c]);
            }
//!end
        }
    }
//!end
}
