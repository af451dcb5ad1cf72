// Three causal summaries of x at every position, one workgroup a position: the mean of the last few
// rows, their exponential average, and attention over the longest window.
//!include reduce

var<workgroup> probability: array<f32, LONGEST>;
var<workgroup> decay_weight: array<f32, LONGEST>;

@compute @workgroup_size(WG)
fn main(inv: Invocation) {
    let row = group_index(inv);
    if (row >= params.B * params.T) { return; }
    let D = params.D;
    let seen = row % params.T + 1u;
    let attended = min(seen, params.attention_window);
    let start = row + 1u - attended;

    var best = -3.4e38;
    for (var j = inv.local; j < attended; j += WG) {
        var dot = 0.0;
        for (var i = 0u; i < D; i += 1u) { dot += load_q(row * D + i) * load_k((start + j) * D + i); }
        let score = dot * params.scale;
        probability[j] = score;
        best = max(best, score);
    }
    let peak = reduce_max(best, inv);
    var partial = 0.0;
    for (var j = inv.local; j < attended; j += WG) {
        let weight = exp(probability[j] - peak);
        probability[j] = weight;
        partial += weight;
    }
    let total = reduce_sum(partial, inv);
    if (inv.local == 0u) { lse[row] = peak + log(total); }

    let recent = min(seen, params.recent_window);
    let decayed = min(seen, params.decay_window);
    let rate = 4.0 / f32(params.decay_window);
    var decay_partial = 0.0;
    for (var age = inv.local; age < decayed; age += WG) {
        let weight = exp(-rate * f32(age));
        decay_weight[age] = weight;
        decay_partial += weight;
    }
    let decay_total = reduce_sum(decay_partial, inv);

    let base = row * 3u * D;
    for (var i = inv.local; i < D; i += WG) {
        var recent_sum = 0.0;
        for (var age = 0u; age < recent; age += 1u) { recent_sum += load_x((row - age) * D + i); }
        var decay_sum = 0.0;
        for (var age = 0u; age < decayed; age += 1u) {
            decay_sum += decay_weight[age] * load_x((row - age) * D + i);
        }
        var attention_sum = 0.0;
        for (var j = 0u; j < attended; j += 1u) {
            attention_sum += probability[j] * load_x((start + j) * D + i);
        }
        out[base + i] = recent_sum / f32(recent);
        out[base + D + i] = decay_sum / decay_total;
        out[base + 2u * D + i] = attention_sum / total;
    }
}
