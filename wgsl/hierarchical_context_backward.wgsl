// Gradients of hierarchical_context, one workgroup a position. A workgroup first serves its position
// as a query (grad_q), then as a key and value (grad_k, grad_x): every sum is taken by one workgroup
// in one order, so the result is deterministic. Probabilities come from the stored log-sum-exp.
//!include reduce

var<workgroup> probability: array<f32, LONGEST>;
var<workgroup> slope: array<f32, LONGEST>;
var<workgroup> decay_share: array<f32, LONGEST>;

@compute @workgroup_size(WG)
fn main(inv: Invocation) {
    let row = group_index(inv);
    if (row >= params.B * params.T) { return; }
    let D = params.D;
    let position = row % params.T;
    let seen = position + 1u;

    // As a query: over the keys it saw.
    let attended = min(seen, params.attention_window);
    let start = row + 1u - attended;
    let upstream = row * 3u * D + 2u * D;
    let row_lse = load_lse(row);
    var partial = 0.0;
    for (var j = inv.local; j < attended; j += WG) {
        var score = 0.0;
        var change = 0.0;
        for (var i = 0u; i < D; i += 1u) {
            let at = (start + j) * D + i;
            score += load_q(row * D + i) * load_k(at);
            change += load_grad_out(upstream + i) * load_x(at);
        }
        let p = exp(score * params.scale - row_lse);
        probability[j] = p;
        slope[j] = change;
        partial += p * change;
    }
    let mean_change = reduce_sum(partial, inv);
    for (var i = inv.local; i < D; i += WG) {
        var total = 0.0;
        for (var j = 0u; j < attended; j += 1u) {
            total += probability[j] * (slope[j] - mean_change) * load_k((start + j) * D + i);
        }
        grad_q[row * D + i] = params.scale * total;
    }
    workgroupBarrier();

    // As a key and value: over the queries that saw it.
    let left = params.T - position;
    let seers = min(left, params.attention_window);
    for (var j = inv.local; j < seers; j += WG) {
        let query = row + j;
        let from_query = query * 3u * D + 2u * D;
        var score = 0.0;
        var change = 0.0;
        var mean = 0.0;
        for (var i = 0u; i < D; i += 1u) {
            let g = load_grad_out(from_query + i);
            score += load_q(query * D + i) * load_k(row * D + i);
            change += g * load_x(row * D + i);
            mean += g * load_out(from_query + i);
        }
        let p = exp(score * params.scale - load_lse(query));
        probability[j] = p;
        slope[j] = p * (change - mean);
    }
    let recent = min(left, params.recent_window);
    let decayed = min(left, params.decay_window);
    let rate = 4.0 / f32(params.decay_window);
    for (var age = inv.local; age < decayed; age += WG) {
        var norm = 0.0;
        for (var n = 0u; n < min(seen + age, params.decay_window); n += 1u) {
            norm += exp(-rate * f32(n));
        }
        decay_share[age] = exp(-rate * f32(age)) / norm;
    }
    workgroupBarrier();
    for (var i = inv.local; i < D; i += WG) {
        var for_x = 0.0;
        for (var age = 0u; age < recent; age += 1u) {
            let share = 1.0 / f32(min(seen + age, params.recent_window));
            for_x += share * load_grad_out((row + age) * 3u * D + i);
        }
        for (var age = 0u; age < decayed; age += 1u) {
            for_x += decay_share[age] * load_grad_out((row + age) * 3u * D + D + i);
        }
        var for_k = 0.0;
        for (var j = 0u; j < seers; j += 1u) {
            for_x += probability[j] * load_grad_out((row + j) * 3u * D + 2u * D + i);
            for_k += slope[j] * load_q((row + j) * D + i);
        }
        grad_x[row * D + i] = for_x;
        grad_k[row * D + i] = params.scale * for_k;
    }
}
