// Store a block of 4 x 4 outputs at (row0, column0) of `out`, a matrix of rows x columns, as far as it
// lies inside. Each row of the block is a column of the WGSL matrix.
fn tile_store(block: mat4x4<f32>, row0: u32, column0: u32, rows: u32, columns: u32) {
    var lines = block;
    for (var i = 0u; i < 4u && row0 + i < rows; i += 1u) {
        for (var j = 0u; j < 4u && column0 + j < columns; j += 1u) {
            out[(row0 + i) * columns + column0 + j] = lines[i][j];
        }
    }
}
