// Gradients of expert_ffn that belong to a row: of the input, of the weights of the choice, and of the
// hidden units before GELU. Laid out as expert_ffn.
//!include reduce
//!include gelu

var<workgroup> slopes: array<f32, ROWS * CHUNK>;

@compute @workgroup_size(WG)
fn main(inv: Invocation) {
    let row0 = group_index(inv) * ROWS;
    if (row0 >= params.B) { return; }
    let rows = min(ROWS, params.B - row0);
    for (var i = inv.local; i < rows * params.I; i += WG) { grad_x[row0 * params.I + i] = 0.0; }
    for (var expert = 0u; expert < params.E; expert += 1u) {
        // The last slot of each row that holds this expert; A where none does.
        var slots = array<u32, ROWS>();
        var gates = array<f32, ROWS>();
        var any_chosen = false;
        for (var r = 0u; r < rows; r += 1u) {
            slots[r] = params.A;
            for (var a = 0u; a < params.A; a += 1u) {
                let slot = (row0 + r) * params.A + a;
                if (u32(index[slot]) == expert) {
                    slots[r] = a;
                    gates[r] += load_weight(slot);
                    any_chosen = true;
                }
            }
        }
        if (!any_chosen) { continue; }
        var products = array<f32, ROWS>();
        for (var first = 0u; first < params.H; first += CHUNK) {
            let width = min(CHUNK, params.H - first);
            for (var j = inv.local; j < width; j += WG) {
                var back = array<f32, ROWS>();
                for (var o = 0u; o < params.O; o += 1u) {
                    let w = load_w2((expert * params.H + first + j) * params.O + o);
                    for (var r = 0u; r < rows; r += 1u) {
                        back[r] += load_grad_out((row0 + r) * params.O + o) * w;
                    }
                }
                for (var r = 0u; r < rows; r += 1u) {
                    var slope = 0.0;
                    if (slots[r] < params.A) {
                        let z = load_pre(((row0 + r) * params.A + slots[r]) * params.H + first + j);
                        slope = back[r] * gelu_slope(z);
                        products[r] += back[r] * gelu(z);
                    }
                    slopes[r * CHUNK + j] = slope * gates[r];
                    for (var a = 0u; a < params.A; a += 1u) {
                        let slot = (row0 + r) * params.A + a;
                        if (u32(index[slot]) == expert) {
                            grad_pre[slot * params.H + first + j] = slope * load_weight(slot);
                        }
                    }
                }
            }
            workgroupBarrier();
            for (var i = inv.local; i < params.I; i += WG) {
                var sums = array<f32, ROWS>();
                for (var j = 0u; j < width; j += 1u) {
                    let w = load_w1((expert * params.I + i) * params.H + first + j);
                    for (var r = 0u; r < rows; r += 1u) { sums[r] += slopes[r * CHUNK + j] * w; }
                }
                for (var r = 0u; r < rows; r += 1u) { grad_x[(row0 + r) * params.I + i] += sums[r]; }
            }
            workgroupBarrier();
        }
        for (var r = 0u; r < rows; r += 1u) {
            var partial = products[r];
            for (var o = inv.local; o < params.O; o += WG) {
                partial += load_grad_out((row0 + r) * params.O + o) * load_b2(expert * params.O + o);
            }
            let total = reduce_sum(partial, inv);
            for (var a = inv.local; a < params.A; a += WG) {
                let slot = (row0 + r) * params.A + a;
                if (u32(index[slot]) == expert) { grad_weight[slot] = total; }
            }
        }
    }
}
