// The K members of chosen cells most similar to a query. A workgroup takes one query through every S-th
// of its cells, 128 members at a time; the members of a cell lie in pages of PAGE rows.
//!include tile
//!include topk
var<workgroup> scan_slot: array<u32, WG>;

fn tile_fetch_a(row: u32, k: u32) -> f32 { return load_x(row * params.D + k); }
fn tile_fetch_b(column: u32, k: u32) -> f32 { return load_mu(scan_slot[column] * params.D + k); }

@compute @workgroup_size(WG)
fn main(inv: Invocation) {
    let segments = params.R / params.B;
    let query = group_index(inv) / segments;
    let segment = group_index(inv) % segments;
    if (query >= params.B) { return; }
    topk_start(inv);
    for (var place = segment; place < params.P; place += segments) {
        let cell = u32(cells[query * params.P + place]);
        if (cell >= params.C) { continue; }
        let size = min(u32(sizes[cell]), params.most);
        for (var member0 = 0u; member0 < size; member0 += WG) {
            let member = member0 + inv.local;
            let page = u32(pages[u32(first[cell]) + min(member, size - 1u) / PAGE]);
            let slot = page * PAGE + min(member, size - 1u) % PAGE;
            scan_slot[inv.local] = slot;
            var cosine = 0.0;
            for (var start = 0u; start < params.D; start += TILE_K) {
                // Of the four rows of a group only the query itself is wanted.
                tile_fill(query, 0u, start, true, true, inv);
                let filled = min(TILE_K, params.D - start);
                for (var k = 0u; k < filled; k += 1u) {
                    let mu_k = tile_b[k * TILE_PITCH_B + inv.local / 4u][inv.local % 4u];
                    cosine = fma(tile_a[k * TILE_PITCH_A].x, mu_k, cosine);
                }
            }
            topk_offer(vec4(cosine, 0.0, 0.0, 0.0), u32(ids[slot]), member < size, 1u, inv);
        }
    }
    topk_flush(1u, inv);
    topk_store(0u, group_index(inv), inv);
}
