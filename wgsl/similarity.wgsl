// out = x mu^T for few rows of x and many of mu: bound by the reading of mu, which each workgroup does
// for 64 rows and 16 queries at once. Workgroups that share rows of mu are neighbours, so that all but
// the first find them in the cache.
//!include tile
//!include tile_store

fn tile_fetch_a(row: u32, k: u32) -> f32 { return load_x(row * params.D + k); }
fn tile_fetch_b(column: u32, k: u32) -> f32 { return load_mu(column * params.D + k); }

@compute @workgroup_size(WG)
fn main(inv: Invocation) {
    let query_tiles = (params.B + 15u) / 16u;
    let tile = group_index(inv);
    let row0 = tile % query_tiles * 16u;
    let column0 = tile / query_tiles * 64u;
    if (column0 >= params.N) { return; }
    let group_row = inv.local / TILE_B;
    let group_column = inv.local % TILE_B;
    var block = mat4x4<f32>();
    for (var start = 0u; start < params.D; start += TILE_K) {
        tile_fill(row0, column0, start, true, true, inv);
        let filled = min(TILE_K, params.D - start);
        for (var k = 0u; k < filled; k += 1u) {
            block = outer_add(
                block, tile_a[k * TILE_PITCH_A + group_row], tile_b[k * TILE_PITCH_B + group_column]);
        }
    }
    tile_store(block, row0 + 4u * group_row, column0 + 4u * group_column, params.B, params.N);
}
