// out = sum over the chosen experts of weight (W2 gelu(W1 x + b1) + b2). A workgroup takes ROWS rows
// and goes through the experts, so that an expert's matrices are read once for all rows that chose
// it; hidden units pass through workgroup memory CHUNK at a time. Sums carry an initial value: without
// one, naga clears a variable once a call, not once a round of the loop it stands in.
//!include gelu

var<workgroup> hidden: array<f32, ROWS * CHUNK>;

@compute @workgroup_size(WG)
fn main(inv: Invocation) {
    let row0 = group_index(inv) * ROWS;
    if (row0 >= params.B) { return; }
    let rows = min(ROWS, params.B - row0);
    for (var i = inv.local; i < rows * params.O; i += WG) { out[row0 * params.O + i] = 0.0; }
    for (var expert = 0u; expert < params.E; expert += 1u) {
        // The total weight of this expert in each row; rows that did not choose it are left alone.
        var gates = array<f32, ROWS>();
        var chosen = array<bool, ROWS>();
        var any_chosen = false;
        for (var r = 0u; r < rows; r += 1u) {
            for (var slot = (row0 + r) * params.A; slot < (row0 + r + 1u) * params.A; slot += 1u) {
                if (u32(index[slot]) == expert) {
                    gates[r] += load_weight(slot);
                    chosen[r] = true;
                    any_chosen = true;
                }
            }
        }
        if (!any_chosen) { continue; }
        for (var first = 0u; first < params.H; first += CHUNK) {
            let width = min(CHUNK, params.H - first);
            for (var j = inv.local; j < width; j += WG) {
                var sums = array<f32, ROWS>();
                for (var i = 0u; i < params.I; i += 1u) {
                    let w = load_w1((expert * params.I + i) * params.H + first + j);
                    for (var r = 0u; r < rows; r += 1u) { sums[r] += load_x((row0 + r) * params.I + i) * w; }
                }
                let bias = load_b1(expert * params.H + first + j);
                for (var r = 0u; r < rows; r += 1u) {
                    let z = sums[r] + bias;
                    hidden[r * CHUNK + j] = gelu(z);
                    for (var a = 0u; a < params.A; a += 1u) {
                        let slot = (row0 + r) * params.A + a;
                        if (u32(index[slot]) == expert) { pre[slot * params.H + first + j] = z; }
                    }
                }
            }
            workgroupBarrier();
            for (var o = inv.local; o < params.O; o += WG) {
                var sums = array<f32, ROWS>();
                if (first == 0u) {
                    for (var r = 0u; r < rows; r += 1u) { sums[r] = load_b2(expert * params.O + o); }
                }
                for (var j = 0u; j < width; j += 1u) {
                    let w = load_w2((expert * params.H + first + j) * params.O + o);
                    for (var r = 0u; r < rows; r += 1u) { sums[r] += hidden[r * CHUNK + j] * w; }
                }
                for (var r = 0u; r < rows; r += 1u) {
                    if (chosen[r]) { out[(row0 + r) * params.O + o] += gates[r] * sums[r]; }
                }
            }
            workgroupBarrier();
        }
    }
}
