// Logits become their gradient, grad_loss (softmax - (1 - smoothing) [k = target] - smoothing / V). One
// workgroup a row.
//!include math

@compute @workgroup_size(WG)
fn main(inv: Invocation) {
    let row = group_index(inv);
    if (row >= params.R) { return; }
    let base = row * params.V;
    let chosen = targets[row];
    let ignored = chosen == params.ignore_index;
    let outside = !ignored && u32(chosen) >= params.V;
    let row_lse = load_lse(row);
    let scale = select(load_grad_loss(row), bitcast<f32>(NAN_BITS), outside);
    let spread = params.smoothing / f32(params.V);
    for (var k = inv.local; k < params.V; k += WG) {
        let hit = select(0.0, 1.0 - params.smoothing, u32(chosen) == k);
        let share = exp_accurate(load_logits(base + k) - row_lse);
        store_logits(base + k, select(scale * (share - hit - spread), 0.0, ignored));
    }
}
