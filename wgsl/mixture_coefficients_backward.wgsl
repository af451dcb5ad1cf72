// With G = grad_weight a + grad_tilt, F and F' = dF/dq at q = |eta|^2:
//     grad_p = G F,   grad_s = p G F' 2 a,   grad_h2 = sum_k p G F',
//     grad_a = sum_b p (grad_weight F + G F' 2 (a + s)).
// The first B workgroups take a row each, the others COLUMNS columns each, as in
// mixture_log_weights_backward.
//!include reduce
//!include mixture

fn row_part(row: u32, inv: Invocation) {
    let base = row * params.N;
    let h2 = load_h2(row);
    let from_tilt = load_grad_tilt(row);
    var partial = 0.0;
    for (var k = inv.local; k < params.N; k += WG) {
        let a = load_a(k);
        let f = tilt_slope(tilted_square(a, load_s(base + k), h2), params.dimension);
        let g = load_grad_weight(base + k) * a + from_tilt;
        let change = load_p(base + k) * g * f.y;
        grad_p[base + k] = g * f.x;
        grad_s[base + k] = 2.0 * a * change;
        partial += change;
    }
    let total = reduce_sum(partial, inv);
    if (inv.local == 0u) { grad_h2[row] = total; }
}

fn column_part(tile: u32, inv: Invocation) {
    let k = tile * COLUMNS + inv.local % COLUMNS;
    var sum = 0.0;
    if (k < params.N) {
        let a = load_a(k);
        for (var row = inv.local / COLUMNS; row < params.B; row += ROW_LANES) {
            let i = row * params.N + k;
            let s = load_s(i);
            let f = tilt_slope(tilted_square(a, s, load_h2(row)), params.dimension);
            let g = load_grad_weight(i);
            sum += load_p(i) * (g * f.x + (g * a + load_grad_tilt(row)) * f.y * 2.0 * (a + s));
        }
    }
    let total = sum_column(vec2<f32>(sum, 0.0), inv);
    if (inv.local < COLUMNS && k < params.N) { grad_a[k] = total.x; }
}

@compute @workgroup_size(WG)
fn main(inv: Invocation) {
    let group = group_index(inv);
    if (group < params.B) {
        row_part(group, inv);
    } else if ((group - params.B) * COLUMNS < params.N) {
        column_part(group - params.B, inv);
    }
}
