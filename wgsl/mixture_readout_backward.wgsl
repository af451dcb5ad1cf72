// Gradients of mixture_readout, and its `pull` once more. A workgroup takes COLUMNS splats and goes
// through all rows, so that the sums over rows have one owner and a fixed order.
//!include vmf
//!include mixture

@compute @workgroup_size(WG)
fn main(inv: Invocation) {
    let k = group_index(inv) * COLUMNS + inv.local % COLUMNS;
    var sums = vec2<f32>();
    if (k < params.N) {
        let a = load_a(k);
        let own = a * tilt_slope(a * a, params.dimension).x;
        for (var row = inv.local / COLUMNS; row < params.B; row += ROW_LANES) {
            let i = row * params.N + k;
            let s = load_s(i);
            let h2 = load_h2(row);
            let log_w = load_log_pi(k) + vmf_log_z0_ratio(a, 2.0 * a * s + h2, params.dimension);
            let f = tilt_slope(tilted_square(a, s, h2), params.dimension);
            let p = exp_accurate(log_w - load_log_z(row));
            // Derivatives by log W, by F, and from both by |eta|^2.
            let by_f = p * (a * load_grad_pull(i) + load_grad_tilt(row));
            var by_log_w = p * (load_grad_log_z(row) - load_grad_log_mass(row) - load_carried(row))
                + by_f * f.x;
            if (k >= u32(first[row]) && k < u32(last[row])) {
                let inside = exp_accurate(log_w - load_log_z(row) - load_log_mass(row));
                by_log_w += load_grad_log_mass(row) * inside;
            }
            let by_square = 0.5 * by_log_w * f.x + by_f * f.y;
            grad_s[i] = 2.0 * a * by_square;
            pull[i] = p * f.x * a;
            let by_a = 2.0 * by_square * (a + s) - by_log_w * own + p * f.x * load_grad_pull(i);
            sums += vec2<f32>(by_log_w, by_a);
        }
    }
    let total = sum_column(sums, inv);
    if (inv.local < COLUMNS && k < params.N) {
        grad_log_pi[k] = total.x;
        grad_a[k] = total.y;
    }
}
