//!include outer
// Tiles of two operands in workgroup memory, for products sum_k a(row, k) b(column, k).
//
// The including kernel declares the constants TILE_K (depth), TILE_A and TILE_B (rows and columns of the
// tile, in groups of four) and two functions
//     fn tile_fetch_a(row: u32, k: u32) -> f32       fn tile_fetch_b(column: u32, k: u32) -> f32
// They are also called outside the operands, at a depth or a row that does not exist. WGSL makes such a
// read harmless, and its value never reaches a result: depths beyond the last are not summed, rows
// and columns beyond the last are not stored.
//
// A group of four neighbouring rows is one vec4 at a given depth. The odd pitch spreads the depths over
// the banks of workgroup memory.
const TILE_PITCH_A: u32 = TILE_A + 1u;
const TILE_PITCH_B: u32 = TILE_B + 1u;
var<workgroup> tile_a: array<vec4<f32>, TILE_K * TILE_PITCH_A>;
var<workgroup> tile_b: array<vec4<f32>, TILE_K * TILE_PITCH_B>;

// (depth, group) of the i-th entry; neighbouring invocations go along whichever is contiguous in memory.
fn tile_slot(i: u32, groups: u32, depth_is_contiguous: bool) -> vec2<u32> {
    if (depth_is_contiguous) { return vec2(i % TILE_K, i / TILE_K); }
    return vec2(i / groups, i % groups);
}

// Fill both tiles from (row0, depth0) and (column0, depth0), between the barriers they need.
fn tile_fill(row0: u32, column0: u32, depth0: u32, a_by_depth: bool, b_by_depth: bool, inv: Invocation) {
    workgroupBarrier();
    for (var i = inv.local; i < TILE_K * TILE_A; i += WG) {
        let slot = tile_slot(i, TILE_A, a_by_depth);
        let row = row0 + 4u * slot.y;
        let k = depth0 + slot.x;
        tile_a[slot.x * TILE_PITCH_A + slot.y] = vec4(
            tile_fetch_a(row, k), tile_fetch_a(row + 1u, k),
            tile_fetch_a(row + 2u, k), tile_fetch_a(row + 3u, k));
    }
    for (var i = inv.local; i < TILE_K * TILE_B; i += WG) {
        let slot = tile_slot(i, TILE_B, b_by_depth);
        let column = column0 + 4u * slot.y;
        let k = depth0 + slot.x;
        tile_b[slot.x * TILE_PITCH_B + slot.y] = vec4(
            tile_fetch_b(column, k), tile_fetch_b(column + 1u, k),
            tile_fetch_b(column + 2u, k), tile_fetch_b(column + 3u, k));
    }
    workgroupBarrier();
}
