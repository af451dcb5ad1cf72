// out = softmax(scale q k^T + mask) v and its log-sum-exp, SIDE queries of one head a workgroup. Keys go
// by in tiles; what was summed so far is scaled down when a higher score appears.
//!include attention

const Q: u32 = 0u;
const K: u32 = 1u;
const V: u32 = 2u;

fn fetch(source: u32, row: u32, column: u32) -> f32 {
    let i = row * params.D + column;
    switch source {
        case Q: { return load_q(i); }
        case K: { return load_k(i); }
        default: { return load_v(i); }
    }
}

@compute @workgroup_size(WG)
fn main(inv: Invocation) {
    let tiles = (params.T + SIDE - 1u) / SIDE;
    let head = group_index(inv) / tiles;
    if (head >= params.G) { return; }
    let queries = Rows(head * params.T, group_index(inv) % tiles * SIDE, params.T);
    let kv_head = head / (params.G / params.KV) * params.S;
    let own_query = queries.start + inv.local / BLOCKS * 4u;
    let own_column = inv.local % BLOCKS * 4u;
    var peak = vec4(HIDDEN);
    var total = vec4<f32>();
//!unroll j COLUMN_TILES
    var sum$j = mat4x4<f32>();
//!end
    let end = keys_seen(queries.start + SIDE - 1u);
    for (var start = 0u; start < end; start += SIDE) {
        let keys = Rows(kv_head, start, params.S);
        var block = products(Q, queries, K, keys, inv);
        let key = start + own_column;
        var highest = peak;
//!unroll i 4
        block[$i] = scores(block[$i], head, own_query + $iu, key);
        let pairs$i = max(block[$i].xy, block[$i].zw);
        highest[$i] = max(highest[$i], max(pairs$i.x, pairs$i.y));
//!end
        highest = row_max(highest, inv);
        let decay = exp(peak - highest);
        peak = highest;
        total *= decay;
//!unroll i 4
        block[$i] = share(block[$i], vec4(peak[$i]));
        total[$i] += dot(block[$i], vec4(1.0));
        block[$i] *= kept(head, own_query + $iu, key);
//!end
        put_left(transpose(block), inv);
//!unroll j COLUMN_TILES
        if ($ju * SIDE < params.D) {
//!unroll i 4
            sum$j[$i] *= decay[$i];
//!end
            sum$j = add_rows(sum$j, V, keys, $ju * SIDE, inv);
        }
//!end
    }
    total = row_sum(total, inv);
    let blind = total == vec4<f32>();
    let scale = select(1.0 / total, vec4<f32>(), blind);
//!unroll i 4
    if (own_query + $iu < params.T) {
        let row = queries.head + own_query + $iu;
        if (own_column == 0u) {
            lse[row] = select(peak[$i] + log_accurate(total[$i]), HIDDEN, blind[$i]);
        }
        for (var c = 0u; c < 4u; c += 1u) {
//!unroll j COLUMN_TILES
            if ($ju * SIDE + own_column + c < params.D) {
                store_out(row * params.D + $ju * SIDE + own_column + c, sum$j[$i][c] * scale[$i]);
            }
//!end
        }
    }
//!end
}
