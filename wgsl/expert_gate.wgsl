// The A largest logits of each row (ties: lower index), their softmax, and how loaded each expert is.
// The first workgroups take a row an invocation; the last E take an expert each and walk over all
// rows, so that load and importance are sums in a fixed order.
//!include reduce

fn logit(row: u32, expert: u32) -> f32 { return load_logits(row * params.E + expert); }

// The best expert of a row outside the set of bits `taken`. It exists even if logits are NaN.
fn best_outside(row: u32, taken: u32) -> u32 {
    var best = countTrailingZeros(~taken);
    for (var expert = best + 1u; expert < params.E; expert += 1u) {
        let free = ((taken >> expert) & 1u) == 0u;
        if (free && logit(row, expert) > logit(row, best)) { best = expert; }
    }
    return best;
}

fn row_peak(row: u32) -> f32 {
    var peak = logit(row, 0u);
    for (var expert = 1u; expert < params.E; expert += 1u) { peak = max(peak, logit(row, expert)); }
    return peak;
}

fn choose(row: u32) {
    var taken = 0u;
    var peak = 0.0;
    var total = 0.0;
    for (var slot = 0u; slot < params.A; slot += 1u) {
        let expert = best_outside(row, taken);
        taken |= 1u << expert;
        if (slot == 0u) { peak = logit(row, expert); }
        let share = exp(logit(row, expert) - peak);
        total += share;
        index[row * params.A + slot] = i32(expert);
        weight[row * params.A + slot] = share;
    }
    for (var slot = 0u; slot < params.A; slot += 1u) { weight[row * params.A + slot] /= total; }
}

@compute @workgroup_size(WG)
fn main(inv: Invocation) {
    let group = group_index(inv);
    let row_groups = (params.B + WG - 1u) / WG;
    if (group >= row_groups + params.E) { return; }
    if (group < row_groups) {
        let row = group * WG + inv.local;
        if (row < params.B) { choose(row); }
        return;
    }
    let expert = group - row_groups;
    var chosen = 0.0;
    var probability = 0.0;
    for (var row = inv.local; row < params.B; row += WG) {
        let peak = row_peak(row);
        var total = 0.0;
        for (var other = 0u; other < params.E; other += 1u) { total += exp(logit(row, other) - peak); }
        probability += exp(logit(row, expert) - peak) / total;
        var taken = 0u;
        for (var slot = 0u; slot < params.A; slot += 1u) { taken |= 1u << best_outside(row, taken); }
        chosen += f32((taken >> expert) & 1u);
    }
    let all_chosen = reduce_sum(chosen, inv);
    let all_probability = reduce_sum(probability, inv);
    if (inv.local == 0u) {
        load[expert] = all_chosen / (f32(params.B) * f32(params.A));
        importance[expert] = all_probability / f32(params.B);
    }
}
