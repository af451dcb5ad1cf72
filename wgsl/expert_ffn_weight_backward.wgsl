// Gradients of expert_ffn that are sums over rows: of the matrices and biases. A workgroup takes
// UNITS hidden units of one expert and goes through all choices in order.
//!include gelu

@compute @workgroup_size(WG)
fn main(inv: Invocation) {
    let group = group_index(inv);
    let groups_each = (params.H + UNITS - 1u) / UNITS;
    let expert = group / groups_each;
    if (expert >= params.E) { return; }
    let first = group % groups_each * UNITS;
    let units = min(UNITS, params.H - first);
    let choices = params.B * params.A;

    for (var i = inv.local; i < params.I; i += WG) {
        var sums = array<f32, UNITS>();
        for (var slot = 0u; slot < choices; slot += 1u) {
            if (u32(index[slot]) != expert) { continue; }
            let value = load_x(slot / params.A * params.I + i);
            for (var u = 0u; u < units; u += 1u) {
                sums[u] += value * load_grad_pre(slot * params.H + first + u);
            }
        }
        for (var u = 0u; u < units; u += 1u) {
            grad_w1[(expert * params.I + i) * params.H + first + u] = sums[u];
        }
    }
    for (var o = inv.local; o < params.O; o += WG) {
        var sums = array<f32, UNITS>();
        var bias = 0.0;
        for (var slot = 0u; slot < choices; slot += 1u) {
            if (u32(index[slot]) != expert) { continue; }
            let value = load_weight(slot) * load_grad_out(slot / params.A * params.O + o);
            bias += value;
            for (var u = 0u; u < units; u += 1u) {
                sums[u] += value * gelu(load_pre(slot * params.H + first + u));
            }
        }
        for (var u = 0u; u < units; u += 1u) {
            grad_w2[(expert * params.H + first + u) * params.O + o] = sums[u];
        }
        if (first == 0u) { grad_b2[expert * params.O + o] = bias; }
    }
    for (var u = inv.local; u < units; u += WG) {
        var sum = 0.0;
        for (var slot = 0u; slot < choices; slot += 1u) {
            if (u32(index[slot]) == expert) { sum += load_grad_pre(slot * params.H + first + u); }
        }
        grad_b1[expert * params.H + first + u] = sum;
    }
}
