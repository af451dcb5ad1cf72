// Tiles of SIDE x SIDE for attention: 64 invocations, 8 x 8, each with a block of 4 x 4 in registers.
//
// The including kernel declares fn fetch(source: u32, row: u32, column: u32) -> f32, an entry of the
// matrix of that number, whose rows are those of all heads. A tile is SIDE rows of one head. Rows and
// columns beyond the last count as zero and are not read, since memory there may hold NaN.
//!include math
//!include philox

const HIDDEN: f32 = -1e30;
const BLOCKS: u32 = SIDE / 4u;
const PITCH: u32 = BLOCKS + 1u;
var<workgroup> left: array<vec4<f32>, SIDE * PITCH>;
var<workgroup> right: array<vec4<f32>, SIDE * PITCH>;
var<workgroup> row_parts: array<vec4<f32>, WG>;

// Rows `start` to `start + SIDE - 1`, below `end`, of the head whose first row is `head`.
struct Rows { head: u32, start: u32, end: u32 }

fn entry(source: u32, rows: Rows, row: u32, column: u32) -> f32 {
    if (rows.start + row < rows.end && column < params.D) {
        return fetch(source, rows.head + rows.start + row, column);
    }
    return 0.0;
}

fn four_rows(source: u32, rows: Rows, row: u32, column: u32) -> vec4<f32> {
    return vec4(
        entry(source, rows, row, column), entry(source, rows, row + 1u, column),
        entry(source, rows, row + 2u, column), entry(source, rows, row + 3u, column));
}

// sum + L^T R of the two tiles in workgroup memory, for the invocation's four rows and four columns.
fn accumulate(sum: mat4x4<f32>, inv: Invocation) -> mat4x4<f32> {
    var result = sum;
    for (var k = 0u; k < SIDE; k += 1u) {
        let a = left[k * PITCH + inv.local / BLOCKS];
        let b = right[k * PITCH + inv.local % BLOCKS];
        result[0] = fma(vec4(a.x), b, result[0]);
        result[1] = fma(vec4(a.y), b, result[1]);
        result[2] = fma(vec4(a.z), b, result[2]);
        result[3] = fma(vec4(a.w), b, result[3]);
    }
    return result;
}

// Products of SIDE rows of `a` with SIDE rows of `b`: entry [i][j] is that of the invocation's i-th row
// of `a` and j-th row of `b`.
fn products(a: u32, a_rows: Rows, b: u32, b_rows: Rows, inv: Invocation) -> mat4x4<f32> {
    var block = mat4x4<f32>();
    for (var depth = 0u; depth < params.D; depth += SIDE) {
        workgroupBarrier();
        for (var i = inv.local; i < SIDE * BLOCKS; i += WG) {
            let place = i % SIDE * PITCH + i / SIDE;
            left[place] = four_rows(a, a_rows, i / SIDE * 4u, depth + i % SIDE);
            right[place] = four_rows(b, b_rows, i / SIDE * 4u, depth + i % SIDE);
        }
        workgroupBarrier();
        block = accumulate(block, inv);
    }
    return block;
}

// Make the invocations' blocks the left tile of `add_rows`: block[j] is the j-th column, of four rows.
fn put_left(block: mat4x4<f32>, inv: Invocation) {
    let place = inv.local % BLOCKS * 4u * PITCH + inv.local / BLOCKS;
    workgroupBarrier();
    left[place] = block[0];
    left[place + PITCH] = block[1];
    left[place + 2u * PITCH] = block[2];
    left[place + 3u * PITCH] = block[3];
}

// sum + L R with R columns `column` to `column + SIDE - 1` of SIDE rows, L what `put_left` put.
fn add_rows(
    sum: mat4x4<f32>, source: u32, rows: Rows, column: u32, inv: Invocation
) -> mat4x4<f32> {
    workgroupBarrier();
    for (var i = inv.local; i < SIDE * BLOCKS; i += WG) {
        let row = i / BLOCKS;
        let first = column + i % BLOCKS * 4u;
        right[row * PITCH + i % BLOCKS] = vec4(
            entry(source, rows, row, first), entry(source, rows, row, first + 1u),
            entry(source, rows, row, first + 2u), entry(source, rows, row, first + 3u));
    }
    workgroupBarrier();
    return accumulate(sum, inv);
}

// Sum over the invocations that share a row, for the four rows of each.
fn row_sum(value: vec4<f32>, inv: Invocation) -> vec4<f32> {
    workgroupBarrier();
    row_parts[inv.local] = value;
    workgroupBarrier();
    var total = vec4<f32>();
    for (var i = 0u; i < BLOCKS; i += 1u) { total += row_parts[inv.local / BLOCKS * BLOCKS + i]; }
    return total;
}

fn row_max(value: vec4<f32>, inv: Invocation) -> vec4<f32> {
    workgroupBarrier();
    row_parts[inv.local] = value;
    workgroupBarrier();
    var highest = value;
    for (var i = 0u; i < BLOCKS; i += 1u) {
        highest = max(highest, row_parts[inv.local / BLOCKS * BLOCKS + i]);
    }
    return highest;
}

// How many keys a query sees, before any mask.
fn keys_seen(query: u32) -> u32 {
    if (params.causal == 0u) { return params.S; }
    return u32(clamp(i32(query) + params.offset + 1, 0, i32(params.S)));
}

// The scaled and masked scores of four neighbouring keys, HIDDEN where the query does not see the key.
fn scores(products: vec4<f32>, head: u32, query: u32, key: u32) -> vec4<f32> {
    var values = products * params.scale;
    if (params.masked != 0u) {
        let row = head / (params.G / params.M) * params.MT + select(query, 0u, params.MT == 1u);
        let base = row * params.MS;
        let step = select(1u, 0u, params.MS == 1u);
        // Keys beyond the last are hidden below; their mask may be of another row, or of none.
        values += vec4(
            load_mask(base + key * step), load_mask(base + (key + 1u) * step),
            load_mask(base + (key + 2u) * step), load_mask(base + (key + 3u) * step));
    }
    let seen = vec4(key) + vec4(0u, 1u, 2u, 3u) < vec4(select(0u, keys_seen(query), query < params.T));
    // Not by max, in which a NaN would be lost.
    return select(vec4(HIDDEN), select(values, vec4(HIDDEN), values < vec4(HIDDEN)), seen);
}

// exp(score - shift), 0 where hidden.
fn share(value: vec4<f32>, shift: vec4<f32>) -> vec4<f32> {
    return select(exp(value - shift), vec4<f32>(), value <= vec4(HIDDEN));
}

// What dropout makes of the shares of four neighbouring keys, the first a multiple of four.
fn kept(head: u32, query: u32, key: u32) -> vec4<f32> {
    if (params.dropout <= 0.0) { return vec4(1.0); }
    let counter = vec4<u32>(key / 4u, query, head, STREAM_ATTENTION);
    let u = philox_uniform4(counter, vec2<u32>(params.seed_lo, params.seed_hi));
    return select(vec4<f32>(), vec4(params.dropout_scale), u >= vec4(params.dropout));
}
