// Products by tiles of TILE_M x TILE_N outputs, a workgroup each. Teams of 32 invocations, 4 down and 8
// across, share a tile; an invocation holds BLOCKS_M x BLOCKS_N blocks of 4 x 4 sums in registers. While
// one pair of operand tiles, TILE_K deep, is summed from workgroup memory, the next is on its way.
//
// In workgroup memory four neighbouring rows (columns) at one depth are a vec4. Loops over registers are
// unrolled in the text: an index that varies would move them to memory.
//!include operands
//!include outer
//!include epilogue

const PITCH_A: u32 = TILE_M / 4u;
const PITCH_B: u32 = TILE_N / 4u;
const TILE_B: u32 = TILE_K * PITCH_A;
const DEPTHS: u32 = TILE_K / 4u;
const COUNT_A: u32 = DEPTHS * TILE_M / 4u;
const COUNT_B: u32 = DEPTHS * TILE_N / 4u;
const TEAMS_M: u32 = TILE_M / (16u * BLOCKS_M);
const BAND: u32 = 8u;
var<workgroup> tile: array<vec4<f32>, TILE_K * (PITCH_A + PITCH_B)>;

// A block of 4 x 4 that an invocation brings to workgroup memory again and again: of which operand, its
// row (column) and depth, and where its first depth goes.
struct Part { is_a: bool, operand: Operand, row: u32, k: u32, slot: u32, pitch: u32 }

// The i-th part of both tiles: those of a, then those of b. Neighbouring invocations go along whichever is
// contiguous in memory; eight always hold eight groups of rows, which lie in different banks.
fn part_of(i: u32, row0: u32, column0: u32, layer: Layer) -> Part {
    var part = Part(i < COUNT_A, operand_a(layer), row0, 0u, 0u, PITCH_A);
    var inside = i;
    if (i >= COUNT_A) {
        part = Part(false, operand_b(layer), column0, 0u, TILE_B, PITCH_B);
        inside = i - COUNT_A;
    }
    let along = inside / 8u / DEPTHS * 8u + inside % 8u;
    let group = select(inside % part.pitch, along, part.operand.by_depth);
    let depth = select(inside / part.pitch, inside / 8u % DEPTHS, part.operand.by_depth);
    part.row += 4u * group;
    part.k = 4u * depth;
    part.slot += part.k * part.pitch + group;
    return part;
}

fn fetch(part: Part, depth: u32) -> mat4x4<f32> {
    let at = lines_of(part.operand, part.row, depth + part.k);
    var block = mat4x4<f32>();
    if (part.is_a) { block = stored_block_a(at); } else { block = stored_block_b(at); }
    return by_columns(block, part.operand);
}

fn keep(part: Part, i: u32, block: mat4x4<f32>) {
    if (i >= COUNT_A + COUNT_B) { return; }
//!unroll k 4
    tile[part.slot + $ku * part.pitch] = block[$k];
//!end
}

// Rows and columns in units of tiles, in bands of BAND rows, so that tiles at work together share operands.
fn tile_position(index: u32, down: u32, across: u32) -> vec2<u32> {
    let band = index / (BAND * across) * BAND;
    let height = min(BAND, down - band);
    let inside = index - band * across;
    return vec2(band + inside % height, inside / height);
}

@compute @workgroup_size(WG)
fn main(inv: Invocation) {
    let down = (params.M + TILE_M - 1u) / TILE_M;
    let across = (params.N + TILE_N - 1u) / TILE_N;
    let index = group_index(inv);
    let layer_index = index / (down * across);
//!if BATCHED
    if (layer_index >= params.L) { return; }
//!else
    if (layer_index > 0u) { return; }
//!endif
    let layer = layer_of(layer_index);
    let position = tile_position(index % (down * across), down, across);
    let row0 = position.x * TILE_M;
    let column0 = position.y * TILE_N;
    let team = inv.local / 32u;
    let group_a = team % TEAMS_M * (4u * BLOCKS_M) + inv.local % 32u / 8u;
    let group_b = team / TEAMS_M * (8u * BLOCKS_N) + inv.local % 8u;
//!unroll i BLOCKS_M
//!unroll j BLOCKS_N
    var sum_$i_$j = mat4x4<f32>();
//!end
//!end
//!unroll f FETCHES
    let part_$f = part_of(inv.local + $fu * WG, row0, column0, layer);
    var next_$f = mat4x4<f32>();
//!end
    var depth = layer.begin;
    loop {
        if (depth < layer.end) {
//!unroll f FETCHES
            next_$f = fetch(part_$f, depth);
//!end
        }
        if (depth > layer.begin) {
            for (var k0 = 0u; k0 < TILE_K; k0 += UNROLL) {
                let from_a = k0 * PITCH_A + group_a;
                let from_b = k0 * PITCH_B + TILE_B + group_b;
//!unroll k UNROLL
//!unroll i BLOCKS_M
                let a_$k_$i = tile[from_a + ($ku * PITCH_A + $iu * 4u)];
//!end
//!unroll j BLOCKS_N
                let b_$k_$j = tile[from_b + ($ku * PITCH_B + $ju * 8u)];
//!end
//!unroll i BLOCKS_M
//!unroll j BLOCKS_N
                sum_$i_$j = outer_add(sum_$i_$j, a_$k_$i, b_$k_$j);
//!end
//!end
//!end
            }
        }
        if (depth >= layer.end) { break; }
        workgroupBarrier();
//!unroll f FETCHES
        keep(part_$f, inv.local + $fu * WG, next_$f);
//!end
        workgroupBarrier();
        depth += TILE_K;
    }
    for (var line = 0u; line < BLOCKS_M * BLOCKS_N * 4u; line += 1u) {
        var sums = vec4<f32>();
        switch line {
//!unroll i BLOCKS_M
//!unroll j BLOCKS_N
//!unroll r 4
            case ($iu * BLOCKS_N + $ju) * 4u + $ru: { sums = sum_$i_$j[$r]; }
//!end
//!end
//!end
            default: { }
        }
        let block = line / 4u;
        let row = row0 + 4u * (group_a + block / BLOCKS_N * 4u) + line % 4u;
        let column = column0 + 4u * (group_b + block % BLOCKS_N * 8u);
        store_line(sums, layer_index, row, column);
    }
}
