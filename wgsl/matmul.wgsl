// out = op(a) op(b), op(m) = m or its transpose. A workgroup makes a tile of 64 x 64 outputs, an
// invocation 8 x 8 of them in registers: two groups of four rows by two groups of four columns.
//!include tile
//!include tile_store

fn tile_fetch_a(row: u32, k: u32) -> f32 {
    return load_a(select(row * params.AC + k, k * params.AC + row, params.trans_a != 0u));
}

fn tile_fetch_b(column: u32, k: u32) -> f32 {
    return load_b(select(k * params.BC + column, column * params.BC + k, params.trans_b != 0u));
}

@compute @workgroup_size(WG)
fn main(inv: Invocation) {
    let tiles_across = (params.N + 63u) / 64u;
    let tile = group_index(inv);
    let row0 = tile / tiles_across * 64u;
    let column0 = tile % tiles_across * 64u;
    if (row0 >= params.M) { return; }
    let depth = select(params.AC, params.AR, params.trans_a != 0u);
    let a_by_depth = params.trans_a == 0u;
    let b_by_depth = params.trans_b != 0u;
    let group_row = inv.local / 8u;
    let group_column = inv.local % 8u;
    var upper_left = mat4x4<f32>();
    var upper_right = mat4x4<f32>();
    var lower_left = mat4x4<f32>();
    var lower_right = mat4x4<f32>();
    for (var start = 0u; start < depth; start += TILE_K) {
        tile_fill(row0, column0, start, a_by_depth, b_by_depth, inv);
        let filled = min(TILE_K, depth - start);
        for (var k = 0u; k < filled; k += 1u) {
            let upper = tile_a[k * TILE_PITCH_A + group_row];
            let lower = tile_a[k * TILE_PITCH_A + group_row + 8u];
            let left = tile_b[k * TILE_PITCH_B + group_column];
            let right = tile_b[k * TILE_PITCH_B + group_column + 8u];
            upper_left = tile_outer(upper_left, upper, left);
            upper_right = tile_outer(upper_right, upper, right);
            lower_left = tile_outer(lower_left, lower, left);
            lower_right = tile_outer(lower_right, lower, right);
        }
    }
    let row = row0 + 4u * group_row;
    let column = column0 + 4u * group_column;
    tile_store(upper_left, row, column, params.M, params.N);
    tile_store(upper_right, row, column + 32u, params.M, params.N);
    tile_store(lower_left, row + 32u, column, params.M, params.N);
    tile_store(lower_right, row + 32u, column + 32u, params.M, params.N);
}
