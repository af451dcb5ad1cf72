// The end of a product. With the flag BATCHED, sums become act(alpha sum + bias + out); `bias` is empty
// where there is none, and `out` counts if `accumulate` is set.
//!if BATCHED
//!include activation
fn finish(sum: f32, column: u32, i: u32) -> f32 {
    var value = params.alpha * sum;
    if (params.BN != 0u) { value += load_bias(column); }
    if (params.accumulate != 0u) { value += load_out(i); }
    return activate(value, params.activation);
}
//!else
fn finish(sum: f32, column: u32, i: u32) -> f32 { return sum; }
//!endif

// Four sums of one row, as far as they lie inside the matrix.
fn store_line(sums: vec4<f32>, layer: u32, row: u32, column: u32) {
    if (row >= params.M) { return; }
    let i = (layer * params.M + row) * params.N + column;
    for (var c = 0u; c < 4u; c += 1u) {
        if (column + c < params.N) { store_out(i + c, finish(sums[c], column + c, i + c)); }
    }
}
