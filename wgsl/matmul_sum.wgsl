// out = act(alpha sum_s partial_s + bias + out): the last step of a product whose depth was split, four
// columns an invocation.
//!include epilogue

@compute @workgroup_size(WG)
fn main(inv: Invocation) {
    let quads = (params.N + 3u) / 4u;
    let i = group_index(inv) * WG + inv.local;
    let row = i / quads % params.M;
    let column = i % quads * 4u;
    let layer = i / quads / params.M;
    if (layer >= params.L) { return; }
    let splits = params.P / params.L;
    let size = params.M * params.N;
    let first = layer * splits * size + row * params.N + column;
    var sums = vec4<f32>();
    for (var split = 0u; split < splits; split += 1u) {
        let start = first + split * size;
//!unroll c 4
        if (column + $cu < params.N) { sums[$c] += load_partial(start + $cu); }
//!end
    }
    store_line(sums, layer, row, column);
}
