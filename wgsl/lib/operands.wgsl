// Blocks of 4 x 4 of the operands a and b of a product, op(a) (M, K) and op(b) (K, N), each of which
// may be stored transposed (`trans_a`, `trans_b`). With the flag VECTOR the arrays are of vec4s, and
// rows of the stored matrices begin at multiples of four.

// What a layer of the output sums: matrices of the operands that begin at `a` and `b`, over depths from
// `begin` to before `end`. Without the flag BATCHED there is one matrix and one layer.
struct Layer { a: u32, b: u32, begin: u32, end: u32 }

fn layer_of(index: u32) -> Layer {
    let depth = select(params.AC, params.AR, params.trans_a != 0u);
//!if BATCHED
    let matrix = index / params.splits;
    let share = (depth + params.splits - 1u) / params.splits;
    let length = (share + 15u) / 16u * 16u;
    let begin = min(index % params.splits * length, depth);
    return Layer(
        select(0u, matrix, params.AZ > 1u) * params.AR * params.AC,
        select(0u, matrix, params.BZ > 1u) * params.BR * params.BC,
        begin, min(begin + length, depth));
//!else
    return Layer(0u, 0u, 0u, depth);
//!endif
}

// One matrix of an operand: where it begins, the pitch of its stored rows, its number of rows (of a) or
// columns (of b), the end of the depths to sum, and whether stored rows run along the depth.
struct Operand { base: u32, pitch: u32, width: u32, end: u32, by_depth: bool }

fn operand_a(layer: Layer) -> Operand {
    return Operand(layer.a, params.AC, params.M, layer.end, params.trans_a == 0u);
}
fn operand_b(layer: Layer) -> Operand {
    return Operand(layer.b, params.BC, params.N, layer.end, params.trans_b != 0u);
}

// Where the four stored lines of a block begin, and how many of the next four entries of each exist.
struct Lines { start: vec4<u32>, count: vec4<u32> }

// The block at rows (columns) from `row` and depths from `k`, both in multiples of four.
fn lines_of(operand: Operand, row: u32, k: u32) -> Lines {
    let line = vec4(select(k, row, operand.by_depth)) + vec4(0u, 1u, 2u, 3u);
    let line_end = select(operand.end, operand.width, operand.by_depth);
    let first = select(row, k, operand.by_depth);
    let end = select(operand.width, operand.end, operand.by_depth);
    let count = vec4(min(max(first, end) - first, 4u));
    return Lines(
        vec4(operand.base + first) + line * operand.pitch,
        select(vec4(0u), count, line < vec4(line_end)));
}

// The `count` entries at `start`, then zeros. Reads do not branch: beyond the last they go to entry 0.
//!if VECTOR
fn quad_a(start: u32, count: u32) -> vec4<f32> {
    return select(vec4<f32>(), load_a(select(0u, start / 4u, count > 0u)), count > 0u);
}
fn quad_b(start: u32, count: u32) -> vec4<f32> {
    return select(vec4<f32>(), load_b(select(0u, start / 4u, count > 0u)), count > 0u);
}
//!else
fn quad_a(start: u32, count: u32) -> vec4<f32> {
    let there = vec4(0u, 1u, 2u, 3u) < vec4(count);
    let i = select(vec4(0u), vec4(start) + vec4(0u, 1u, 2u, 3u), there);
    return select(vec4<f32>(), vec4(load_a(i.x), load_a(i.y), load_a(i.z), load_a(i.w)), there);
}
fn quad_b(start: u32, count: u32) -> vec4<f32> {
    let there = vec4(0u, 1u, 2u, 3u) < vec4(count);
    let i = select(vec4(0u), vec4(start) + vec4(0u, 1u, 2u, 3u), there);
    return select(vec4<f32>(), vec4(load_b(i.x), load_b(i.y), load_b(i.z), load_b(i.w)), there);
}
//!endif

fn stored_block_a(at: Lines) -> mat4x4<f32> {
    return mat4x4(
        quad_a(at.start.x, at.count.x), quad_a(at.start.y, at.count.y),
        quad_a(at.start.z, at.count.z), quad_a(at.start.w, at.count.w));
}
fn stored_block_b(at: Lines) -> mat4x4<f32> {
    return mat4x4(
        quad_b(at.start.x, at.count.x), quad_b(at.start.y, at.count.y),
        quad_b(at.start.z, at.count.z), quad_b(at.start.w, at.count.w));
}

// A stored block with depths across: column j holds four rows of a (columns of b) at depth k + j.
fn by_columns(block: mat4x4<f32>, operand: Operand) -> mat4x4<f32> {
    if (operand.by_depth) { return transpose(block); }
    return block;
}
