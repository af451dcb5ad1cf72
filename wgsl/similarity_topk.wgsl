// The K rows of mu most similar to each row of x within each segment of mu. A workgroup takes four
// queries through one segment, 128 splats at a time; workgroups that share a segment are neighbours,
// so that all but the first find it in the cache.
//!include tile
//!include topk

fn tile_fetch_a(row: u32, k: u32) -> f32 { return load_x(row * params.D + k); }
fn tile_fetch_b(column: u32, k: u32) -> f32 { return load_mu(column * params.D + k); }

@compute @workgroup_size(WG)
fn main(inv: Invocation) {
    let segments = params.R / params.B;
    let query_tiles = (params.B + 3u) / 4u;
    let query0 = group_index(inv) % query_tiles * 4u;
    let segment = group_index(inv) / query_tiles;
    if (segment >= segments) { return; }
    let queries = min(4u, params.B - query0);
    let length = (params.N + segments - 1u) / segments;
    let end = min(params.N, (segment + 1u) * length);
    topk_start(inv);
    for (var splat0 = segment * length; splat0 < end; splat0 += WG) {
        var cosines = vec4<f32>();
        for (var start = 0u; start < params.D; start += TILE_K) {
            tile_fill(query0, splat0, start, true, true, inv);
            let filled = min(TILE_K, params.D - start);
            for (var k = 0u; k < filled; k += 1u) {
                let mu_k = tile_b[k * TILE_PITCH_B + inv.local / 4u][inv.local % 4u];
                cosines = fma(tile_a[k * TILE_PITCH_A], vec4(mu_k), cosines);
            }
        }
        let splat = splat0 + inv.local;
        topk_offer(cosines, splat, splat < end, queries, inv);
    }
    topk_flush(queries, inv);
    for (var query = 0u; query < queries; query += 1u) {
        topk_store(query, (query0 + query) * segments + segment, inv);
    }
}
