//!family
// The same as matmul_tiled for outputs of few rows, where reading b is the whole cost: a workgroup
// makes ROWS rows of a strip of columns, in groups of four columns, and its invocations share the depth.
// Where b is contiguous along the depth a strip is narrow, else it is as wide as a cache line.
//!include operands
//!include epilogue

const NARROW: u32 = 2u;
const WIDE: u32 = 8u;
const PITCH: u32 = WG + 1u;
var<workgroup> shared_sums: array<vec4<f32>, ROWS * PITCH>;

// op(a)[row, k .. k + 3], zero outside.
fn depths_of_a(base: u32, row: u32, k: u32, end: u32) -> vec4<f32> {
    if (row >= params.M || k >= end) { return vec4<f32>(); }
    if (params.trans_a == 0u) {
        return quad_a(base + row * params.AC + k, min(end - k, 4u));
    }
    var quad = vec4<f32>();
//!unroll j 4
//!if VECTOR
    if (k + $ju < end) {
        let i = base + (k + $ju) * params.AC + row;
        quad[$j] = load_a(i / 4u)[i % 4u];
    }
//!else
    if (k + $ju < end) { quad[$j] = load_a(base + (k + $ju) * params.AC + row); }
//!endif
//!end
    return quad;
}

@compute @workgroup_size(WG)
fn main(inv: Invocation) {
    let by_depth = params.trans_b != 0u;
    let groups = select(WIDE, NARROW, by_depth);
    let slices = WG / groups;
    let strips = (params.N + 4u * groups - 1u) / (4u * groups);
    let bands = (params.M + ROWS - 1u) / ROWS;
    let index = group_index(inv);
    let layer_index = index / (strips * bands);
    if (layer_index >= params.L) { return; }
    let layer = layer_of(layer_index);
    let row0 = index / strips % bands * ROWS;
    let column0 = index % strips * 4u * groups;
    let slice = select(inv.local / groups, inv.local % slices, by_depth);
    let group = select(inv.local % groups, inv.local / slices, by_depth);
    let from_b = operand_b(layer);
//!unroll r ROWS
    var sums_$r = vec4<f32>();
//!end
    for (var k = layer.begin + 4u * slice; k < layer.end; k += 4u * slices) {
        let at = lines_of(from_b, column0 + 4u * group, k);
        let b_block = by_columns(stored_block_b(at), from_b);
//!unroll r ROWS
        sums_$r += b_block * depths_of_a(layer.a, row0 + $ru, k, layer.end);
//!end
    }
    let mine = group * slices + slice;
//!unroll r ROWS
    shared_sums[$ru * PITCH + mine] = sums_$r;
//!end
    workgroupBarrier();
    for (var i = inv.local; i < ROWS * groups; i += WG) {
        let first = i / groups * PITCH + i % groups * slices;
        var total = vec4<f32>();
        for (var s = 0u; s < slices; s += 1u) { total += shared_sums[first + s]; }
        store_line(total, layer_index, row0 + i / groups, column0 + 4u * (i % groups));
    }
}
