// With G = grad_log_W and F(q) = A(sqrt q)/sqrt q at q = |eta|^2:
//     grad_s = G F a,   grad_h2 = sum_k G F / 2,   grad_log_pi = sum_b G,
//     grad_a = sum_b G (F s + a (F - F(a^2))).
// The first B workgroups take a row each and write grad_s and grad_h2, the others COLUMNS columns
// each; both work F out for themselves, so that every sum has one owner and a fixed order.
//!include reduce
//!include mixture

fn row_part(row: u32, inv: Invocation) {
    let base = row * params.N;
    let h2 = load_h2(row);
    var partial = 0.0;
    for (var k = inv.local; k < params.N; k += WG) {
        let a = load_a(k);
        let q = tilted_square(a, load_s(base + k), h2);
        let product = load_grad_log_W(base + k) * tilt_slope(q, params.dimension).x;
        grad_s[base + k] = product * a;
        partial += product;
    }
    let total = reduce_sum(partial, inv);
    if (inv.local == 0u) { grad_h2[row] = 0.5 * total; }
}

fn column_part(tile: u32, inv: Invocation) {
    let k = tile * COLUMNS + inv.local % COLUMNS;
    var sums = vec2<f32>();
    if (k < params.N) {
        let a = load_a(k);
        for (var row = inv.local / COLUMNS; row < params.B; row += ROW_LANES) {
            let i = row * params.N + k;
            let s = load_s(i);
            let g = load_grad_log_W(i);
            let f = tilt_change(a, 2.0 * a * s + load_h2(row), params.dimension);
            sums += g * vec2<f32>(1.0, f.x * s + a * f.y);
        }
    }
    let total = sum_column(sums, inv);
    if (inv.local < COLUMNS && k < params.N) {
        grad_log_pi[k] = total.x;
        grad_a[k] = total.y;
    }
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
