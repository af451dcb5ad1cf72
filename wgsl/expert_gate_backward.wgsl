// Gradient of expert_gate with respect to the logits, one invocation a row.

@compute @workgroup_size(WG)
fn main(inv: Invocation) {
    let row = group_index(inv) * WG + inv.local;
    if (row >= params.B) { return; }
    let base = row * params.E;

    var peak = load_logits(base);
    for (var e = 1u; e < params.E; e += 1u) { peak = max(peak, load_logits(base + e)); }
    var total = 0.0;
    var mean = 0.0;
    for (var e = 0u; e < params.E; e += 1u) {
        let share = exp(load_logits(base + e) - peak);
        total += share;
        mean += share * load_grad_importance(e);
    }
    mean /= total;
    for (var e = 0u; e < params.E; e += 1u) {
        let p = exp(load_logits(base + e) - peak) / total;
        grad_logits[base + e] = p * (load_grad_importance(e) - mean) / f32(params.B);
    }

    var weighted = 0.0;
    for (var slot = row * params.A; slot < (row + 1u) * params.A; slot += 1u) {
        weighted += load_weight(slot) * load_grad_weight(slot);
    }
    for (var slot = row * params.A; slot < (row + 1u) * params.A; slot += 1u) {
        grad_logits[base + u32(index[slot])] += load_weight(slot) * (load_grad_weight(slot) - weighted);
    }
}
